"""LLB's recipe: its fields, the sizes of its backbones, its schedule, and the paper's named recipes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import model_validator

from attnbias.methods.engine.recipe import OWN, NamedRecipe, Precision, Recipe, again, option
from attnbias.methods.engine.scenes import NOTE, TRANSFORMER
from attnbias.methods.engine.schedules import (
    Curve,
    by_epoch,
    cosine,
    epoch_length,
    exponential,
    multi_step,
    one_cycle,
    oscillating,
    step,
    total_steps,
)
from attnbias.methods.engine.types import Fields, Schedule

Family = Literal["augreg", "mae", "swag"]
Size = Literal["demo", "mini", "tiny", "small", "base", "large"]
SchedulerName = Literal["oscillating", "cosine", "step", "multistep", "exponential", "onecycle"]


@dataclass(frozen=True)
class ViTSize:
    """The shape of a vision transformer."""

    patch: int
    dim: int
    depth: int
    heads: int


SIZES: dict[Size, ViTSize] = {
    "demo": ViTSize(patch=8, dim=128, depth=4, heads=2),
    "mini": ViTSize(patch=8, dim=128, depth=4, heads=4),
    "tiny": ViTSize(patch=16, dim=192, depth=12, heads=3),
    "small": ViTSize(patch=16, dim=384, depth=12, heads=6),
    "base": ViTSize(patch=16, dim=768, depth=12, heads=12),
    "large": ViTSize(patch=16, dim=1024, depth=24, heads=16),
}


class LLBRecipe(Recipe):
    """Everything that decides an LLB run. Defaults are the README's: augreg ViT-B/16, frozen, on ImageNet."""

    dataset: str = again("dataset", "imagenet")
    image_size: int = again("image_size", 224)
    crop_ratio: float | None = option(
        0.875,
        "Centre crop over resized side: 0.875 resizes to 256 for 224; none squeezes the whole image.",
        "Data",
        gt=0,
        le=1,
    )
    interpolation: Literal["bilinear", "bicubic"] | None = option(
        None, "Filter of every resize; none is the program's: bilinear in training, bicubic in evaluation.", "Data"
    )
    squash: bool = option(False, "Evaluation resizes both sides, as the program does on Places365.", "Data")
    normalize: Literal["unit", "half", "imagenet", "cifar", "clip"] = again("normalize", "half")
    randaugment_ops: int = option(
        3, "RandAugment operations on a training image; 0 leaves it out.", "Training data", ge=0
    )
    randaugment_magnitude: int = option(9, "RandAugment magnitude, of 31 bins.", "Training data", ge=0, le=30)
    shift: int = option(0, "Shift training images by up to this many pixels (ours).", "Training data", ge=0)
    epochs: int = again("epochs", 70)
    batch_size: int = again("batch_size", 512)
    drop_last: bool = again("drop_last", True)
    optimizer: Literal["sgd", "adam", "adamw"] = again("optimizer", "adam")
    lr: float = again("lr", 1e-4)
    scheduler: SchedulerName = option(
        "oscillating",
        "Learning rate by epoch: oscillating = the README's cosine, down and up again every 2 x t_max; cosine = down "
        "once; step, multistep and exponential multiply by gamma; onecycle = one cosine up and down, step by step.",
        "Training",
    )
    t_max: int = option(
        10,
        "Epochs from the highest to the lowest rate of the oscillating cosine.",
        "Training",
        ge=1,
        beside={"scheduler": "oscillating"},
    )
    min_lr: float = option(
        5e-5, "Lowest rate of both cosines.", "Training", ge=0, beside={"scheduler": ("oscillating", "cosine")}
    )
    decay_epochs: int = option(
        100, "Epochs between two decays (scheduler step).", "Training", ge=1, beside={"scheduler": "step"}
    )
    milestones: tuple[int, ...] = option(
        (10, 30, 50), "Epochs of the decays (scheduler multistep).", "Training", beside={"scheduler": "multistep"}
    )
    gamma: float = option(
        0.1, "Factor of a decay.", "Training", gt=0, beside={"scheduler": ("step", "multistep", "exponential")}
    )
    amp: Precision = again("amp", "fp16")
    seed: int = again("seed", 123)

    family: Family = option("augreg", "Backbone weights: augreg (timm, supervised), mae or swag (weakly supervised).")
    size: Size = option(
        "base", "Backbone size: ViT-B/16 or L/16 as published; small and tiny (/16), demo and mini (/8) for CPUs."
    )
    stem: Literal["patches", "convolutions"] = option(
        "patches",
        "How an image is taken in: by its patches, or by strided convolutions (ours, for small networks).",
        often=False,
    )
    backbone: str | None = option(
        None,
        "A vision transformer of timm by name, such as vit_small_patch14_reg4_dinov2, in place of family and size.",
    )
    objects: int = option(2048, "Latent objects.", ge=1)
    num_nv_layers: int = option(
        6,
        "Blocks of the label-focused branch, the quantising one included; with one it never sees the image.",
        ge=2,
        le=256,
        often=False,
    )
    target_layer: int | None = option(
        None, "Backbone block, from 1, whose output the branch reads (default: the last but one).", ge=1, often=False
    )
    temperature: float = option(0.1, "Temperature of the soft assignment of patches to objects.", gt=0)
    alpha: float = option(0.8, "Weight of the visual prediction in the mixture; 1 is the backbone alone.", ge=0, le=1)
    diversity_weight: float = option(0.5, "Weight of the entropy of object usage in the loss (lambda).", ge=0)
    freeze: bool = option(True, "Train the branch only; otherwise also the backbone up to target_layer.")
    visual_weight: float = option(
        0.0,
        "Weight of the visual head's own loss: 0 is the paper. Above, the head trains on a frozen backbone, which may "
        "come without one; with no-freeze the whole backbone does.",
        ge=0,
        often=False,
    )
    legacy_swag_axis: bool = option(
        False,
        "Quantise the SWAG family along the batch, as the program does: results depend on the batch.",
        often=False,
    )
    legacy_freeze: bool = option(
        False,
        "Freeze by the letters 'nv' in names, as the program does: SWAG's patch embedding (conv_proj) trains.",
        often=False,
    )
    legacy_mae_weight: bool = option(
        False, "Weigh the MAE family's diversity by alpha, as the program does.", often=False
    )

    @property
    def vit(self) -> ViTSize:
        """The backbone's shape."""
        return SIZES[self.size]

    @property
    def entropy_weight(self) -> float:
        """The diversity weight in force."""
        return self.alpha if self.legacy_mae_weight else self.diversity_weight

    @model_validator(mode="after")
    def _check(self) -> LLBRecipe:
        if self.backbone is None:
            if (self.target_layer or 0) > self.vit.depth:
                raise ValueError(
                    f"target_layer is {self.target_layer}, but ViT size {self.size} has {self.vit.depth} blocks"
                )
            if self.image_size % self.vit.patch:
                raise ValueError(f"image_size is {self.image_size}, not a multiple of the patch size {self.vit.patch}")
        families = {"legacy_swag_axis": "swag", "legacy_freeze": "swag", "legacy_mae_weight": "mae"}
        for name, family in families.items():
            given = self.family if self.backbone is None else f"that of {self.backbone}"
            if getattr(self, name) and given != family:
                raise ValueError(f"{name} is for family {family} only, and the family is {given}")
        if self.legacy_freeze and not self.freeze:
            raise ValueError("legacy_freeze says how to freeze, and freeze is off")
        return self


