"""Recipes: everything that changes what is computed, and nothing else.

A recipe is a frozen pydantic model without torch. Its fields become the options of `attnbias train METHOD`, their
descriptions the help texts, their panels the groups of `--help`; the resolved recipe is written beside every
checkpoint. What does not change the numbers (folders, GPUs, workers, trackers) is an option of a command instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from attnbias.data.atomic import replacing
from attnbias.data.reading import Unfit, shown
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.types import Fields
from attnbias.methods.engine.yaml_files import plain_value, read_yaml

R = TypeVar("R", bound="Recipe")
Precision = Literal["no", "fp16", "bf16", "auto"]

LARGEST_SEED = 2**64 - 1
"""torch takes no larger one."""
LARGEST_SIZE = 10**6
"""Of the numbers that a model is built from: channels, layers, tokens. Products of three still fit 64 bits."""
LARGEST = 2**63 - 1
"""Of every other whole number."""

FRESH, OWN = "none", "own"
"""What `init` says of a backbone that begins at random, and of one that a person must bring: nobody publishes it."""


OLD_NAMES = {
    "lr_gamma": "gamma",
    "decay_rate": "gamma",
    "lr_steps": "milestones",
    "lr_step": "decay_epochs",
    "eta_min": "min_lr",
    "end_lr": "min_lr",
    "decay_power": "power",
    "warmup": "warmup_steps",
}
"""What fields were called in earlier versions -> today's names. Recipes, checkpoints and flags may still say so."""


BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
"""Kinds of range that an option can have, and their signs."""


SPELLED = ("flags", "metavar", "shown", "argument", "complete", "needs", "often", "as_text")
"""What else an option may say of how it is typed: its flags where they are not its name, the word for its value, the
words for its default, that it stands without a flag, what is offered to complete it, the ability of a method
without which it is hidden, whether most people set it, so that `--help` shows it (cli/help_levels.py), and whether the
request reads what was typed, of a form that the command line does not know."""


def option(default: Any, description: str, panel: str = "Method", **more: Any) -> Any:
    """Declare an option, a recipe's field or a request's: default, help text, group in `--help`, range (`ge=`, `gt=`,
    `le=`, `lt=`), and how it is typed (`SPELLED`). `beside` names the values of other fields without which a field of a
    recipe does nothing."""
    spelled = {name: more.pop(name) for name in (*SPELLED, "beside") if name in more}
    return Field(default, description=description, json_schema_extra={"panel": panel, **spelled}, **more)


