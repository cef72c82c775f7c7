"""Classifiers that come as Python objects: what a function of one's own makes, and those of transformers.

    my_package.models:build      the function `build` of a module in the working folder, or of an installed package
    transformers:NAME            an image classifier of the hub, of its cache, or of a folder

Code of one's own runs only where a person types the name of the function: no file and no URL can name one.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from attnbias.data.reading import Json, is_text
from attnbias.errors import AttnbiasError
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.pretrained import Pretrained, Statistics
from attnbias.methods.engine.published import method_before, names_function, names_transformers
from attnbias.methods.engine.types import Fields
from attnbias.weights.cache import offline
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, read_checkpoint

LOG = logging.getLogger(__name__)

KEYS = "image_size, mean, std, interpolation, crop_ratio"
RESULT = f"(nn.Module, {{{KEYS}}}, class names)"
"""What a function of one's own gives."""

LARGEST_IMAGE = 8192
"""Pixels a side of the largest image that a network of one's own is asked with."""

ANYTHING = (Exception, SystemExit)
"""What code of anyone may raise."""


@dataclass(frozen=True)
class OwnNetwork:
    """A classifier, and all that it needs to answer."""

    network: nn.Module
    """Images (B, 3, H, W) -> logits (B, C)."""
    fields: Fields
    """Recipe fields that make its images; those that are missing are not told."""
    classes: tuple[str, ...] | None
    """None where nobody told them."""
    outputs: int
    """C."""
    words: str
    """Where it comes from."""


def own_network(source: str, weights: Path | None, trust: bool = False) -> OwnNetwork | None:
    """Make the network that a person named; None where the name is one of weights.

    Args:
        weights: a state dict that the function's network is filled with.

    Raises:
        UsageError: there is no such module or function, or it gives something else than RESULT.
        WeightsError: the weights do not fit, or are not on the hub; or code of one's own raised an error.
    """
    if names_transformers(source):
        return _of_transformers(source.partition(":")[2])
    return _of_function(source, weights, trust=trust) if names_function(source) else None


# A function of one's own ----------------------------------------------------------------------------------------------


@contextmanager
def running(what: str) -> Iterator[None]:
    """Turn whatever code of one's own raises inside into one line that names both; our own errors, and those of a
    full memory, pass as they are.

    Raises:
        WeightsError: it raised something.
    """
    try:
        yield
    except (AttnbiasError, MemoryError, torch.OutOfMemoryError):
        raise
    except ANYTHING as error:
        try:
            said = f": {error}".rstrip(": ")
        except Exception:  # its __str__ is of one's own, too
            said = ""
        raise WeightsError(f"{what} raised {type(error).__name__}{said}") from error


