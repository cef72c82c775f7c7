"""IDA's recipe: its fields, its schedule, the early-stop rule, and the paper's named recipes. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import model_validator

from attnbias.methods.engine.recipe import BackboneRecipe, NamedRecipe, Precision, again, option
from attnbias.methods.engine.scenes import CONVOLUTIONAL, NOTE, PLAIN_NOTE
from attnbias.methods.engine.schedules import by_step, epoch_length, multi_step, one_cycle, total_steps, warm_up
from attnbias.methods.engine.types import Fields, LogLine, Schedule


class IDARecipe(BackboneRecipe):
    """Everything that decides an IDA run. Defaults are the program's README: ResNet-101, 448 px, heavy, on COCO."""

    normalize: Literal["unit", "half", "imagenet", "cifar", "clip"] = again("normalize", "imagenet")
    unknown_eval: Literal["negative", "ignore"] = option(
        "negative", "Unknown labels in evaluation: negative (the program), or left out of the class's measures.", "Data"
    )
    augmentation: Literal["randaugment", "multiscale_crop", "shift"] = option(
        "randaugment",
        "Training images: randaugment (cutout, then RandAugment), multiscale_crop (crop and flip), or shift.",
        "Training data",
    )
    cutout: float = option(
        0.5,
        "Side of the hole cut before RandAugment, as a share of the image's; 0 cuts none.",
        "Training data",
        ge=0,
        le=1,
    )
    shift: int = option(6, "Largest shift each way of augmentation shift, in pixels.", "Training data", ge=0)

    epochs: int = again("epochs", 80)
    batch_size: int = again("batch_size", 128)
    drop_last: bool = again("drop_last", True)
    optimizer: Literal["sgd", "adam", "adamw"] = again("optimizer", "adam")
    lr: float = option(1e-4, "Highest learning rate; never scaled by the number of processes.", "Training", gt=0)
    param_groups: Literal["no_decay_1d", "single", "backbone_factor"] = option(
        "no_decay_1d",
        "no_decay_1d spares biases and normalisation the weight decay; backbone_factor sets the backbone's rate.",
        "Training",
    )
    backbone_lr_factor: float = option(
        0.1,
        "The backbone's rate over lr (param_groups backbone_factor).",
        "Training",
        gt=0,
        beside={"param_groups": "backbone_factor"},
    )
    scheduler: Literal["onecycle", "multistep"] = option(
        "onecycle",
        "onecycle: one cosine up and one down, Adam's beta1 mirrored; multistep: a tenth at each milestone.",
        "Training",
    )
    pct_start: float = option(
        0.2, "Share of the steps in which onecycle rises.", "Training", gt=0, lt=1, beside={"scheduler": "onecycle"}
    )
    milestones: tuple[int, ...] = option(
        (10, 20), "Epochs after which multistep divides the rate by 10.", "Training", beside={"scheduler": "multistep"}
    )
    warmup_epochs: int = option(
        0, "Epochs of linear warm-up before multistep.", "Training", ge=0, beside={"scheduler": "multistep"}
    )
    ema_decay: float | None = option(
        0.9997,
        "Keep an exponential moving average of the weights; for another batch, .9997 ** (batch / 128).",
        "Training",
        gt=0,
        lt=1,
    )
    patience: int | None = option(
        8, "Stop when neither weights improved for more than this many epochs and the average falls.", "Training", ge=0
    )
    amp: Precision = again("amp", "fp16")
    sync_bn: bool = again("sync_bn", True)
    seed: int = again("seed", 1)

    backbone: str = option(
        "resnet101", "Feature extractor: resnet18 to resnet152 (torchvision), a timm name such as a Swin's, or tiny."
    )
    classifier: Literal["interventional", "linear"] = option(
        "interventional", "interventional is the paper's; linear is its baseline: average pooling, one linear layer."
    )
    samples: int = option(4, "Samples N that the feature channels are cut into.", ge=1)
    heavy: bool = option(
        True, "Two Transformer layers over the samples, IDA(H); otherwise one attention layer, IDA(L)."
    )
    beta: float = option(1 / 32, "Added to the length of each class's weights when they are normalised.", gt=0)
    token_layout: Literal["interleaved", "per_sample"] = option(
        "interleaved",
        "What a token of the second attention is: interleaved as the program does, or one sample (paper).",
        often=False,
    )
    loss: Literal["bce_sum", "bce_mean", "asl"] = option(
        "bce_sum", "bce_sum: cross-entropy summed over loss_batch images (the program); its mean; asymmetric loss."
    )
    loss_batch: int = option(
        32,
        "Images that bce_sum sums over: those of one process of the published run.",
        ge=1,
        often=False,
        beside={"loss": "bce_sum"},
    )
    asl_gamma_pos: float = option(0.0, "Focusing of positives (loss asl).", ge=0, beside={"loss": "asl"})
    asl_gamma_neg: float = option(2.0, "Focusing of negatives (loss asl).", ge=0, beside={"loss": "asl"})
    asl_clip: float = option(
        0.0, "Probability margin of negatives (loss asl).", ge=0, lt=1, often=False, beside={"loss": "asl"}
    )
    asl_detach_focus: bool = option(
        True, "Keep the focusing weight out of the gradient (loss asl).", often=False, beside={"loss": "asl"}
    )
    legacy_shared_lr: bool = option(
        False, "Let onecycle overrule backbone_factor, as in the program: all parameters at one rate.", often=False
    )

    @model_validator(mode="after")
    def _check(self) -> IDARecipe:
        if self.legacy_shared_lr and (self.scheduler, self.param_groups) != ("onecycle", "backbone_factor"):
            raise ValueError("legacy_shared_lr is for scheduler onecycle with param_groups backbone_factor only")
        return self


