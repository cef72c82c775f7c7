"""methods/RECIPES.md: every field of every method's recipe. `python -m tests.helpers.recipe_fields` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import BOUNDS, Recipe
from attnbias.methods.engine.registry import get_description

PAGE = Path(__file__).parents[2] / "methods" / "RECIPES.md"
HEAD = """# Recipe fields

Generated from the recipes by `python -m tests.helpers.recipe_fields`. Each field is an option of
`attnbias train METHOD`, with `-` for `_`, and a keyword of `attnbias.train(...)`; the value is the default, that of the
paper's first recipe. `attnbias show RECIPE` says the values of a named recipe.
"""
TABLE = "| field | default | values | what it is |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """The page as Markdown: what all methods share, then what each has of its own, or with another default."""
    parts = [HEAD, f"## Shared by all\n\n{TABLE}{_rows(Recipe.model_fields)}"]
    for name in METHODS:
        found = get_description(name)
        own = {
            field: info
            for field, info in found.recipe_type.model_fields.items()
            if field not in Recipe.model_fields or _cells(info) != _cells(Recipe.model_fields[field])
        }
        parts.append(f"## {name}\n\n{found.title}. {found.paper}\n\n{TABLE}{_rows(own)}")
    return "\n".join(parts)


def _rows(fields: dict[str, FieldInfo]) -> str:
    return "".join(f"| `{name}` | {' | '.join(_cells(info))} |\n" for name, info in fields.items())


def _cells(info: FieldInfo) -> tuple[str, str, str]:
    limits = [(sign, getattr(limit, bound, None)) for limit in info.metadata for bound, sign in BOUNDS.items()]
    ranges = [f"{sign} {value:g}" for sign, value in limits if value is not None]
    values = ", ".join([_kind(info.annotation), *ranges])
    default = (
        "none"
        if info.default is None
        else ",".join(map(str, info.default))
        if isinstance(info.default, tuple)
        else str(info.default)
    )
    return default or "-", values, str(info.description).replace("|", "\\|")


def _kind(annotation: Any) -> str:
    """A type as a person types its values."""
    if annotation is type(None):
        return "none"
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"{_kind(get_args(annotation)[0])},..."
    if get_args(annotation):
        return " or ".join(_kind(part) for part in get_args(annotation))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true, false"}[annotation.__name__]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