def _of_function(source: str, weights: Path | None, *, trust: bool) -> OwnNetwork:
    module, _, name = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` has it
    with running(f"{source}: the import of {module}"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            found = None
            missing = error.name
    if found is None:
        raise UsageError(
            f"{source}: no module '{missing}' in {here} or among the installed packages{method_before(source)}"
        )
    function = getattr(found, name, None)
    if not callable(function):
        raise UsageError(f"{source}: {module} has no function '{name}'{method_before(source)}")
    file = getattr(found, "__file__", None) or module
    LOG.warning("running code of your own: %s in %s", name, file)
    with running(source):
        given = function()
    network, images, classes = _parts(source, given)
    if weights is not None:
        load_strict(network, read_checkpoint(weights, trust=trust).state, weights)
    words = f"{source} ({file}{'' if weights is None else f'; weights {weights}'})"
    return _checked(source, network, images, classes, words)


def _parts(source: str, given: object) -> tuple[nn.Module, object, object]:
    """What a function gave: a network, how its images are made, its classes."""
    network, images, classes = given, None, None
    if isinstance(given, tuple | list) and 1 <= len(given) <= 3:
        network, images, classes = (*given, None, None)[:3]
    if not isinstance(network, nn.Module):
        raise UsageError(f"{source} gives {type(given).__name__}; expected an nn.Module, or {RESULT}")
    return network, images, classes


def _checked(source: str, network: nn.Module, images: object, classes: object, words: str) -> OwnNetwork:
    """Ask the network once, and hold its answer against the classes."""
    known = _images(source, network, images)
    fields: Fields = {} if known is None else dict(known.recipe_fields())
    with running(f"{source}: its network"):
        inner = network.eval()
        parameter = next(network.parameters(), torch.zeros(()))
    if known is not None and fields["normalize"] is None:
        network, fields["normalize"] = nn.Sequential(Normalize(known.mean, known.std), inner), "unit"
    side = int(fields.get("image_size", 224))
    for count in (1, 2):
        with running(f"{source}: its network, asked with images of {side} pixels,"), torch.no_grad():
            answer = network(torch.zeros(count, 3, side, side, device=parameter.device))
        if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != count or not answer.shape[1]:
            shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            asked = "an image" if count == 1 else "two images"
            raise UsageError(f"{source}: its network gives {shape} for {asked}; expected logits ({count}, classes)")
        if not answer.is_floating_point():
            raise UsageError(f"{source}: its network gives numbers of {answer.dtype}; expected logits, real numbers")
    outputs = answer.shape[1]
    if isinstance(classes, Mapping):
        classes = [classes.get(number, classes.get(str(number))) for number in range(outputs)]
    names = None if classes is None else tuple(classes) if isinstance(classes, Sequence) else ()
    if names is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) and name and is_text(name) for name in names):
            raise UsageError(f"{source}: its class names are {type(classes).__name__}; expected a list of texts")
        if len(names) != outputs:
            raise UsageError(f"{source} names {len(names)} classes, and its network has {outputs} outputs")
        if len(set(names)) < len(names):
            raise UsageError(f"{source}: its class names are not all different")
    return OwnNetwork(network, fields, names, outputs, words)


def _images(source: str, network: nn.Module, images: object) -> Pretrained | None:
    """How a network's images are made, as it was told; of timm's networks their configuration, where it was not.

    Raises:
        UsageError: it is told in another form.
    """
    configured = getattr(network, "pretrained_cfg", None)
    if images is None and isinstance(configured, Mapping) and "input_size" in configured:
        images = {
            "image_size": tuple(configured["input_size"])[1:],
            "crop_ratio": None if configured.get("crop_mode") == "squash" else configured.get("crop_pct"),
            **{name: configured[name] for name in ("mean", "std", "interpolation") if name in configured},
        }
    if images is None:
        return None
    if isinstance(images, ImageClassification):  # what torchvision's weights.transforms() gives
        (crop,), (resized,) = images.crop_size, images.resize_size
        images = {
            "image_size": crop,
            "mean": images.mean,
            "std": images.std,
            "interpolation": images.interpolation.value,
            "crop_ratio": crop / resized,
        }
    if not isinstance(images, Mapping) or not set(images) <= set(KEYS.split(", ")):
        shown = sorted(map(str, images)) if isinstance(images, Mapping) else type(images).__name__
        raise UsageError(
            f"{source} says of its images {shown}; expected a dict of {KEYS} (boxes and masks have to follow), or the "
            "transforms of torchvision's weights"
        )
    size = images.get("image_size", 224)
    sides = list(size) if isinstance(size, tuple | list) else [size]
    if not all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides) or len({*sides}) != 1:
        raise UsageError(f"{source}: image_size {size!r}; expected a whole number, the side of a square")
    ratio = images.get("crop_ratio")
    mean, std = _statistics(source, "mean", images.get("mean", 0.0)), _statistics(source, "std", images.get("std", 1.0))
    filtered = str(images.get("interpolation", "bilinear"))
    try:
        made = Pretrained(None, int(sides[0]), mean, std, filtered, None if ratio is None else float(ratio))
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{source}: crop_ratio {ratio!r}; expected a number") from None
    if not 1 <= made.image_size <= LARGEST_IMAGE:
        raise UsageError(f"{source}: image_size {size!r}; expected 1 to {LARGEST_IMAGE:,} pixels")
    return made


def _statistics(source: str, name: str, given: object) -> Statistics:
    values: Sequence[Any] = given if isinstance(given, Sequence) and not isinstance(given, str) else [given] * 3
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise UsageError(f"{source}: {name} {given!r}; expected three numbers, of pixels in [0, 1]") from None
    if not all(map(isfinite, (red, green, blue))):
        raise UsageError(f"{source}: {name} {given!r}; expected finite numbers")
    if name == "std" and min(red, green, blue) <= 0:
        raise UsageError(f"{source}: std {given!r}; expected numbers above 0")
    return red, green, blue


class Normalize(nn.Module):
    """Images in [0, 1] -> by a mean and standard deviation that no recipe has a name for."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Statistics, std: Statistics) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W)."""
        normalized: Tensor = (images - self.mean) / self.std
        return normalized


# Hugging Face's transformers ------------------------------------------------------------------------------------------


class Logits(nn.Module):
    """A classifier of transformers, which gives its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, C)."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def _of_transformers(name: str) -> OwnNetwork:
    source = f"transformers:{name}"
    try:
        import transformers
    except ImportError:
        raise UsageError(f"{source} needs the package transformers; run: pip install 'transformers>=5'") from None
    how = {"local_files_only": not _on_the_hub(name)}
    transformers.utils.logging.disable_progress_bar()  # of a second, and also where nobody looks
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True, **how)
        processor = transformers.AutoImageProcessor.from_pretrained(name, **how).to_dict()
    except Exception as error:  # of its HTTP client, its configurations, its weights
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{source} cannot be had: {first}") from None
    said = _checked(source, Logits(network), _processed(processor), network.config.id2label, source)
    LOG.warning("images as %s knows them: %s", name, ", ".join(f"{key} {value}" for key, value in said.fields.items()))
    return said


def _on_the_hub(name: str) -> bool:
    """Whether the hub can be asked for a model: one request tells, where the client would try for half a minute."""
    if offline() or Path(name).is_dir():
        return False
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except Exception:  # its HTTP client raises errors of several families
        return False
    return True


def _processed(said: Json) -> dict[str, object]:
    """How a processor of transformers makes images, in our words."""
    size = said.get("size") or {}
    crop = (said.get("crop_size") or {}) if said.get("do_center_crop") else {}
    short = size.get("shortest_edge")
    side = crop.get("height") or size.get("height") or short or 224
    ratio = side / short if short and crop else said.get("crop_pct") if short else None
    if ratio is None and (short or crop):
        ratio = side / (short or size.get("height") or side)
    normalizes = said.get("do_normalize", True)
    return {
        "image_size": side,
        "mean": tuple(said["image_mean"]) if normalizes and said.get("image_mean") else 0.0,
        "std": tuple(said["image_std"]) if normalizes and said.get("image_std") else 1.0,
        "interpolation": Image.Resampling(said.get("resample", 2)).name.lower(),
        "crop_ratio": ratio,
    }
