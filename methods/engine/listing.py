"""What there is: methods, recipes, datasets and published weights, a row each; and how they are cited. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attnbias import __version__
from attnbias.data.registry import DATASETS, ready
from attnbias.methods import METHODS
from attnbias.methods.engine.registry import get_description
from attnbias.weights.manifest import PUBLISHED

OBTAINED = {"generated": "made here", "auto": "--download", "manual": "by hand"}


@dataclass(frozen=True)
class MethodRow:
    """A method and its paper."""

    name: str
    title: str
    paper: str
    maps: tuple[str, ...]
    """Kinds of map, the default first; every method that is asked by class has Grad-CAM and its kin beside them."""


@dataclass(frozen=True)
class RecipeRow:
    """A named recipe, with what the paper reports for it."""

    method: str
    name: str
    dataset: str
    reports: Mapping[str, float]
    """The paper's figures by metric, in the paper's units."""
    starts_from: str
    """Published weights, or random."""
    source: str
    note: str


@dataclass(frozen=True)
class DatasetRow:
    """A dataset, how it is obtained, and whether it is prepared on this machine."""

    name: str
    title: str
    task: str
    size: str
    obtained: str
    ready: bool
    licence: str
    page: str


@dataclass(frozen=True)
class WeightsRow:
    """Published weights, by the name that they are loaded by."""

    name: str
    of: str
    """The method of a whole model, or "backbone"."""
    methods: tuple[str, ...] = field(repr=False)
    """What can load them."""
    megabytes: float | None
    reports: Mapping[str, float]
    obtained: str
    licence: str
    url: str
    path: Path | None
    """Where it lies on this disk; None where it does not."""


def cite(method: str) -> str:
    """BibTeX of a method's paper, of the program that its numbers come from, and of attnbias.

    Raises:
        UsageError: there is no such method.
    """
    fields = {"author": "{The attnbias authors}", "title": "attnbias", "version": __version__}
    lines = "".join(f"  {name:12} = {{{value}}},\n" for name, value in fields.items())
    return f"{get_description(method).paper.bibtex()}\n\n@software{{attnbias,\n{lines}}}"


def list_methods() -> list[MethodRow]:
    """All methods."""
    found = [get_description(name) for name in METHODS]
    return [MethodRow(each.name, each.title, str(each.paper), tuple(each.maps)) for each in found]


def list_recipes(method: str | None = None) -> list[RecipeRow]:
    """The named recipes of all methods, or of one.

    Raises:
        UsageError: there is no such method.
    """
    return [
        RecipeRow(each, name, named.recipe.dataset, named.paper, named.recipe.init, str(named.source), str(named.note))
        for each in ([method] if method else METHODS)
        for name, named in get_description(each).recipes.items()
    ]


def list_datasets(data_root: Path | None = None) -> list[DatasetRow]:
    """All datasets; `data_root` is where prepared ones stand."""
    return [
        DatasetRow(
            name,
            info.title,
            info.task,
            info.size,
            OBTAINED[info.acquisition],
            ready(name, data_root),
            info.licence,
            info.page,
        )
        for name, info in DATASETS.items()
    ]


def list_weights(method: str | None = None) -> list[WeightsRow]:
    """Published weights of all methods, or those that one loads.

    Raises:
        UsageError: there is no such method.
    """
    from attnbias.methods.engine.published import in_cache  # it needs more packages than the start of a command

    if method is not None:
        get_description(method)
    return [
        WeightsRow(
            entry.name,
            entry.methods[0] if entry.recipe else "backbone",
            tuple(entry.methods),
            entry.megabytes or None,
            entry.paper,
            "does not load" if entry.refused else "by hand" if entry.browser else "weights fetch",
            entry.licence,
            entry.url,
            in_cache(entry),
        )
        for entry in PUBLISHED.values()
        if method is None or method in (*entry.methods, *entry.starts)
    ]