# Schedule -------------------------------------------------------------------------------------------------------------


def schedule(recipe: IDARecipe, steps_per_epoch: int) -> Schedule:
    """One cycle over the whole run, Adam's beta1 with it; or steps by epoch, which the warm-up multiplies."""
    if recipe.scheduler == "onecycle":
        return one_cycle(total_steps(recipe, steps_per_epoch), pct_start=recipe.pct_start)
    curve = warm_up(multi_step(recipe.milestones, 0.1), recipe.warmup_epochs, how="multiplies")
    return by_step(curve, epoch_length(recipe, steps_per_epoch))


# Early stop -----------------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """The best evaluation so far: its position in the history, its measure, and whose weights they were."""

    position: int
    value: float
    weights: str


def best_of(history: Sequence[LogLine], weights: Iterable[str] = ("raw", "ema")) -> Best | None:
    """Return the highest measure among some weights; the earliest of equals, raw before averaged."""
    entries = [
        Best(position, entry[name], name) for position, entry in enumerate(history) for name in weights if name in entry
    ]
    return max(entries, key=lambda best: best.value, default=None)


def should_stop(history: Sequence[LogLine], patience: int) -> bool:
    """Whether to stop: for more than `patience` evaluations neither the best of both weights nor the best of the raw
    weights was improved, and the average has fallen below its own best.

    `history` holds {"raw": measure, "ema": measure} for each evaluation, in order. Without an average the raw weights
    stand for it.
    """
    both, raw = best_of(history), best_of(history, ("raw",))
    if both is None or raw is None:
        return False
    waited = len(history) - 1 - max(both.position, raw.position)
    averages = [entry["ema"] if "ema" in entry else entry["raw"] for entry in history]
    return waited > patience and averages[-1] < max(averages)


# Named recipes --------------------------------------------------------------------------------------------------------

README = "README of the published program"
TABLE = "the paper's MS-COCO table, with the settings of the published program's README"
LOGS = "the program's two published logs reach 84.70 and 84.74, with averaged weights after 20 epochs"
UNKNOWN = "the settings of the README at 448 pixels: those of this size are not published"

Figures = tuple[float, float, float, float, float]
"""mAP, CF1, OF1, CF1@3, OF1@3 of the paper's table, in per cent."""