# Schedule -------------------------------------------------------------------------------------------------------------


def schedule(recipe: LLBRecipe, steps_per_epoch: int) -> Schedule:
    """The rate changes once an epoch, as in the program; or one cycle, step by step."""
    if recipe.scheduler == "onecycle":
        return one_cycle(total_steps(recipe, steps_per_epoch), pct_start=0.3)
    low = recipe.min_lr / recipe.lr
    curves: dict[str, Curve] = {
        "oscillating": oscillating(recipe.t_max, low),
        "cosine": cosine(recipe.epochs, low),
        "step": step(recipe.decay_epochs, recipe.gamma),
        "multistep": multi_step(recipe.milestones, recipe.gamma),
        "exponential": exponential(recipe.gamma),
    }
    return by_epoch(curves[recipe.scheduler], epoch_length(recipe, steps_per_epoch))


# Named recipes --------------------------------------------------------------------------------------------------------

# The README gives one command (augreg B on ImageNet); the program's tables give the rest. Published accuracies of
# the frozen backbones themselves: what alpha = 1 must give on ImageNet.
README = "README of the published program"
PROGRAM = "options of the published program"
BACKBONES = {("mae", "base"): 83.664, ("mae", "large"): 85.952, ("swag", "base"): 85.29, ("swag", "large"): 88.07}
INIT: dict[tuple[str, str], str] = {
    ("augreg", "base"): "vit_base_patch16_224.augreg_in21k_ft_in1k",
    ("augreg", "large"): "vit_large_patch16_224.augreg_in21k_ft_in1k",
    ("mae", "base"): "mae_finetuned_vit_base",
    ("mae", "large"): "mae_finetuned_vit_large",
    ("swag", "base"): "swag_vit_b16_in1k",
    ("swag", "large"): "swag_vit_l16_in1k",
}
"""The frozen backbones, fine-tuned on ImageNet with their heads."""
DATASETS = {"imagenet": "imagenet", "places365": "places", "inat2018": "inat"}


