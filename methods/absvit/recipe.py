"""AbSViT's recipe: its fields, the sizes of its networks, its schedule, and the paper's named recipes. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from attnbias.methods.engine.recipe import NamedRecipe, Recipe, again, option
from attnbias.methods.engine.scenes import NOTE, PLAIN_NOTE, TRANSFORMER
from attnbias.methods.engine.schedules import (
    Curve,
    by_epoch,
    by_step,
    cosine,
    epoch_length,
    one_cycle,
    step,
    total_steps,
    warm_up,
)
from attnbias.methods.engine.types import Fields, Schedule

Architecture = Literal[
    "tiny_patch16", "small_patch16", "base_patch16", "tiny_patch8_gap", "mini_patch8", "mini_patch8_token"
]

ARCHITECTURES: dict[str, Fields] = {
    "tiny_patch16": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "global_pool": "token"},
    "small_patch16": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "global_pool": "token"},
    "base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "global_pool": "token"},
    "tiny_patch8_gap": {"patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3, "global_pool": "avg"},
    "mini_patch8": {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "global_pool": "avg"},
    "mini_patch8_token": {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "global_pool": "token"},
}
"""Options of timm's VisionTransformer. `mini` is ours, for small images on a CPU; the others are the program's."""


def in_whole_patches(architecture: Architecture, image_size: int) -> Architecture:
    """The architecture, whose patches divide the image.

    Raises:
        ValueError: they do not.
    """
    patch = ARCHITECTURES[architecture]["patch_size"]
    if image_size % patch:
        raise ValueError(f"image_size {image_size} is not a multiple of its patch size, {patch}")
    return architecture


class AbSViTRecipe(Recipe):
    """Everything that decides an AbSViT run. Defaults are the README's training command: 8 processes x 128 images."""

    dataset: str = again("dataset", "imagenet")
    image_size: int = again("image_size", 224)
    normalize: Literal["unit", "half", "imagenet", "cifar", "clip"] = again("normalize", "imagenet")
    pipeline: Literal["deit", "shift"] = option(
        "deit",
        "deit = random resized crop, flip, RandAugment, erasing; evaluation on the centre of a larger image. "
        "shift = the whole image squeezed, moved by up to `shift` pixels in training.",
        "Data",
    )
    shift: int = option(
        6,
        "Largest move of a training image, in pixels (pipeline shift).",
        "Training data",
        ge=0,
        beside={"pipeline": "shift"},
    )
    interpolation: Literal["bilinear", "bicubic"] = option(
        "bicubic", "Filter of every resize (pipeline deit).", "Data", beside={"pipeline": "deit"}
    )
    crop_ratio: float | None = option(
        0.875,
        "Centre crop over resized short side in evaluation (pipeline deit); none squeezes the whole image.",
        "Data",
        gt=0,
        le=1,
        beside={"pipeline": "deit", "resize": "crop"},
    )
    resize: Literal["crop", "squeeze"] = option(
        "crop",
        "Evaluation (pipeline deit): the centre of a larger image, or the whole image squeezed as the program's demo "
        "does it: bicubic without antialiasing, after normalisation.",
        "Data",
        beside={"pipeline": "deit"},
    )
    flip: float = option(0.5, "Probability of mirroring a training image (pipeline deit).", "Training data", ge=0, le=1)
    crop_area: float = option(
        0.08, "Smallest share of the image that a random crop keeps.", "Training data", gt=0, le=1
    )
    rand_augment: str | None = option("rand-m9-mstd0.5-inc1", "RandAugment policy in timm's notation.", "Training data")
    color_jitter: float = option(
        0.4,
        "Jitter of brightness, contrast and saturation; only where rand_augment is none.",
        "Training data",
        ge=0,
        le=1,
    )
    random_erasing: float = option(0.25, "Probability of erasing boxes.", "Training data", ge=0, le=1)
    erasing_mode: Literal["pixel", "rand", "const"] = option(
        "pixel", "What erased boxes hold: noise of each pixel, one random colour, or black.", "Training data"
    )
    erasing_count: int = option(1, "Most boxes that are erased in an image.", "Training data", ge=1, le=100)
    mixup: float = option(0.8, "Mixup: alpha of the Beta distribution; 0 = off.", "Training data", ge=0)
    cutmix: float = option(1.0, "CutMix: alpha of the Beta distribution; 0 = off.", "Training data", ge=0)
    cutmix_range: tuple[float, float] | None = option(
        None, "Least and largest side of a CutMix box over the image's, in place of the Beta draw.", "Training data"
    )
    mixup_probability: float = option(1.0, "Share of the batches that are mixed.", "Training data", ge=0, le=1)
    switch_probability: float = option(0.5, "Share of CutMix where both are on.", "Training data", ge=0, le=1)
    mixup_mode: Literal["batch", "pair", "elem"] = option(
        "batch", "What one draw mixes: a batch, a pair of images (even batches), or each image.", "Training data"
    )
    label_smoothing: float = option(0.1, "Label smoothing, of mixed targets too.", "Training data", ge=0, lt=1)
    repeats: int = option(
        3,
        "Repeated augmentation: views of an image in an epoch, of a third of them; 1 = off.",
        "Training data",
        ge=1,
        le=1000,
    )

    epochs: int = again("epochs", 300)
    batch_size: int = again("batch_size", 1024)
    drop_last: bool = again("drop_last", True)
    optimizer: Literal["sgd", "adam", "adamw"] = again("optimizer", "adamw")
    betas: tuple[float, float] = option((0.9, 0.999), "Betas of adam and adamw.", "Training")
    eps: float = option(1e-8, "Epsilon of adam and adamw.", "Training", gt=0)
    lr: float = option(1e-3, "Base learning rate; the program's 5e-4 x batch / 512.", "Training", gt=0)
    weight_decay: float = option(0.05, "Weight decay; vectors, position and class token have none.", "Training")
    scheduler: Literal["cosine", "step", "smooth", "onecycle"] = option(
        "cosine",
        "cosine and step = the program's, one rate an epoch, one epoch late; smooth = cosine by optimiser step; "
        "onecycle = one cosine up and down.",
        "Training",
    )
    warmup_epochs: int = option(
        10,
        "Epochs of linear warm-up; the cosine is not shifted by it.",
        "Training",
        ge=0,
        beside={"scheduler": ("cosine", "step", "smooth")},
    )
    warmup_lr: float = option(
        1e-6,
        "Learning rate that the warm-up starts from.",
        "Training",
        ge=0,
        beside={"scheduler": ("cosine", "step", "smooth")},
    )
    min_lr: float = option(
        1e-5, "Learning rate that the cosine ends at.", "Training", ge=0, beside={"scheduler": ("cosine", "smooth")}
    )
    decay_epochs: int = option(
        30, "Epochs between two decays (scheduler step).", "Training", ge=1, beside={"scheduler": "step"}
    )
    gamma: float = option(0.1, "Factor of a decay (scheduler step).", "Training", gt=0, beside={"scheduler": "step"})
    ema_decay: float | None = option(0.99996, "Moving average of the weights.", "Training", gt=0, lt=1)

    backbone: str | None = option(
        None,
        "A plain vision transformer of timm by name, such as vit_small_patch14_reg4_dinov2, in place of architecture.",
    )
    architecture: Architecture = option(
        "small_patch16", "Size of the vision transformer; *_gap and mini_patch8 pool by average."
    )
    stem: Literal["patches", "convolutions"] = option(
        "patches",
        "How an image is taken in: by its patches, or by strided convolutions (ours, for small networks).",
    )
    top_down: bool = option(True, "The second, steered pass; False = the plain ViT of the same size.")
    prompt_start: Literal["random", "mean-token"] = option(
        "random",
        "Where the prompt begins in a run from a ViT's weights: random = the paper's; mean-token = towards the mean "
        "token that these weights make of training images (ours).",
        often=False,
    )
    reconstruction_weight: float = option(0.1, "Weight of the decoders' reconstruction error in the loss.", ge=0)
    feedback_gain: float = option(1.0, "Factor on the tokens that are fed back.", ge=0)
    steered_share: float = option(
        0.0,
        "Share of the images whose second pass is steered by a class drawn at random and learns that class alone "
        "(ours); 0 = the paper's.",
        ge=0,
        le=1,
        often=False,
    )
    drop_path: float = option(0.1, "Stochastic depth of the last block; linear over blocks.", ge=0, lt=1)
    dropout: float = option(
        0.0, "Dropout after position embedding, projections and MLP layers.", ge=0, lt=1, often=False
    )
    attention_dropout: float = option(0.0, "Dropout of attention weights.", ge=0, lt=1, often=False)

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("expected two numbers from 0 to below 1, such as 0.9,0.999")
        return betas

    @field_validator("cutmix_range")
    @classmethod
    def _check_range(cls, sides: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if sides is None:
            return None
        if not 0 < sides[0] < sides[1] <= 1:
            raise ValueError("expected two shares of the side, the smaller one first, such as 0.2,0.8")
        size = info.data.get("image_size", 0)
        if int(size * sides[0]) == int(size * sides[1]):  # timm draws whole pixels, the larger side left out
            raise ValueError(f"both are the same number of pixels of an image of {size}; move them apart")
        return sides

    @field_validator("architecture")
    @classmethod
    def _check_patches(cls, architecture: Architecture, info: ValidationInfo) -> Architecture:
        if info.data.get("backbone") is not None:
            return architecture
        return in_whole_patches(architecture, info.data.get("image_size", 0))


# Schedule -------------------------------------------------------------------------------------------------------------


def curve(recipe: AbSViTRecipe) -> Curve:
    """A linear warm-up over the beginning of a cosine, or of steps; time in epochs."""
    low = recipe.min_lr / recipe.lr
    decay = step(recipe.decay_epochs, recipe.gamma) if recipe.scheduler == "step" else cosine(recipe.epochs, low)
    return warm_up(decay, recipe.warmup_epochs, start=recipe.warmup_lr / recipe.lr)


def schedule(recipe: AbSViTRecipe, steps_per_epoch: int) -> Schedule:
    """One cycle; or the curve by optimiser step; or by epoch and one late, as the program has it.

    The program steps its rate with the epoch's number after the epoch, so that epochs 0 and 1 both run at the start of
    the warm-up and the cosine never arrives.
    """
    if recipe.scheduler == "onecycle":
        return one_cycle(total_steps(recipe, steps_per_epoch), pct_start=0.3)
    factor, length = curve(recipe), epoch_length(recipe, steps_per_epoch)
    if recipe.scheduler == "smooth":
        return by_step(factor, length)
    return by_epoch(lambda epoch: factor(max(epoch - 1, 0)), length)


# Named recipes --------------------------------------------------------------------------------------------------------

README = "README of the authors' program: 8 processes x 128, warm-up 10, everything else at its default"
AMP = "the program trains in fp16 (--amp fp16)"

DEMO: Fields = {
    "image_size": 64,
    "architecture": "mini_patch8",
    "pipeline": "shift",
    "mixup": 0.0,
    "cutmix": 0.0,
    "repeats": 1,
    "epochs": 16,
    "batch_size": 64,
    "warmup_epochs": 2,
    "scheduler": "smooth",
    "drop_path": 0.0,
    "ema_decay": None,
}


def _imagenet(architecture: Architecture, top_down: bool, top1: float, mce: float) -> NamedRecipe:
    recipe = AbSViTRecipe(architecture=architecture, top_down=top_down)
    return NamedRecipe(recipe, README, {"top1": top1, "mCE": mce}, AMP)


def _figures(top_down: bool) -> NamedRecipe:
    recipe = AbSViTRecipe(architecture="tiny_patch8_gap", top_down=top_down)
    return NamedRecipe(
        recipe, "demo notebook of the authors' program", note="the model of the paper's attention figures"
    )


def _demo(dataset: str, top_down: bool) -> NamedRecipe:
    recipe = AbSViTRecipe(dataset=dataset, top_down=top_down, **DEMO)
    return NamedRecipe(recipe, "ours", note="the built-in demo set, for a CPU")


SCENES: Fields = {**DEMO, **TRANSFORMER, "stem": "convolutions", "label_smoothing": 0.0}


def _scenes(top_down: bool) -> NamedRecipe:
    recipe = AbSViTRecipe(**SCENES, top_down=top_down)
    return NamedRecipe(recipe, "ours", note=NOTE if top_down else PLAIN_NOTE)


RECIPES: dict[str, NamedRecipe] = {
    "absvit-small": _imagenet("small_patch16", True, 80.7, 51.6),
    "absvit-tiny": _imagenet("tiny_patch16", True, 74.1, 66.7),
    "absvit-base": _imagenet("base_patch16", True, 81.0, 48.3),
    "vit-small": _imagenet("small_patch16", False, 80.1, 54.6),
    "vit-tiny": _imagenet("tiny_patch16", False, 72.5, 71.1),
    "vit-base": _imagenet("base_patch16", False, 80.8, 49.3),
    "absvit-figures": _figures(True),
    "vit-figures": _figures(False),
    "demo": _demo("demo", True),
    "demo-single": _demo("demo-single", True),
    "demo-vit": _demo("demo", False),
    "demo-single-vit": _demo("demo-single", False),
    "scenes": _scenes(True),
    "scenes-plain": _scenes(False),
}