INIT = {
    "resnet101-448": "resnet101-v1",
    "resnet101-576": "resnet101-v1",
    "swinb-384": "swin_base_patch4_window12_384_22k",
    "swinl-384": "swin_large_patch4_window12_384_22k",
}
"""What the published program starts each backbone from."""

SIZES: dict[str, Fields] = {
    "resnet101-448": {},
    "resnet101-576": {"image_size": 576},
    "swinb-384": {"backbone": "swin_base_patch4_window12_384", "image_size": 384},
    "swinl-384": {"backbone": "swin_large_patch4_window12_384", "image_size": 384},
}
HEADS: dict[str, Fields] = {"heavy": {}, "light": {"heavy": False}, "linear": {"classifier": "linear"}}

PAPER: dict[tuple[str, str], Figures] = {
    ("resnet101-448", "heavy"): (84.8, 78.7, 80.9, 73.9, 77.4),
    ("resnet101-448", "light"): (84.3, 78.5, 81.1, 73.6, 77.3),
    ("resnet101-448", "linear"): (81.5, 76.3, 80.0, 73.5, 76.0),
    ("resnet101-576", "heavy"): (86.3, 80.4, 82.5, 76.4, 78.2),
    ("resnet101-576", "light"): (85.5, 79.8, 82.3, 75.2, 78.1),
    ("swinb-384", "heavy"): (89.3, 83.7, 85.1, 78.0, 80.4),
    ("swinb-384", "linear"): (88.4, 82.2, 84.0, 77.2, 79.9),
    ("swinl-384", "heavy"): (90.3, 84.7, 85.9, 79.0, 81.1),
    ("swinl-384", "linear"): (89.3, 83.6, 85.6, 78.1, 80.8),
}


def _coco(size: str, head: str) -> NamedRecipe:
    published = (size, head) == ("resnet101-448", "heavy")
    notes = []
    if SIZES[size]:
        notes.append(UNKNOWN)
    if published:
        notes.append(LOGS)
    return NamedRecipe(
        recipe=IDARecipe(**SIZES[size], **HEADS[head], init=INIT[size]),
        source=README if published else TABLE,
        paper=dict(zip(("mAP", "CF1", "OF1", "CF1@3", "OF1@3"), PAPER[size, head], strict=True)),
        note="; ".join(notes),
    )


# The demonstration: the built-in set, at the budget of CSRA's, so that the heads can be compared.
DEMO: Fields = {
    "image_size": 64,
    "normalize": "unit",
    "augmentation": "shift",
    "epochs": 16,
    "batch_size": 64,
    "drop_last": False,
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 1e-2,
    "param_groups": "single",
    "pct_start": 0.3,
    "ema_decay": None,
    "patience": None,
    "amp": "no",
    "sync_bn": False,
    "seed": 0,
    "backbone": "tiny",
    "heavy": False,
    "loss": "bce_mean",
}
SCENES: Fields = {**DEMO, **CONVOLUTIONAL}

RECIPES: dict[str, NamedRecipe] = {
    **{f"coco-{size}-{head}": _coco(size, head) for size, head in PAPER},
    "voc07-resnet101-448-heavy": NamedRecipe(
        IDARecipe(dataset="voc07", init=INIT["resnet101-448"]),
        README,
        note="or from a model of COCO (--load-from); the paper's table for VOC could not be read",
    ),
    **{
        name: NamedRecipe(IDARecipe(**DEMO, dataset=name), "ours", note="a CPU trial, not a result of the paper")
        for name in ("demo", "demo-single")
    },
    "demo-plain": NamedRecipe(
        IDARecipe(**DEMO, **HEADS["linear"], dataset="demo"), "ours", note="the paper's baseline, else as demo"
    ),
    "scenes": NamedRecipe(IDARecipe(**SCENES), "ours", note=NOTE),
    "scenes-plain": NamedRecipe(IDARecipe(**SCENES, **HEADS["linear"]), "ours", note=PLAIN_NOTE),
}
