"""Pretrained weights of a backbone by its name: where timm or torchvision keeps them, and how their images are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import timm
import torchvision
from torchvision.transforms import InterpolationMode

from attnbias.data.reading import shown
from attnbias.data.transforms.basic import NORMALIZATIONS
from attnbias.methods.engine.backbones import ALIASES, is_torchvision, timm_config
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.published import HUB, names_network
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.types import Fields
from attnbias.weights.manifest import PUBLISHED

R = TypeVar("R", bound=Recipe)

Statistics = tuple[float, float, float]


@dataclass(frozen=True)
class Pretrained:
    """What a library publishes for a network."""

    source: str | None
    """What `--backbone-weights` takes; None where no weights are published."""
    image_size: int
    mean: Statistics
    std: Statistics
    interpolation: str
    crop_ratio: float | None
    """Side of the centre crop over the resized short side; None = the whole image is squeezed."""

    def recipe_fields(self) -> Fields:
        """The recipe fields that make images as these weights know them; `normalize` None where it has no name here."""
        names = [name for name, values in NORMALIZATIONS.items() if values == (self.mean, self.std)]
        return {
            "image_size": self.image_size,
            "normalize": names[0] if names else None,
            "interpolation": self.interpolation,
            "crop_ratio": self.crop_ratio,
        }


def pretrained(name: str) -> Pretrained | None:
    """The default weights of a network of torchvision, or those of timm's `ARCHITECTURE.TAG`; None for other names.

    Raises:
        UsageError: timm has no such tag of this architecture.
    """
    if is_torchvision(name):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        made = weights.transforms()
        url = next((known for known, entry in PUBLISHED.items() if entry.url == weights.url), weights.url)
        (crop,), (resized,) = made.crop_size, made.resize_size
        mode = InterpolationMode(made.interpolation).value
        return Pretrained(url, crop, tuple(made.mean), tuple(made.std), mode, crop / resized)
    if (config := timm_config(ALIASES.get(name, name))) is None:
        return None
    source = f"{HUB}{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}" if config.hf_hub_id else None
    crop_ratio = None if config.crop_mode == "squash" else config.crop_pct
    return Pretrained(
        source or config.url or None, config.input_size[-1], config.mean, config.std, config.interpolation, crop_ratio
    )


def pretrained_source(recipe: Recipe) -> str:
    """Where the weights of the recipe's backbone lie, as `--backbone-weights` takes it.

    Raises:
        UsageError: the method builds its own network, or nobody publishes weights of this one.
    """
    name = getattr(recipe, "backbone", None)
    if name is None:
        takes = (
            "name one with --backbone" if "backbone" in type(recipe).model_fields else "this one's: --backbone-weights"
        )
        raise UsageError(f"--pretrained is for methods that take any backbone; {takes}")
    found = pretrained(name)
    if found is None or found.source is None:
        raise UsageError(
            f"neither timm nor torchvision publishes weights of '{name}'; --backbone-weights takes a file of yours"
        )
    return found.source


def of_library(source: str, typed: Mapping[str, object]) -> tuple[str, Fields, str] | None:
    """What `timm:NAME` and `torchvision:NAME` stand for: where the whole network's weights lie, the recipe fields that
    make its images, and a line on them. None for every other source.

    Raises:
        UsageError: the library has no such network, publishes no weights of it, or its normalisation has no name here.
    """
    if not names_network(source):
        return None
    library, _, name = source.partition(":")
    if not name:
        raise UsageError(f"{source} names no network; expected {library}:NAME")
    names = timm.list_models()
    if library == "torchvision":
        names = torchvision.models.list_models(torchvision.models)
        if name in names and not is_torchvision(name):
            raise UsageError(f"{source} is not taken: of inception, maxvit and ViT networks only timm's are, timm:NAME")
        names = [each for each in names if is_torchvision(each)]
    known = is_torchvision(name) if library == "torchvision" else timm.is_model(name)
    if known and library == "timm" and is_torchvision(name):
        name = f"{name}.{timm_config(name).tag}"  # without its tag the name is torchvision's
    found = pretrained(name) if known else None
    if found is None or found.source is None:
        raise UsageError(f"{library} publishes no weights of {shown(name)}{did_you_mean(name, names)}")
    taken, words = _followed(name, found, found.recipe_fields(), typed)
    return found.source, {"backbone": name, **taken}, words


def follow_pretrained(recipe: R, typed: Mapping[str, object], *, published: bool) -> tuple[R, str]:
    """The recipe with images made as its backbone's weights know them, where nothing else was typed; and a line on it.

    A file of one's own (not `published`) for a network of the papers is taken with the paper's images.

    Raises:
        UsageError: the weights' normalisation has no name here, and none was typed.
    """
    name = getattr(recipe, "backbone", None) or ""
    of_papers = is_torchvision(name) or name in ALIASES
    found = None if of_papers and not published else pretrained(name)
    if found is None:
        return recipe, ""
    read = type(recipe).model_fields.keys() - {*recipe.unread}
    known = {name: value for name, value in found.recipe_fields().items() if name in read}
    taken, words = _followed(name, found, known, typed)
    return override(recipe, taken), words


def _followed(
    name: str, found: Pretrained, known: Mapping[str, object], typed: Mapping[str, object]
) -> tuple[Fields, str]:
    """The known fields that were not typed, and a line on all of them."""
    taken = {name: value for name, value in known.items() if name not in typed}
    if "normalize" in taken and taken["normalize"] is None:
        raise UsageError(
            f"the weights of {name} want images normalised by mean {found.mean} and std "
            f"{found.std}, which has no name here; say which comes nearest: --normalize {' or '.join(NORMALIZATIONS)}"
        )
    words = ", ".join(f"{name} {value}" for name, value in taken.items())
    kept = ", ".join(f"{name} {typed[name]}" for name in known if name in typed)
    return taken, f"images as its weights know them: {words}{f'; typed: {kept}' if kept else ''}"
