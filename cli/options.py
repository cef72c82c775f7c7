"""Options shared by commands, and the options that come from a recipe's fields."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperGroup
from typer.main import get_command

from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS, TASKS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.recipe import (
    BOUNDS,
    OLD_NAMES,
    NamedRecipe,
    Recipe,
    parse,
    read_recipe,
    revise,
    todays_names,
)
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.screen import literal
from attnbias.methods.engine.stored import stored_method
from attnbias.methods.engine.types import Fields

UNSET = "none"
"""What a person types to switch an optional field off, as in `--ema-decay none`, or for an empty list."""

TRAINING = "Training"
"""The panel of the recipe fields that only training reads."""


def _parsed(inner: type, many: bool, optional: bool, choices: tuple[Any, ...] = ()) -> tuple[Any, dict[str, Any]]:
    """Typer's annotation and arguments for a field that is optional or a list: `none`, or comma-separated values."""
    values = "|".join(map(str, choices)) or inner.__name__
    shape = f"{values}{',...' if many else ''}{'|none' if many or optional else ''}"

    def read(text: str) -> Any:
        if text.lower() == UNSET and (many or optional):
            return UNSET if optional else ()  # the word, so that it differs from "not typed"
        try:
            return tuple(inner(part) for part in text.split(",")) if many else inner(text)
        except ValueError:
            raise typer.BadParameter(f"'{text}' is not {shape}") from None

    return Any, {"parser": read, "metavar": f"<{shape}>"}


