"""LSAS's recipe: its fields, the depth rules of its networks, its schedule, and the paper's named recipes. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from attnbias.methods.engine.recipe import NamedRecipe, Recipe, again, option
from attnbias.methods.engine.scenes import CONVOLUTIONAL, NOTE
from attnbias.methods.engine.schedules import (
    by_epoch,
    cosine,
    epoch_length,
    multi_step,
    one_cycle,
    total_steps,
    warm_up,
)
from attnbias.methods.engine.types import Fields, Schedule

Network = Literal["cifar", "small", "imagenet"]
Block = Literal["bottleneck", "basic"]
AttentionNetwork = Literal["se", "cbam", "eca", "srm", "none"]
NoDecay = Literal["bias", "bn", "fc", "conv", "sub_attention"]

IMAGENET_BLOCKS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def residual_blocks(network: Network, depth: int, block: Block) -> tuple[Block, tuple[int, ...]]:
    """Return the kind of block and the number of blocks of each stage.

    An ImageNet network's depth decides both; a CIFAR network of bottleneck blocks has depth 9n + 2, of basic blocks
    6n + 2, with n blocks in each of three stages.

    Raises:
        ValueError: no such depth; the message names the valid ones near it.
    """
    if network == "imagenet":
        if depth not in IMAGENET_BLOCKS:
            raise ValueError(f"an ImageNet ResNet has depth {', '.join(map(str, IMAGENET_BLOCKS))}")
        return IMAGENET_BLOCKS[depth]
    layers = 9 if block == "bottleneck" else 6
    blocks, rest = divmod(depth - 2, layers)
    if rest or blocks < 1:
        lower = max(blocks, 1)
        raise ValueError(
            f"a {network} ResNet of {block} blocks has depth {layers}n + 2: "
            f"{layers * lower + 2} and {layers * (lower + 1) + 2} are the nearest"
        )
    return block, (blocks,) * 3


class LSASRecipe(Recipe):
    """Everything that decides an LSAS run. Defaults are the README's: LSAS on SENet-164, CIFAR-10."""

    dataset: str = again("dataset", "cifar10")
    image_size: int = option(32, "Height and width of a training crop, in pixels.", "Data", ge=16, le=4096)
    normalize: Literal["unit", "half", "imagenet", "cifar"] = again("normalize", "cifar")
    pipeline: Literal["native", "square", "imagenet"] = option(
        "native",
        "native = padded random crop, evaluation on whole images as they are; square = the same after resizing to "
        "image_size; imagenet = random resized crop, evaluation on the centre of a 256/224 larger image.",
        "Data",
    )
    padding: int = option(
        4,
        "Black border around an image before its random crop (native, square).",
        "Training data",
        ge=0,
        beside={"pipeline": ("native", "square")},
    )
    flip: bool = option(True, "Mirror every second training image.", "Training data")
    mixup: float | None = option(None, "Mixup: alpha of the Beta distribution.", "Training data", gt=0)
    cutmix: float | None = option(
        None, "CutMix: alpha of the Beta distribution; goes before mixup.", "Training data", gt=0
    )
    cutmix_probability: float = option(
        1.0,
        "Share of the batches that CutMix cuts; the program has the option and cuts every batch.",
        "Training data",
        ge=0,
        le=1,
    )
    cutout: int | None = option(
        None, "Cutout: side of one square a batch, in pixels; only without the two.", "Training data", ge=1
    )
    epochs: int = again("epochs", 164)
    batch_size: int = again("batch_size", 128)
    lr: float = again("lr", 0.1)
    scheduler: Literal["step", "cosine", "onecycle"] = option(
        "step", "Learning rate: step and cosine move once an epoch, onecycle at every step.", "Training"
    )
    milestones: tuple[int, ...] = option(
        (81, 122), "Epochs (from 0) that multiply the rate by gamma.", "Training", beside={"scheduler": "step"}
    )
    gamma: float = option(0.1, "Factor of a milestone.", "Training", gt=0, beside={"scheduler": "step"})
    warmup_epochs: int = option(
        0,
        "Epochs of linear warm-up; milestones inside it are lost.",
        "Training",
        ge=0,
        beside={"scheduler": ("step", "cosine")},
    )
    label_smoothing: float = option(
        0.0, "Mass moved from the true class to the others, shared evenly (single-label tasks).", "Training", ge=0, lt=1
    )
    no_decay: tuple[NoDecay, ...] = option(
        (), "Parameters without weight decay: bias, bn, fc, conv (the program's rules), sub_attention.", "Training"
    )

    network: Network = option(
        "cifar", "cifar: three stages, stride 4; small: the same, stride 8, for CPUs; imagenet: four stages, stride 32."
    )
    block: Block = option("bottleneck", "Residual block of a cifar or small network; imagenet's depth decides its own.")
    depth: int = option(164, "Layers: 9n+2 (bottleneck), 6n+2 (basic); imagenet 18, 34, 50, 101 or 152.", le=2000)
    attention: AttentionNetwork = option("se", "Attention network that gives the logits; none is a plain ResNet.")
    order: int = option(1, "Sub-attentions in the chain; 0 is the attention network itself.", ge=0, le=64)
    stages: tuple[int, ...] = option((3,), "Stages whose blocks have attention, from 1.")
    reduction: int = option(16, "Squeeze of se and cbam: channels over hidden units.", ge=1)
    zero_init_residual: bool = option(
        False, "Start every residual branch at zero (last BatchNorm's weight).", often=False
    )

    @field_validator("depth")
    @classmethod
    def _check_depth(cls, depth: int, info: ValidationInfo) -> int:
        if {"network", "block"} <= info.data.keys():  # else these have an error of their own
            residual_blocks(info.data["network"], depth, info.data["block"])
        return depth

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, stages: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        network = info.data.get("network")
        last = 4 if network == "imagenet" else 3
        if not set(stages) <= set(range(1, last + 1)) or len(set(stages)) != len(stages):
            raise ValueError(f"expected different stages from 1 to {last} of the {network} network")
        return stages


