"""CSRA's recipe: its fields, its learning-rate schedule, and a named recipe for each number of the paper's table."""

from __future__ import annotations

from fractions import Fraction
from math import inf
from typing import Any, Literal

from pydantic import field_validator

from attnbias.methods.engine.recipe import AugmentedRecipe, BackboneRecipe, NamedRecipe, again, option
from attnbias.methods.engine.scenes import CONVOLUTIONAL, NOTE, PLAIN_NOTE, TRANSFORMER
from attnbias.methods.engine.schedules import epoch_length, one_cycle, total_steps
from attnbias.methods.engine.types import Fields, Schedule

MAX = 99.0
"""The temperature that stands for infinity, as in the published program: the maximum over locations."""

TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1,),
    2: (1, MAX),
    4: (1, 2, 4, MAX),
    6: (1, 2, 3, 4, 5, MAX),
    8: (1, 2, 3, 4, 5, 6, 7, MAX),
}
"""Heads -> their temperatures: those of the published program, which knows no other numbers of heads."""


class _Counting(BackboneRecipe):
    """How the program counts; apart, so that the fields of a recipe keep the order that runs were written in."""

    unknown_in_f1: Literal["negative", "ignore"] = option(
        "ignore", "Unknown labels in precision, recall and F1; the program counts WIDER's as negative there.", "Data"
    )
    absent_in_f1: Literal["count", "ignore"] = option(
        "ignore",
        "Classes without a positive label in precision and F1; the program counts them, its sets have none.",
        "Data",
    )


