"""From what a person typed to a run: its recipe, the weights that it starts from, its folder. No torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import (
    FRESH,
    NamedRecipe,
    Recipe,
    changed,
    check_read,
    flag_of,
    other_network,
    override,
    parse,
    read_recipe,
)
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.screen import Table, say, styled
from attnbias.methods.engine.types import Fields


class Resolved(NamedTuple):
    """The recipe in force, its name, and the named recipe that it came from; None where it is a person's own file."""

    recipe: Recipe
    name: str
    named: NamedRecipe | None
    base: Recipe
    """As it was before anything was typed."""
    why_fresh: str = ""
    """Why it starts from fresh weights although the recipe that it came from does not."""


def resolve_recipe(method: Description, recipe: str | None, typed: Fields) -> Resolved:
    """The recipe of a name or file, or the method's own; `typed` fields go over it.

    The weights that a recipe starts from are of its network: where another one is typed, and no `init` for it, this
    one's are fresh.

    Raises:
        UsageError: there is no such recipe, or a field does not fit.
    """
    path = Path(recipe) if recipe is not None and recipe not in method.recipes else None
    if path is not None and (path.suffix in (".yaml", ".yml") or path.is_file()):
        name, named, base = path.stem, None, read_recipe(path, method.recipe_type, method.name)
    else:
        name = recipe or method.default_recipe(typed.get("dataset"), typed.get("task"))
        named = method.named_recipe(name)
        base = named.recipe
    resolved = parse(method.recipe_type, {**base.model_dump(), **typed})
    if "://" in resolved.init:
        _check_address(resolved.init)
    if "init" in typed or base.init == FRESH:
        return Resolved(resolved, name, named, base)
    if (field := other_network(resolved, base)) is None:
        return Resolved(resolved, name, named, base)
    value, known = getattr(resolved, field), getattr(base, field)
    mend = "--pretrained" if field == "backbone" and value else "--backbone-weights"
    of = "another network" if known is None else f"{field} {known}"
    why = f" (the recipe's {base.init} are of {of}; {mend} gives {'this one' if value is None else value} its own)"
    return Resolved(override(resolved, {"init": FRESH}), name, named, base, why)


LENGTH = ("epochs", "steps", "init")
"""Fields that do not name a run: how long it goes on, which may change, and what it starts from."""

LONGEST_NAME = 120
"""Letters of a run's folder."""


def run_name(resolved: Resolved) -> str:
    """The name of a run's folder: its recipe, and what differs from it."""
    differing = changed(resolved.recipe, resolved.base)
    more = _joined({name: value for name, (value, _) in differing.items() if name not in LENGTH})
    return _shortened(f"{resolved.name},{more}" if more else resolved.name)


def named(values: Mapping[str, object]) -> str:
    """Fields and their values as a folder's name."""
    return _shortened(_joined(values))


def _joined(values: Mapping[str, object]) -> str:
    return ",".join(re.sub(r"[^\w.,=+-]+", "_", f"{name}={value}") for name, value in values.items())


def _shortened(name: str) -> str:
    """A folder's name that every file system takes: a long one is cut, and told from others by its hash."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _check_address(init: str) -> None:
    """Refuse a URL with a user or a query: a recipe is kept with every run, and shared."""
    from attnbias.methods.engine.published import shown

    if shown(init) != init:
        raise UsageError(
            f"recipe field 'init' = {shown(init)!r} may hold a secret; --backbone-weights URL takes it, and "
            "the recipe keeps none"
        )


@dataclass(frozen=True)
class ResolvedRun:
    """A run before its processes start."""

    request: TrainRequest
    """With the weights that it starts from, and a recipe that makes images for them."""
    method: Description
    resolved: Resolved
    images: str
    """How images are made, where the weights decide it."""

    def say(self, *, whole: bool = True) -> None:
        """Print the recipe in force, all of it or what differs from the one that it came from, and the starting
        weights."""
        from attnbias.methods.engine.published import state_of

        request, name, named = self.request, self.resolved.name, self.resolved.named
        if whole:
            show_recipe(self.method, request.recipe, name, named)
        else:
            differing = changed(request.recipe, self.resolved.base)
            fields = ", ".join(f"{field} {value} (not {was})" for field, (value, was) in differing.items())
            say(f"{self.method.title}: recipe {name}{f', but {fields}' if fields else ''}")
        where = "" if request.resume is None else ", where no checkpoint is resumed"
        weights = request.load_from or request.init
        why = "" if request.from_scratch else self.resolved.why_fresh
        say(f"starting weights: {f'random{why}' if weights is None else state_of(weights)}{where}")
        if self.images:
            say(self.images)


def resolve_run(method: Description, recipe: str | None, fields: Fields, options: Mapping[str, object]) -> ResolvedRun:
    """The run of a recipe (as in `resolve_recipe`), typed fields over it, and typed `options` of `TrainRequest`.

    Raises:
        UsageError: there is no such recipe, or something typed does not fit. DataError, WeightsError: as
            `TrainRequest.refuse`.
    """
    resolved = resolve_recipe(method, recipe, fields)
    check_read(resolved.recipe, fields)
    out = options.get("out") or Path("runs") / method.name / run_name(resolved)
    request = TrainRequest.read({**options, "method": method.name, "recipe": resolved.recipe, "out": out})
    if "init" in fields and (request.starts or request.resume not in (None, "auto")):
        other = [*request.starts, f"--resume {request.resume}"][0]
        raise UsageError(f"--init and {other} are two ways to start: give one of them")
    for field, at_random in request.recipe.at_random.items() if request.from_scratch else ():
        if fields.get(field, at_random) != at_random:
            raise UsageError(f"--from-scratch starts at random, and {flag_of(field)} does not: give one of them")
    request.refuse()
    weights, images, known = request.backbone_weights, "", request.recipe
    if not request.load_from and (request.pretrained or (weights and "backbone" in fields)):
        from attnbias.methods.engine.pretrained import follow_pretrained, pretrained_source

        if request.pretrained:
            weights = pretrained_source(known)
        if resolved.named is not None:  # a file says how images are made
            known, images = follow_pretrained(known, fields, published=request.pretrained)
        values = {**dict(request), "recipe": known, "backbone_weights": weights, "pretrained": False}
        request = TrainRequest.of(values)
    return ResolvedRun(request, method, resolved, images)


def show_recipe(method: Description, recipe: Recipe, name: str, named: NamedRecipe | None) -> None:
    """Print the resolved recipe; what differs from the named one is marked."""
    different = changed(recipe, named.recipe) if named else {}
    marked = "differs from the recipe's" if different else ""
    table = Table("field", "value", marked, title=f"{method.title}: recipe {name}")
    for field, value in recipe.model_dump().items():
        if field in different:
            table.row(field, styled(value, "bold yellow"), styled(different[field][1], "yellow"))
        else:
            table.row(field, value, "")
    table.show()
    if named:
        figures = ", ".join(f"{key} {value}" for key, value in named.paper.items())
        say(f"source: {named.source}{f'; the paper reports {figures}' if figures else ''}")