class Recipe(BaseModel):
    """The fields that every method shares. A method's recipe adds its own and sets the paper's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    at_random: ClassVar[Fields] = {"init": FRESH}
    """The fields that say what a run starts from, as they are where all of it starts at random."""

    dataset: str = option(
        "coco", "Dataset name (`attnbias list datasets`) or a prepared folder of your own.", "Data", often=True
    )
    image_size: int = option(
        448, "Height and width of the network's input, in pixels.", "Data", ge=16, le=4096, often=True
    )
    normalize: Literal["unit", "half", "imagenet", "cifar", "clip"] = option(
        "unit", "Pixel normalisation: unit = [0,1], half = [-1,1], imagenet or cifar = that set's mean and std.", "Data"
    )
    decode: Literal["exact", "fast"] = option(
        "exact",
        "Reading of training images: exact = the papers' pixels; fast = in less time, a level off (some levels where "
        "files are far larger than the input). Evaluation has its own --decode.",
        "Training data",
    )
    drop_unlabelled: bool = option(False, "Leave out images without any positive label, in every split.", "Data")
    unknown_train: Literal["negative", "ignore"] = option(
        "negative",
        "Unknown labels (VOC difficult, WIDER unspecified) in training: negative, or out of the loss.",
        "Training data",
    )
    unknown_eval: Literal["negative", "ignore"] = option(
        "ignore", "Unknown labels in evaluation: negative, or left out of the class's measures.", "Data"
    )
    epochs: int = option(30, "Passes over the training split.", "Training", ge=1, often=True)
    steps: int | None = option(
        None,
        "Optimiser steps of the run, instead of whole epochs; the schedule is squeezed or stretched to them.",
        "Training",
        ge=1,
    )
    eval_steps: int | None = option(
        None, "Optimiser steps between evaluations, instead of epochs (--eval-every).", "Training", ge=1
    )
    batch_size: int = option(
        16, "Global batch: over all processes and accumulation steps together.", "Training", ge=1, often=True
    )
    drop_last: bool = option(False, "Leave out the last, smaller batch of an epoch.", "Training")
    limit_train_batches: int | None = option(
        None, "Only so many batches of each epoch, drawn anew for each: to try a run out.", "Training", ge=1
    )
    optimizer: Literal["sgd", "adam", "adamw"] = option(
        "sgd", "sgd (momentum), adam (coupled L2) or adamw.", "Training"
    )
    lr: float = option(
        0.01, "Base learning rate; never scaled by the number of processes.", "Training", gt=0, often=True
    )
    momentum: float = option(0.9, "SGD momentum.", "Training", ge=0, lt=1, beside={"optimizer": "sgd"})
    weight_decay: float = option(1e-4, "Weight decay (coupled L2 for sgd and adam).", "Training", ge=0)
    clip_grad: float | None = option(None, "Clip the gradient's global L2 norm to this value.", "Training", gt=0)
    ema_decay: float | None = option(None, "Keep an exponential moving average of the weights.", "Training", gt=0, lt=1)
    ema_epoch: int = option(
        0, "Epoch, counted from 0, at whose start the average begins anew from the weights.", "Training", ge=0
    )
    amp: Precision = option(
        "no", "Mixed precision; auto = bf16 on GPUs that have it, else fp16, on a CPU no.", "Training", often=True
    )
    sync_bn: bool = option(False, "Synchronise batch normalisation over processes.", "Training")
    seed: int = option(0, "Decides weights, order and augmentation.", "Training", ge=0, often=True)
    init: str = option(
        FRESH,
        "What the backbone starts from: a name of `attnbias list weights`, a file or a URL; none = fresh weights, "
        "own = yours, by --backbone-weights.",
        "Training",
        min_length=1,
    )

    @property
    def unread(self) -> dict[str, tuple[str, tuple[object, ...]]]:
        """Fields that do nothing in this recipe -> another field, and the values of it that they want."""
        return {
            name: (other, values)
            for name, info in type(self).model_fields.items()
            for other, values in _beside(info).items()
            if getattr(self, other) not in values
        }

    @field_validator("dataset")
    @classmethod
    def _is_named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected the name of a dataset, or a prepared folder")
        return value

    @field_validator("*")
    @classmethod
    def _check_whole_numbers(cls, value: object, info: ValidationInfo) -> object:
        extra = cls.model_fields[str(info.field_name)].json_schema_extra
        is_size = isinstance(extra, dict) and extra.get("panel") == "Method"
        limit = LARGEST_SEED if info.field_name == "seed" else LARGEST_SIZE if is_size else LARGEST
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > limit:
                raise ValueError(f"expected at most {limit:,}")
        return value


class BackboneRecipe(Recipe):
    """The shared fields of the methods that take any backbone: how images are made for the weights of its publisher."""

    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "Filter of every resize.", "Data")
    crop_ratio: float | None = option(
        None,
        "Side of the centre crop over the resized short side, as pretrained weights may want it; none (the paper's) "
        "squeezes the whole image into the square.",
        "Data",
        gt=0,
        le=1,
    )


class AugmentedRecipe(BackboneRecipe):
    """The fields of the methods whose training images are varied as CSRA's are (methods/engine/augmentation.py)."""

    flip: bool = option(True, "Mirror training images with probability one half.", "Training data")
    resized_crop: bool = option(True, "Train on random parts (70 to 100 % of the area) of images.", "Training data")
    color_jitter: bool = option(
        False, "Jitter brightness, contrast and saturation of training images.", "Training data"
    )
    shift: int = option(0, "Shift training images by up to this many pixels.", "Training data", ge=0)


TRAINING, TRAINING_DATA, OF_THE_METHOD = "Training", "Training data", "Method"
"""Groups of fields. Only training reads the first two; other commands take the second one for what it is in a recipe,
and do not list it."""


def fields_of(recipe_type: type[Recipe], *, training: bool) -> dict[str, FieldInfo]:
    """The fields of a recipe; without `training`, only those that a finished model still depends on."""
    return {name: info for name, info in recipe_type.model_fields.items() if training or panel_of(info) != TRAINING}


def _beside(info: FieldInfo) -> dict[str, tuple[object, ...]]:
    """What a field wants of others (`option`): their names -> the values that let it do something."""
    extra = info.json_schema_extra
    wanted: Any = extra.get("beside", {}) if isinstance(extra, dict) else {}
    return {other: values if isinstance(values, tuple) else (values,) for other, values in wanted.items()}


def check_read(recipe: Recipe, typed: Iterable[str]) -> None:
    """Refuse typed fields that do nothing in the recipe.

    Raises:
        UsageError: the first of them.
    """
    unread = recipe.unread
    for name in typed:
        if name in unread:
            other, values = unread[name]
            words = " or ".join(str(value) for value in values if value is not True)
            raise UsageError(f"{flag_of(name)} changes nothing without {flag_of(other)} {words}".rstrip())


def flag_of(name: str) -> str:
    """What a person types for a field of a recipe, or for an option that does not say otherwise."""
    return "--" + name.replace("_", "-")


def panel_of(info: FieldInfo) -> str:
    """The group of a field in help texts."""
    extra = info.json_schema_extra
    return str(extra["panel"]) if isinstance(extra, dict) else "Method"


