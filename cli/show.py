"""`attnbias show RECIPE`: a named recipe with everything that is known of it. Imports no torch."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.recipe import FRESH, NamedRecipe, panel_of
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.data.info import DatasetInfo


def show(
    recipe: Annotated[
        list[str],
        typer.Argument(
            metavar="[METHOD] RECIPE",
            help="Of `attnbias list recipes`: csra coco-resnet101, csra/coco-resnet101, or coco-resnet101 alone.",
            autocompletion=lambda: [f"{name}/{each}" for name in METHODS for each in get_description(name).recipes],
        ),
    ],
) -> None:
    """Show a recipe: its fields, what it starts from, its dataset, its source, and what the paper reports for it."""
    method, name = _found([word for words in recipe for word in words.split("/")])
    named = method.named_recipe(name)
    say(f"{method.name} {name}: {method.title}", style="bold")
    figures = ", ".join(f"{measure} {value}" for measure, value in named.paper.items())
    facts = {
        "paper": str(method.paper),
        "the paper reports": figures or "nothing for this recipe",
        "source": named.source,
        "note": named.note,
        "starts from": _start(named),
        "dataset": _dataset(named.recipe.dataset),
        "run": f"attnbias train {method.name} --recipe {name}",
    }
    table = Table("", "", header=False)
    for fact, words in facts.items():
        if words:
            table.row(fact, words)
    table.show()
    _fields(named).show()


def _found(words: list[str]) -> tuple[Description, str]:
    """The method and the name of the recipe that a person means; of a method alone, the one that it trains by.

    Raises:
        UsageError: there is none, or several methods have one of this name.
    """
    if len(words) == 2:
        return get_description(words[0]), words[1]
    if len(words) > 2:
        raise UsageError(f"{' '.join(words)}: expected METHOD RECIPE; see: attnbias list recipes")
    (word,) = words
    if word in METHODS:
        method = get_description(word)
        return method, method.default_recipe()
    owners = [method for method in map(get_description, METHODS) if word in method.recipes]
    if len(owners) == 1:
        return owners[0], word
    if owners:
        which = " or ".join(f"{owner.name}/{word}" for owner in owners)
        raise UsageError(f"several methods have a recipe '{word}'; say which: {which}")
    known = [*METHODS, *(name for method in METHODS for name in get_description(method).recipes)]
    raise UsageError(f"no method or recipe '{word}'{did_you_mean(word, known)}; see: attnbias list recipes")


def _start(named: NamedRecipe) -> str:
    """What the backbone starts from, with its licence and checksum where it is published."""
    from attnbias.methods.engine.published import state_of
    from attnbias.weights.manifest import PUBLISHED

    if named.recipe.init == FRESH:
        return "fresh weights"
    words = state_of(named.recipe.init)
    if (published := PUBLISHED.get(named.recipe.init)) is None:
        return words
    checksum = f"{published.algorithm} {published.digest}..." if published.digest else "no checksum published"
    return f"{words}; {checksum}; licence: {published.licence}"


def _dataset(name: str) -> str:
    """What the catalogue knows of a recipe's dataset."""
    info: DatasetInfo | None = DATASETS.get(name)
    if info is None:
        return name
    counts = ", ".join(f"{count:,} in {split}" for split, count in info.counts.items())
    lines = (f"{name}: {info.title}", f"classes: {info.classes_in_words}", counts, f"licence: {info.licence}")
    return "; ".join(filter(None, lines)) + f"; attnbias prepare-data {name}{info.arguments}"


def _fields(named: NamedRecipe) -> Table:
    """The recipe's fields by their groups, each with what it is."""
    table = Table("field", "value", "what it is")
    kinds, values = type(named.recipe).model_fields, named.recipe.model_dump()
    panels = {name: panel_of(info) for name, info in kinds.items()}
    for panel, names in groupby(sorted(kinds, key=panels.__getitem__), panels.__getitem__):
        table.row(panel, "", "")
        for name in names:
            table.row(f"  {name}", "none" if values[name] is None else values[name], kinds[name].description or "")
    return table
