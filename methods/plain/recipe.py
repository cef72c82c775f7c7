"""The plain classifier's recipe: its fields, its schedule, and the named recipes. No torch."""

from __future__ import annotations

from typing import Any, Literal

from attnbias.methods.engine.recipe import AugmentedRecipe, NamedRecipe, again, option
from attnbias.methods.engine.schedules import by_step, cosine, epoch_length, one_cycle, total_steps, warm_up
from attnbias.methods.engine.types import Fields, Schedule


class PlainRecipe(AugmentedRecipe):
    """A plain classifier's fields. The defaults fine-tune torchvision's ResNet-50 on ImageNet-like images."""

    dataset: str = again("dataset", "imagenet")
    image_size: int = again("image_size", 224)
    normalize: Literal["unit", "half", "imagenet", "cifar", "clip"] = again("normalize", "imagenet")
    backbone: str = option(
        "resnet50", "The network: tiny, tiny_vit, or one of torchvision or timm, such as convnext_tiny.fb_in22k."
    )
    layer: str | None = option(
        None, "Layer that Grad-CAM and its kin explain, by its name in the network; none: found by its shapes."
    )
    scheduler: Literal["cosine", "onecycle"] = option(
        "cosine", "cosine: linear warm-up, then half a cosine to 0; or one cosine up and down.", "Training"
    )
    warmup_epochs: int = option(
        1, "Epochs of linear warm-up from 0, step by step.", "Training", ge=0, beside={"scheduler": "cosine"}
    )
    head_lr_scale: float = option(1, "Learning rate of the head over that of the rest.", "Training", gt=0)
    epochs: int = again("epochs", 10)
    batch_size: int = again("batch_size", 64)
    optimizer: Literal["sgd", "adam", "adamw"] = again("optimizer", "adamw")
    lr: float = option(1e-4, "Highest learning rate; never scaled by the number of processes.", "Training", gt=0)
    weight_decay: float = again("weight_decay", 0.05)


def schedule(recipe: PlainRecipe, steps_per_epoch: int) -> Schedule:
    """One cycle, or a warm-up and half a cosine."""
    steps = total_steps(recipe, steps_per_epoch)
    if recipe.scheduler == "onecycle":
        return one_cycle(steps, pct_start=0.3)
    warmup = float(recipe.warmup_epochs * epoch_length(recipe, steps_per_epoch))
    return by_step(warm_up(cosine(steps), warmup, ahead=1))


# Named recipes --------------------------------------------------------------------------------------------------------

# The demonstration: CSRA's, with the head of the network in place of CSRA's.
DEMO: Fields = {
    "drop_unlabelled": False,
    "image_size": 64,
    "normalize": "unit",
    "flip": False,
    "resized_crop": False,
    "shift": 6,
    "epochs": 16,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 1e-2,
    "scheduler": "onecycle",
    "backbone": "tiny",
}


def _ours(note: str, **fields: Any) -> NamedRecipe:
    return NamedRecipe(PlainRecipe(**fields), "ours", note=note)


RECIPES: dict[str, NamedRecipe] = {
    "imagenet": NamedRecipe(
        PlainRecipe(crop_ratio=224 / 256, init="resnet50-v1"),
        "torchvision's page of weights",
        {"top1": 76.13},
        "the figure is that of the published weights; to measure it: val --load-from torchvision:resnet50",
    ),
    "coco": _ours("CSRA's images", dataset="coco", image_size=448, normalize="unit", drop_unlabelled=True),
    "voc07": _ours("CSRA's images", dataset="voc07", image_size=448, normalize="unit"),
    **{name: _ours("a CPU trial", **DEMO, dataset=name) for name in ("demo", "demo-single")},
}