def _recipe(dataset: str, family: Family, size: Size) -> NamedRecipe:
    fields: Fields = {"dataset": dataset, "family": family, "size": size}
    fields["init"] = INIT[family, size] if dataset == "imagenet" else OWN
    notes = []
    if family == "swag":
        # The program feeds 384 pixels to SWAG L and stops at its size check; the weights ask for 512.
        fields |= {"image_size": 384 if size == "base" else 512, "crop_ratio": 1.0}
    if family != "augreg":
        fields["normalize"] = "imagenet"
    elif dataset != "imagenet":
        notes.append(
            "the program normalises augreg by ImageNet's statistics here, against its weights (normalize=half)"
        )
    if dataset == "places365" and family != "swag":
        fields["squash"] = True
    if dataset != "imagenet":
        notes.append("needs a backbone fine-tuned on this set; none is published")
    elif (backbone := BACKBONES.get((family, size))) is not None:
        notes.append(f"the backbone alone (alpha = 1) reaches {backbone} top-1")
    if size == "large":
        notes.append("target_layer 23 of 24 is our reading: the README names 11 of 12 for base only")
    headline = (dataset, family, size) == ("imagenet", "augreg", "base")
    if headline:
        notes.append("86.5 is a figure that reviewers quote; the program publishes no table and no weights")
    return NamedRecipe(
        recipe=LLBRecipe(**fields),
        source=README if headline else PROGRAM,
        paper={"top1": 86.5} if headline else {},
        note="; ".join(notes),
    )


# Demonstrations: a tiny ViT learns on the built-in set together with its branch (nothing pretrained to freeze).
DEMO: Fields = {
    "image_size": 64,
    "crop_ratio": 1.0,
    "size": "demo",
    "freeze": False,
    "visual_weight": 1.0,
    "objects": 64,
    "num_nv_layers": 3,
    "randaugment_ops": 0,
    "epochs": 10,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "scheduler": "cosine",
    "min_lr": 0.0,
    "amp": "no",
}

SCENES: Fields = {**DEMO, **TRANSFORMER, "family": "mae", "size": "mini", "stem": "convolutions", "shift": 6}

RECIPES: dict[str, NamedRecipe] = (
    {
        f"{short}-{family}-{size}": _recipe(dataset, family, size)
        for dataset, short in DATASETS.items()
        for family in ("augreg", "mae", "swag")
        for size in ("base", "large")
    }
    | {
        name: NamedRecipe(LLBRecipe(**DEMO, dataset=name), "ours", note="a CPU trial, not a result of the paper")
        for name in ("demo", "demo-single")
    }
    | {
        "scenes": NamedRecipe(
            LLBRecipe(**SCENES), "ours", note=f"{NOTE}; its plain counterpart is absvit's scenes-plain"
        )
    }
)
