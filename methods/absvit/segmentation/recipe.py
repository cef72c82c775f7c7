"""AbSViT's segmentation recipe: its fields, its schedule, and the paper's named recipes. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from attnbias.methods.absvit.recipe import Architecture, in_whole_patches
from attnbias.methods.engine.recipe import NamedRecipe, Recipe, again, option
from attnbias.methods.engine.schedules import by_step, polynomial, total_steps, warm_up
from attnbias.methods.engine.types import Fields, Schedule

LARGEST_SIDE = 8192
"""Pixels of an image, a crop or a window."""
LARGEST_RATIO = 8
"""Of the sizes that images are seen at."""

Transfer = Literal["end2end", "linear", "prompt", "top-down"]


class SegmentationRecipe(Recipe):
    """Everything that decides a segmentation run. Defaults are the program's configuration for PASCAL VOC 2012."""

    dataset: str = again("dataset", "voc12seg")
    image_size: int = option(
        512,
        "Side of the square, in pixels, that the position embedding is kept for; images may have any size.",
        "Data",
        ge=16,
        le=4096,
    )
    normalize: Literal["imagenet"] = option(
        "imagenet", "Pixel normalisation: ImageNet's mean and standard deviation.", "Data"
    )
    scale: tuple[int, int] = option(
        (2048, 512), "Images are resized to fit into this, long side and short side, keeping their ratio.", "Data"
    )
    ratio: tuple[float, float] = option(
        (0.5, 2.0), "Range that a training image's scale is multiplied by.", "Training data"
    )
    crop: tuple[int, int] = option(
        (512, 512), "Height and width of a training crop, padded where too small.", "Training data"
    )
    cat_max_ratio: float = option(
        0.75,
        "A crop is drawn again, up to 10 times, where one class has this share of it.",
        "Training data",
        gt=0,
        le=1,
    )
    flip: float = option(0.5, "Probability of mirroring a training image.", "Training data", ge=0, le=1)
    photometric: bool = option(True, "Distort brightness, contrast, saturation and hue in training.", "Training data")

    steps: int | None = option(20000, "Optimiser steps of the run, instead of whole epochs.", "Training", ge=1)
    eval_steps: int | None = again("eval_steps", 2000)
    batch_size: int = option(
        16, "Global batch: over all processes and accumulation steps; at least 2 images a step.", "Training", ge=2
    )
    drop_last: bool = again("drop_last", True)
    optimizer: Literal["sgd", "adam", "adamw"] = again("optimizer", "adamw")
    lr: float = again("lr", 6e-5)
    weight_decay: float = option(
        0.01, "Weight decay; norms of the backbone, positions and class token have none.", "Training", ge=0
    )
    warmup_steps: int = option(1500, "Steps of linear warm-up, on top of the falling rate.", "Training", ge=0)
    warmup_ratio: float = option(1e-6, "Share of the rate that the warm-up starts from.", "Training", ge=0, le=1)
    power: float = option(1.0, "The rate falls as (1 - step / steps) to this power.", "Training", gt=0)
    min_lr: float = option(0.0, "Learning rate that the fall ends at.", "Training", ge=0)
    sync_bn: bool = option(True, "Synchronise batch normalisation over processes (GPUs only).", "Training")

    architecture: Architecture = option("base_patch16", "Size of the vision transformer.")
    top_down: bool = option(True, "The second, steered pass; False = the plain ViT of the same size.")
    transfer: Transfer = option(
        "end2end", "What is trained of the backbone: all, nothing, visual prompts, or decoders and AbSViT's prompt."
    )
    prompt_tokens: int = option(50, "Visual prompt tokens (transfer prompt).", ge=1, beside={"transfer": "prompt"})
    deep_prompts: bool = option(
        True, "Prompts of its own for every block (transfer prompt).", beside={"transfer": "prompt"}
    )
    prompt_dropout: float = option(
        0.0, "Dropout of visual prompts.", ge=0, lt=1, often=False, beside={"transfer": "prompt"}
    )
    drop_path: float = option(0.1, "Stochastic depth of the last block; linear over blocks.", ge=0, lt=1, often=False)
    dropout: float = option(
        0.0, "Dropout after position embedding, projections and MLP layers.", ge=0, lt=1, often=False
    )
    attention_dropout: float = option(0.0, "Dropout of attention weights.", ge=0, lt=1, often=False)
    channels: int = option(512, "Channels of UperNet's head.", ge=1, often=False)
    aux_channels: int = option(256, "Channels of the auxiliary head.", ge=1, often=False)
    pool_scales: tuple[int, ...] = option(
        (1, 2, 3, 6), "Sides of the grids that UperNet pools the last map to.", often=False
    )
    head_dropout: float = option(0.1, "Share of the channels dropped before the classifiers.", ge=0, lt=1, often=False)
    decode_weight: float = option(1.0, "Weight of the loss of UperNet's head.", ge=0)
    aux_weight: float = option(0.4, "Weight of the auxiliary head's loss.", ge=0)
    avg_non_ignore: bool = option(
        False,
        "Average the loss over labelled pixels; False = over all, unlabelled ones counting as 0 (the program's).",
        often=False,
    )

    mode: Literal["whole", "slide"] = option(
        "whole", "Evaluate the whole image at once, or windows that slide over it.", "Evaluation"
    )
    slide_crop: tuple[int, int] = option(
        (512, 512), "Height and width of a window (mode slide).", "Evaluation", beside={"mode": "slide"}
    )
    slide_stride: tuple[int, int] = option(
        (341, 341), "Steps down and across between windows.", "Evaluation", beside={"mode": "slide"}
    )
    aug_test: bool = option(
        False, "Average the probabilities of several sizes of an image and of their mirror images.", "Evaluation"
    )
    test_ratios: tuple[float, ...] = option(
        (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        "Sizes, as shares of `scale` (aug_test).",
        "Evaluation",
        beside={"aug_test": True},
    )

    @field_validator("architecture")
    @classmethod
    def _check_patches(cls, architecture: Architecture, info: ValidationInfo) -> Architecture:
        return in_whole_patches(architecture, info.data.get("image_size", 0))

    @field_validator("transfer")
    @classmethod
    def _check_decoders(cls, transfer: Transfer, info: ValidationInfo) -> Transfer:
        if transfer == "top-down" and not info.data.get("top_down", True):
            raise ValueError("a plain ViT (top_down off) has no top-down path to train")
        return transfer

    @field_validator("scale", "ratio", "crop", "pool_scales", "slide_crop", "slide_stride", "test_ratios")
    @classmethod
    def _check_positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 0:
            raise ValueError("must be numbers above 0")
        sides = all(isinstance(value, int) for value in values)
        if max(values) > (limit := LARGEST_SIDE if sides else LARGEST_RATIO):
            raise ValueError(f"expected at most {limit:,}{' pixels' if sides else ''}")
        return values

    @field_validator("slide_stride")
    @classmethod
    def _check_steps(cls, stride: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        crop = info.data.get("slide_crop", stride)
        if info.data.get("mode") == "slide" and (stride[0] > crop[0] or stride[1] > crop[1]):
            raise ValueError(
                f"windows of {crop[0]} x {crop[1]} (slide_crop) would leave pixels out; take smaller steps"
            )
        return stride


# Schedule -------------------------------------------------------------------------------------------------------------


def schedule(recipe: SegmentationRecipe, steps_per_epoch: int) -> Schedule:
    """A polynomial fall to `min_lr`, which the warm-up multiplies while it falls already."""
    fall = polynomial(total_steps(recipe, steps_per_epoch), recipe.power, recipe.min_lr / recipe.lr)
    return by_step(warm_up(fall, recipe.warmup_steps, start=recipe.warmup_ratio, how="multiplies"))


# Named recipes --------------------------------------------------------------------------------------------------------

SOURCE = "configuration of the authors' program for MMSegmentation; 8 processes x 2 images"
DATASETS: dict[str, Fields] = {
    "voc12seg": {"steps": 20000, "eval_steps": 2000},
    "cityscapes": {"steps": 40000, "eval_steps": 4000, "scale": (2048, 1024), "crop": (512, 1024)},
    "ade20k": {"steps": 160000, "eval_steps": 16000},
}
NOTES = {
    "voc12seg": "the 1464 images of the challenge's train list; the configuration says 8 images a process",
    "cityscapes": "crops are 512 x 1024, whatever the file's name says; the configuration says 8 images a process",
    "ade20k": "2 images a process are the README's; the configuration says 8",
}
MINI: Fields = {
    "image_size": 64,
    "scale": (256, 64),
    "ratio": (0.75, 1.5),
    "crop": (64, 64),
    "steps": 300,
    "eval_steps": 100,
    "batch_size": 8,
    "lr": 3e-3,
    "warmup_steps": 20,
    "sync_bn": False,
    "architecture": "mini_patch8",
    "drop_path": 0.0,
    "channels": 32,
    "aux_channels": 16,
    "slide_crop": (64, 64),
    "slide_stride": (43, 43),
}


def _published(dataset: str, top_down: bool, miou: float) -> NamedRecipe:
    init = "absvit-base" if top_down else "vit-base"
    recipe = SegmentationRecipe(dataset=dataset, top_down=top_down, init=init, **DATASETS[dataset])
    return NamedRecipe(recipe, SOURCE, {"mIoU": miou}, NOTES[dataset])


def _mini(top_down: bool) -> NamedRecipe:
    recipe = SegmentationRecipe(top_down=top_down, **MINI)
    return NamedRecipe(recipe, "ours", note="four blocks on small images, for a CPU; give it a --dataset")


RECIPES: dict[str, NamedRecipe] = {
    "absvit-base-voc": _published("voc12seg", True, 81.3),
    "vit-base-voc": _published("voc12seg", False, 80.1),
    "absvit-base-cityscapes": _published("cityscapes", True, 76.8),
    "vit-base-cityscapes": _published("cityscapes", False, 75.3),
    "absvit-base-ade20k": _published("ade20k", True, 47.2),
    "vit-base-ade20k": _published("ade20k", False, 45.2),
    "mini": _mini(True),
    "mini-vit": _mini(False),
}