class CSRARecipe(AugmentedRecipe, _Counting):
    """CSRA's fields. The defaults are those of ResNet-101 on MS-COCO."""

    drop_unlabelled: bool = again("drop_unlabelled", True)
    backbone: str = option(
        "resnet101", "Feature extractor: tiny, vit_b16, vit_l16, or a network of torchvision or timm, such as resnet50."
    )
    num_heads: Literal[1, 2, 4, 6, 8] = option(4, "Attention heads; decides their temperatures.")
    temperatures: tuple[float, ...] | None = option(
        None, "Temperatures of the heads, in place of the paper's for num_heads; 99 or inf is the maximum."
    )
    lam: float = option(0.5, "Weight of the attended score beside the average one; 0 is the plain counterpart.")
    normalized: bool = option(
        True, "Divide each class's weights by their length; False = the paper's ablation.", often=False
    )

    scheduler: Literal["step", "onecycle"] = option(
        "step", "step: linear warm-up, then decays by gamma (the paper); or one cosine up and down.", "Training"
    )
    head_lr_scale: float = option(10, "Learning rate of the heads over that of the backbone.", "Training", gt=0)
    warmup_epochs: int = option(
        2, "Epochs of linear warm-up from 0, step by step.", "Training", ge=0, beside={"scheduler": "step"}
    )
    decay_epochs: int = option(
        5, "Epochs between decays of the learning rate.", "Training", ge=1, beside={"scheduler": "step"}
    )
    gamma: float = option(0.1, "Factor of each decay.", "Training", gt=0, le=1, beside={"scheduler": "step"})

    @field_validator("temperatures", mode="before")
    @classmethod
    def _infinite(cls, values: object) -> object:
        return tuple(MAX if value == inf else value for value in values) if isinstance(values, tuple | list) else values

    @field_validator("temperatures")
    @classmethod
    def _ascending(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """Heads are exchangeable, so their order is settled here: the maximum comes last."""
        if values is None:
            return None
        if not values or min(values) <= 0:
            raise ValueError("expected positive numbers, such as 1,2,4,99")
        return tuple(sorted(values))

    @property
    def head_temperatures(self) -> tuple[float, ...]:
        """The temperatures in force, ascending."""
        return self.temperatures or TEMPERATURES[self.num_heads]


def step_decay(recipe: CSRARecipe, epoch: int | Fraction) -> Schedule:
    """The published program's warm-up and step decay, as a function of the step alone; `epoch` is its length in steps.

    The two interplay: a decay that falls into the warm-up holds for one step, then the warm-up overwrites it, and it
    is lost. A decay at the very end of the warm-up counts.
    """
    warmup = recipe.warmup_epochs * epoch
    # The program's formula; the first full rate is therefore a hair below the base rate.
    height = warmup / (warmup + 1e-8) if warmup else 1.0
    lost = max(0, (recipe.warmup_epochs - 1) // recipe.decay_epochs)

    def settings(step: int) -> dict[str, float]:
        finished, within = divmod(step, epoch)
        if step >= warmup:
            return {"lr": height * recipe.gamma ** (finished // recipe.decay_epochs - lost)}
        decayed = within < 1 and finished > 0 and finished % recipe.decay_epochs == 0
        return {"lr": step / (warmup + 1e-8) * (recipe.gamma if decayed else 1.0)}

    return settings


def schedule(recipe: CSRARecipe, steps_per_epoch: int) -> Schedule:
    """One cycle, or the program's warm-up and decays."""
    if recipe.scheduler == "onecycle":
        return one_cycle(total_steps(recipe, steps_per_epoch), pct_start=0.3)
    return step_decay(recipe, epoch_length(recipe, steps_per_epoch))


# Named recipes --------------------------------------------------------------------------------------------------------

TABLE = "README of the published program, table of results"
IMAGENET = "resnet101-v1"
CUTMIX = "resnet101-cutmix"
JX_BASE, JX_LARGE = "jx_vit_base_p16_224", "jx_vit_large_p16_224"
VIT_COCO = (
    "the published program cannot build a ViT at 448 pixels, and gives neither lam nor the normalisation: "
    "those here are its ViT defaults"
)

COCO: Fields = {}
VOC07: Fields = {"dataset": "voc07", "drop_unlabelled": False, "num_heads": 1, "lam": 0.1, "decay_epochs": 4}
WIDER: Fields = {
    "dataset": "wider",
    "drop_unlabelled": False,
    "unknown_in_f1": "negative",
    "image_size": 224,
    "normalize": "half",
    "resized_crop": False,
    "num_heads": 1,
    "lam": 0.3,
}
VIT_L_448: Fields = {"backbone": "vit_l16", "num_heads": 8, "lam": 0.3}

# The demonstration: the built-in set, for two CPU cores and a few minutes.
DEMO: Fields = {
    "drop_unlabelled": False,
    "image_size": 64,
    "flip": False,
    "resized_crop": False,
    "shift": 6,
    "epochs": 16,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 1e-2,
    "scheduler": "onecycle",
    "head_lr_scale": 1.0,
    "backbone": "tiny",
}

SCENES: Fields = {**DEMO, **CONVOLUTIONAL}
SCENES_VIT: Fields = {**DEMO, **TRANSFORMER, "backbone": "tiny_vit_conv"}
BASELINE: Fields = {
    "num_heads": 1,
    "lam": 0.0,
    "normalized": False,
    "head_lr_scale": 1.0,
    "decay_epochs": 15,
    "epochs": 40,
}
BASELINE_NOTE = (
    "one rate, decay every 15 epochs and about 40 epochs are what an author told (issue 17 of the program); "
    "that its classifier has no bias is ours"
)
PLAIN: Fields = {"lam": 0.0}
"""Average pooling: the mean of the heads' normalised scores."""


def _published(mAP: float, init: str, note: str = "", **fields: Any) -> NamedRecipe:
    return NamedRecipe(CSRARecipe(**fields, init=init), TABLE, {"mAP": mAP}, note)


RECIPES: dict[str, NamedRecipe] = {
    "coco-resnet101": _published(
        83.3, IMAGENET, "the README's heading says 4 heads where its printed command says 6", **COCO
    ),
    "coco-resnet101-baseline": NamedRecipe(
        CSRARecipe(**COCO, **BASELINE, init=IMAGENET), "the paper's baseline", {"mAP": 79.4}, BASELINE_NOTE
    ),
    "coco-resnetcut": _published(85.6, CUTMIX, **COCO, num_heads=6, lam=0.4),
    "coco-vitl": _published(86.5, JX_LARGE, VIT_COCO, **COCO, **VIT_L_448),
    "coco-vitl-v2": _published(86.9, JX_LARGE, f"second version, not described; {VIT_COCO}", **COCO, **VIT_L_448),
    "voc07-resnet101": _published(94.7, IMAGENET, **VOC07),
    "voc07-resnetcut": _published(95.2, CUTMIX, **VOC07),
    "voc07-resnetcut-extra": _published(96.8, CUTMIX, "trained with extra data, not described", **VOC07),
    "wider-vitb": _published(89.0, JX_BASE, **WIDER, backbone="vit_b16"),
    "wider-vitl": _published(90.2, JX_LARGE, **WIDER, backbone="vit_l16"),
    **{
        name: NamedRecipe(CSRARecipe(**DEMO, dataset=name), "ours", note="a CPU trial, not a result of the paper")
        for name in ("demo", "demo-single")
    },
    "demo-plain": NamedRecipe(
        CSRARecipe(**DEMO, **PLAIN, dataset="demo"), "ours", note="average pooling, else as demo"
    ),
    "scenes": NamedRecipe(CSRARecipe(**SCENES), "ours", note=NOTE),
    "scenes-plain": NamedRecipe(CSRARecipe(**SCENES, **PLAIN), "ours", note=PLAIN_NOTE),
    "scenes-vit": NamedRecipe(CSRARecipe(**SCENES_VIT), "ours", note=NOTE),
    "scenes-vit-plain": NamedRecipe(CSRARecipe(**SCENES_VIT, **PLAIN), "ours", note=PLAIN_NOTE),
}