def recipe_parameters(method: Description, training: bool) -> list[inspect.Parameter]:
    """One keyword parameter a recipe field, for a Typer command's signature. Not typed = None.

    Without `training`, only the fields that a finished model still depends on: its data and its network.
    """
    default = next(iter(method.recipes.values())).recipe
    parameters = []
    for name, info in method.recipe_type.model_fields.items():
        extra = info.json_schema_extra
        panel = str(extra["panel"]) if isinstance(extra, dict) else "Method"
        if panel == TRAINING and not training:
            continue
        flag = "--" + name.replace("_", "-")
        annotation, keywords = _click_type(info.annotation)
        if name == "dataset":
            keywords["autocompletion"] = lambda: list(DATASETS)
        # Typer's own ranges know no open ends and no optional fields; the recipe checks all of them.
        limits = [(sign, getattr(limit, bound, None)) for limit in info.metadata for bound, sign in BOUNDS.items()]
        allowed = ", ".join(f"{sign} {value:g}" for sign, value in limits if value is not None)
        flags = f"{flag}/--no-{flag[2:]}" if annotation is bool else flag
        shown = getattr(default, name)
        shown = UNSET if shown in (None, ()) else ",".join(map(str, shown)) if isinstance(shown, tuple) else str(shown)
        facts = f"[{allowed}] " if allowed else ""
        help_text = f"{info.description} {facts}[paper: {shown}]"
        option = typer.Option(flags, help=help_text, rich_help_panel=panel, show_default=False, **keywords)
        parameters.append(_parameter(name, Annotated[annotation | None, option]))
        for old in (old for old, today in OLD_NAMES.items() if today == name):
            option = typer.Option("--" + old.replace("_", "-"), hidden=True, **keywords)
            parameters.append(_parameter(old, Annotated[annotation | None, option]))
    return parameters


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _click_type(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """A field's annotation -> (annotation for Typer, more arguments of typer.Option)."""
    optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        optional, annotation = len(inner) < len(get_args(annotation)), inner[0]
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        if isinstance(choices[0], str):
            return (Literal[(*choices, UNSET)] if optional else annotation), {}
        return _parsed(type(choices[0]), False, optional, choices)
    if get_origin(annotation) is tuple:
        inner_type = get_args(annotation)[0]
        if get_origin(inner_type) is Literal:
            choices = get_args(inner_type)
            return _parsed(type(choices[0]), True, optional, choices)  # the recipe checks them
        return _parsed(inner_type, True, optional)
    if optional:
        return _parsed(annotation, False, True)
    return annotation, {}


def typed_fields(method: Description, values: Fields) -> Fields:
    """The recipe fields that a person typed, out of all keyword arguments of a command."""
    fields = method.recipe_type.model_fields
    typed = {name: values[name] for name in (*fields, *OLD_NAMES) if values.get(name) is not None}
    typed = todays_names(method.recipe_type, typed)
    off = [name for name, value in typed.items() if value == UNSET and type(None) in get_args(fields[name].annotation)]
    return {name: None if name in off else value for name, value in typed.items()}


def resolve_recipe(method: Description, recipe: str | None, typed: Fields) -> tuple[Recipe, str, NamedRecipe | None]:
    """The recipe in force, its name, and the named recipe it came from: name or file, then flags over it."""
    path = Path(recipe) if recipe is not None and recipe not in method.recipes else None
    if path is not None and (path.suffix in (".yaml", ".yml") or path.is_file()):
        return revise(read_recipe(path, method.recipe_type, method.name), typed), path.stem, None
    name = recipe or method.default_recipe(typed.get("dataset"), typed.get("task"))
    named = method.named_recipe(name)
    return parse(method.recipe_type, {**named.recipe.model_dump(), **typed}), name, named


def of_task(arguments: list[str]) -> list[str]:
    """Put the method in the first argument's place that does what `--task`, or the checkpoint, asks of that paper.

    `--task` itself stays where the method has several tasks, as an option of its recipe.

    Raises:
        UsageError: no such task.
    """
    paper, *rest = arguments
    if paper not in TASKS:
        return arguments
    tasks = TASKS[paper]
    task, checkpoint = value_of("--task", rest), value_of("--load-from", rest)
    if task is None:
        stored = stored_method(Path(checkpoint)) if checkpoint is not None else paper
        return [stored, *rest] if stored is not None and stored in tasks.values() else arguments
    if task not in tasks:
        raise UsageError(
            f"--task {task}: {paper} has no such task{did_you_mean(task, tasks)}; one of: {', '.join(tasks)}"
        )
    if "task" not in get_description(tasks[task]).recipe_type.model_fields:
        place = next(i for i, word in enumerate(rest) if word.split("=")[0] == "--task")
        del rest[place : place + (1 if "=" in rest[place] else 2)]
    return [tasks[task], *rest]


def value_of(option: str, arguments: list[str]) -> str | None:
    """The value of an option in arguments that nobody has parsed yet."""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if word == option or word.startswith(option + "="):
            return word.partition("=")[2] or following
    return None


def literal_help(command: Any) -> Any:
    """Return a command, and all below it, whose help texts are shown as they are written: `[x]` is no markup."""
    for place in (command, *command.params):
        for name in ("help", "short_help", "epilog"):
            if text := getattr(place, name, None):
                setattr(place, name, literal(text))
    for child in getattr(command, "commands", {}).values():
        literal_help(child)
    return command


def per_method(build: Callable[[Description], Callable[..., None]]) -> type[TyperGroup]:
    """A Typer group with one sub-command a method, each built (and its recipe imported) only when it is asked for.

    A paper with several tasks has a method for each: `absvit --task segmentation` is `absvit-segmentation`, and without
    `--task` the checkpoint that is to be loaded says which.
    """

    class MethodGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(METHODS)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            return super().resolve_command(ctx, of_task(args))

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            method = get_description(cmd_name)
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
            single.command(cmd_name, help=f"{method.title}. {method.paper}")(build(method))
            return literal_help(get_command(single))

    return MethodGroup


def with_recipe_options(command: Callable[..., Any], method: Description, *, training: bool) -> Callable[..., Any]:
    """Give a command's signature the method's recipe fields beside its own parameters, those of training if asked."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    names = {p.name for p in own}
    return with_parameters(command, [*own, *(p for p in recipe_parameters(method, training) if p.name not in names)])


def with_parameters(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """Give a function, which takes any keywords, the signature that Typer reads."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