def again(name: str, default: Any) -> Any:
    """Declare a shared field anew in a method's recipe for another default; help text, group and range stay."""
    info = Recipe.model_fields[name]
    assert info.description is not None
    assert isinstance(info.json_schema_extra, dict)
    limits = {bound: getattr(one, bound) for one in info.metadata for bound in BOUNDS if hasattr(one, bound)}
    return option(default, info.description, str(info.json_schema_extra["panel"]), **limits)


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with a name, where it comes from, and what the paper says it reaches.

    `paper` holds the paper's figures by measure name, in the paper's units (mAP in per cent); `note` says what a
    reader must know, such as where paper and program differ.
    """

    recipe: Recipe
    source: str
    paper: dict[str, float] = field(default_factory=dict)
    note: str = ""


def changed(recipe: Recipe, reference: Recipe) -> dict[str, tuple[object, object]]:
    """Return {field: (value, reference value)} where the two differ."""
    values, others = recipe.model_dump(), reference.model_dump()
    return {name: (value, others.get(name)) for name, value in values.items() if value != others.get(name)}


NETWORK = ("backbone", "family", "size", "stem", "architecture", "top_down")
"""Fields that decide which network the starting weights are of."""


def other_network(recipe: Recipe, base: Recipe) -> str | None:
    """The first field by which a recipe is of another network than `base`, whose starting weights it cannot have."""
    return next((name for name in changed(recipe, base) if name in NETWORK), None)


def override(recipe: R, changes: Fields) -> R:
    """Return the recipe with some fields changed, checked as a whole.

    Raises:
        UsageError: an unknown field (the nearest name is offered) or a value out of range.
    """
    return parse(type(recipe), {**recipe.model_dump(), **changes})


def parse(recipe_type: type[R], values: Fields) -> R:
    """Build a recipe from plain values; errors name the field, the value and what was expected."""
    values = todays_names(recipe_type, values)
    unknown = [name for name in values if name not in recipe_type.model_fields]
    if unknown:
        raise UsageError(
            f"unknown recipe field {shown(unknown[0])}{did_you_mean(unknown[0], recipe_type.model_fields)}"
        )
    try:
        return recipe_type.model_validate(
            _with_tuples(values), strict=True
        )  # no numbers from texts, none from true and false
    except ValidationError as error:
        raise UsageError(_in_words(error.errors()[0])) from None


def _with_tuples(values: Fields) -> Fields:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _in_words(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])  # empty where fields contradict each other
    message = error["msg"].removeprefix("Value error, ")
    return f"recipe field '{where}' = {shown(error['input'])}: {message}" if where else message


def check_values(recipe_type: type[Recipe], values: Fields) -> None:
    """Refuse values of a wrong kind or out of range; what depends on other fields is for the whole recipe.

    Raises:
        UsageError: as `parse`.
    """
    known = {
        name: value for name, value in todays_names(recipe_type, values).items() if name in recipe_type.model_fields
    }
    try:
        recipe_type.model_validate(_with_tuples(known), strict=True)
    except ValidationError as error:
        for each in error.errors():
            if each["loc"] and each["type"] != "value_error":
                raise UsageError(_in_words(each)) from None


def todays_names(recipe_type: type[Recipe], values: Fields) -> Fields:
    """Return the values with fields that have an old name (`OLD_NAMES`) under today's.

    Raises:
        UsageError: a field is there under both names.
    """
    found: Fields = {}
    for name, value in values.items():
        today = OLD_NAMES.get(name, name)
        today = today if today in recipe_type.model_fields else name
        if today in found:
            raise UsageError(f"recipe field '{today}' is given twice: '{name}' is another name of it; keep one")
        found[today] = value
    return found


def read_recipe(path: Path, recipe_type: type[R], method: str) -> R:
    """Read a recipe of a method from a YAML file (`method:` is allowed beside the fields).

    Raises:
        UsageError: the file is missing, is not a mapping of plain values, is of another method, or holds a wrong field.
    """
    try:
        values = read_yaml(path)
        if (owner := values.pop("method", method)) != method:
            raise UsageError(f"it is of method {shown(owner)}, not of '{method}'")
        return parse(recipe_type, values)
    except OSError as error:
        raise UsageError(f"recipe file {path}: {error.strerror}") from None
    except (Unfit, UsageError) as error:
        raise UsageError(f"recipe file {path}: {error}") from None


def write_recipe(path: Path, recipe: Recipe, method: str) -> None:
    """Write a recipe as YAML, each field under its description, so that it can be edited without a manual."""
    lines = [f"method: {method}"]
    for name, info in type(recipe).model_fields.items():
        lines += [f"# {info.description}", f"{name}: {_yaml_line(recipe.model_dump(mode='json')[name])}"]
    with replacing(path) as file:
        file.write("\n".join(lines) + "\n")


def _yaml_line(value: object) -> str:
    """A value as YAML on one line, however long it is and whatever a text holds."""
    quotes = '"' if isinstance(value, str) and not (value.isprintable() and plain_value(value) == value) else None
    return yaml.safe_dump(value, default_flow_style=True, default_style=quotes, width=inf).splitlines()[0]