# Schedule -------------------------------------------------------------------------------------------------------------


def schedule(recipe: LSASRecipe, steps_per_epoch: int) -> Schedule:
    """One cycle by step, or the programs' rates by epoch: a warm-up over the beginning of a cosine, or of steps.

    A function of the epoch, so that a resumed run has the same rates as an unbroken one; the programs multiply a
    running value that restarts at the base rate on resuming.
    """
    if recipe.scheduler == "onecycle":
        return one_cycle(total_steps(recipe, steps_per_epoch), pct_start=0.3)
    kept = sorted({milestone for milestone in recipe.milestones if milestone >= recipe.warmup_epochs})
    decay = cosine(recipe.epochs) if recipe.scheduler == "cosine" else multi_step(kept, recipe.gamma)
    return by_epoch(warm_up(decay, recipe.warmup_epochs, ahead=1), epoch_length(recipe, steps_per_epoch))


def imagenet_lr(batch_size: int) -> float:
    """The ImageNet program's base rate: 0.1 for each 256 images of the global batch (its --lr is overwritten)."""
    return 0.1 * batch_size / 256


# Named recipes --------------------------------------------------------------------------------------------------------

README = "README of the published program"
OURS = "ours: a small run on the built-in set"
SENET: Fields = {"order": 0, "stages": (1, 2, 3)}
ORDER_0: Fields = {"order": 0}
PLAIN: Fields = {**ORDER_0, "attention": "none"}
STL10: Fields = {"dataset": "stl10", "batch_size": 16, "drop_last": True}
IMAGENET: Fields = {
    "dataset": "imagenet",
    "image_size": 224,
    "normalize": "imagenet",
    "pipeline": "imagenet",
    "epochs": 100,
    "batch_size": 256,  # 8 GPUs x 32
    "drop_last": True,  # the program stops at the first batch that is not full
    "lr": imagenet_lr(256),
    "milestones": (30, 60, 90),
    "network": "imagenet",
    "depth": 50,
    "stages": (3, 4),
}
DEMO: Fields = {
    "image_size": 64,
    "pipeline": "square",
    "padding": 6,
    "normalize": "half",
    "network": "small",
    "block": "basic",
    "depth": 8,
    "flip": False,
    "epochs": 16,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 1e-2,
    "scheduler": "onecycle",
}
SCENES: Fields = {**DEMO, **CONVOLUTIONAL}

STL10_ORIGINAL_NOTE = (
    "as the program trains it: 32-pixel crops of 96-pixel images, then tested on whole ones; whether the published "
    "figure comes from this setting is not known"
)
TEST_SET_NOTE = "the program picks its best epoch on the test set"
ORDER_0_NOTE = "the honest ablation: attention in the same blocks as LSAS, without sub-attention"


def _named(source: str, note: str = "", top1: float | None = None, **fields: Any) -> NamedRecipe:
    return NamedRecipe(LSASRecipe(**fields), source, {} if top1 is None else {"top1": top1}, note)


RECIPES: dict[str, NamedRecipe] = {
    "cifar10": _named(README, TEST_SET_NOTE, 95.01),
    "cifar10-senet": _named(README, TEST_SET_NOTE, 94.57, **SENET),
    "cifar10-order0": _named(OURS, ORDER_0_NOTE, order=0),
    "cifar100": _named(README, TEST_SET_NOTE, 76.47, dataset="cifar100"),
    "cifar100-senet": _named(README, TEST_SET_NOTE, 75.30, dataset="cifar100", **SENET),
    "stl10-original": _named(README, STL10_ORIGINAL_NOTE, 85.71, **STL10),
    "stl10-original-senet": _named(README, STL10_ORIGINAL_NOTE, 83.81, **STL10, **SENET),
    "stl10-fixed": _named(OURS, "trains on 96-pixel crops", **STL10, image_size=96, padding=12),
    "stl10-fixed-senet": _named(OURS, "trains on 96-pixel crops", **STL10, **SENET, image_size=96, padding=12),
    "imagenet": _named(README, "the published command itself crashes", 77.28, **IMAGENET),
    "imagenet-senet": _named(README, "", 76.63, **{**IMAGENET, "order": 0, "stages": (1, 2, 3, 4)}),
    "imagenet-order0": _named(OURS, ORDER_0_NOTE, **{**IMAGENET, "order": 0}),
    "imagenet-defaults": _named(
        "options of the published program",
        "what its script does without options",
        **{**IMAGENET, "warmup_epochs": 5, "label_smoothing": 0.1, "no_decay": ("bias",), "depth": 18},
    ),
    "demo-single": _named(OURS, **DEMO, dataset="demo-single"),
    "demo-single-senet": _named(OURS, **DEMO, **SENET, dataset="demo-single"),
    "demo": _named(OURS, **DEMO, dataset="demo"),
    "demo-senet": _named(OURS, **DEMO, **SENET, dataset="demo"),
    "demo-order0": _named(OURS, ORDER_0_NOTE, **DEMO, **ORDER_0, dataset="demo"),
    "demo-plain": _named(OURS, "no attention, else as demo-order0", **DEMO, **PLAIN, dataset="demo"),
    "scenes": _named(OURS, NOTE, **SCENES),
    "scenes-order0": _named(OURS, f"{NOTE}; {ORDER_0_NOTE}", **SCENES, **ORDER_0),
    "scenes-plain": _named(OURS, f"{NOTE}; no attention, else as scenes-order0", **SCENES, **PLAIN),
}
