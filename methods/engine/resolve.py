"""From what a person typed to the recipe of a run, and the weights that it starts from. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from attnbias.methods.engine.description import Description
from attnbias.methods.engine.recipe import NamedRecipe, Recipe, changed, override, parse, read_recipe

NETWORK = ("backbone", "family", "size", "architecture")
"""Recipe fields that decide which network the starting weights are of."""


class Resolved(NamedTuple):
    """The recipe in force, its name, and the named recipe that it came from; None where it is a person's own file."""

    recipe: Recipe
    name: str
    named: NamedRecipe | None

    def weights(self) -> tuple[str | None, str]:
        """The weights that the named recipe starts its backbone from, None = random; and why not, where it is another
        network than the recipe's."""
        if self.named is None or self.named.init is None:
            return None, ""
        for field, (value, known) in changed(self.recipe, self.named.recipe).items():
            if field in NETWORK:
                mend = "--pretrained" if field == "backbone" else "--backbone-weights"
                why = f" (the recipe's {self.named.init} are of {field} {known}; {mend} gives {value} its own)"
                return None, why
        return self.named.init, ""


def resolve_recipe(method: Description, recipe: str | None, typed: dict[str, Any]) -> Resolved:
    """The recipe of a name or file, or the method's own; `typed` fields go over it.

    Raises:
        UsageError: there is no such recipe, or a field does not fit.
    """
    path = Path(recipe) if recipe is not None and recipe not in method.recipes else None
    if path is not None and (path.suffix in (".yaml", ".yml") or path.is_file()):
        return Resolved(override(read_recipe(path, method.recipe_type, method.name), typed), path.stem, None)
    name = recipe or method.default_recipe(typed.get("dataset"), typed.get("task"))
    named = method.named_recipe(name)
    return Resolved(parse(method.recipe_type, {**named.recipe.model_dump(), **typed}), name, named)
