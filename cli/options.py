"""The options of a command, which come from the fields of its request and of its method's recipe."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperGroup
from typer.main import get_command

from attnbias.cli.help_levels import HelpAll, flags_take_nothing, in_two_levels
from attnbias.cli.once import each_once, typed_again
from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS, TASKS
from attnbias.methods.engine.description import EXPLAINERS, Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import BOUNDS, OLD_NAMES, TRAINING_DATA, fields_of, flag_of, panel_of, todays_names
from attnbias.methods.engine.registry import get_description, method_of_task
from attnbias.methods.engine.requests import Q, Request, flags_of, required, spelled
from attnbias.methods.engine.screen import literal
from attnbias.methods.engine.stored import stored_method
from attnbias.methods.engine.types import Fields

T = TypeVar("T")

Keywords = dict[str, Any]
"""Keyword arguments of typer.Option."""

UNSET = "none"
"""What a person types to switch an optional field off, as in `--ema-decay none`, or for an empty list."""


def _parsed(inner: type, many: bool, optional: bool, choices: tuple[object, ...] = ()) -> tuple[Any, Keywords]:
    """Typer's annotation and arguments for a field that is optional or a list: `none`, or comma-separated values."""
    values = "|".join(map(str, choices)) or inner.__name__
    shape = f"{values}{',...' if many else ''}{'|none' if many or optional else ''}"

    def read(text: str) -> object:
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
    for name, info in fields_of(method.recipe_type, training=training).items():
        flag = flag_of(name)
        annotation, keywords = _click_type(info.annotation)
        if name == "dataset":
            keywords["autocompletion"] = lambda: list(DATASETS)
        # Typer's own ranges know no open ends and no optional fields; the recipe checks all of them.
        limits = [(sign, getattr(limit, bound, None)) for limit in info.metadata for bound, sign in BOUNDS.items()]
        allowed = ", ".join(f"{sign} {value:g}" for sign, value in limits if value is not None)
        flags = f"{flag}/--no-{flag[2:]}" if annotation is bool else flag
        limits_text = f"[{allowed}] " if allowed else ""
        help_text = f"{info.description} {limits_text}[paper: {_as_typed(getattr(default, name))}]"
        keywords["hidden"] = panel_of(info) == TRAINING_DATA and not training
        option = typer.Option(flags, help=help_text, rich_help_panel=panel_of(info), show_default=False, **keywords)
        parameters.append(_parameter(name, Annotated[annotation | None, option]))
        for old in (old for old, today in OLD_NAMES.items() if today == name):
            option = typer.Option(flag_of(old), **{**keywords, "hidden": True})
            parameters.append(_parameter(old, Annotated[annotation | None, option]))
    return parameters


def _as_typed(value: object) -> str:
    """A field's value as a person types it."""
    if value in (None, ()):
        return UNSET
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parameter(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def request_parameters(kind: type[Request], method: Description | None) -> list[inspect.Parameter]:
    """One keyword parameter an option of a request, its own before those that it shares with other commands."""
    names = dict.fromkeys(name for part in kind.__mro__ for name in inspect.get_annotations(part))
    spellings = {name: spelled(kind, name) for name in names if name in kind.model_fields}
    return [_request_parameter(kind, name, how, method) for name, how in spellings.items() if how is not None]


def _request_parameter(kind: type[Request], name: str, how: Keywords, method: Description | None) -> inspect.Parameter:
    info, words = kind.model_fields[name], _words(method)
    annotation: Any = info.annotation
    limits = info.metadata
    default: Any = inspect.Parameter.empty if info.is_required() else info.default
    if get_origin(annotation) is list:
        (one,) = get_args(annotation)
        if get_origin(one) is Annotated:
            one, ranged = get_args(one)
            annotation, limits = types.GenericAlias(list, one), ranged.metadata
    elif get_origin(required(annotation)) is tuple:
        annotation, default = str | None, ",".join(map(str, default or ())) or None
    if default == [] or (info.is_required() and "shown" in how):
        annotation, default = annotation | None, None
    if "as_text" in how:
        annotation, limits = str | None, []
    flags = flags_of(kind, name)
    if required(annotation) is bool and default is not False:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
    keywords: Keywords = {"help": _filled(info.description or "", words), "rich_help_panel": how["panel"] or None}
    for limit in limits:
        if hasattr(limit, "ge"):
            keywords["min"] = limit.ge
        elif hasattr(limit, "le"):
            keywords["max"] = limit.le
    if "metavar" in how:
        keywords["metavar"] = how["metavar"]
    if "shown" in how:
        keywords["show_default"] = _filled(how["shown"], words)
    if "complete" in how:
        keywords["autocompletion"] = lambda: _completed(how["complete"], method)
    if "argument" in how:
        return _parameter(name, Annotated[annotation, typer.Argument(**keywords)], default)
    hidden = "needs" in how and not getattr(method, how["needs"])
    return _parameter(name, Annotated[annotation, typer.Option(*flags, hidden=hidden, **keywords)], default)


def _filled(text: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def _words(method: Description | None) -> dict[str, str]:
    """What help texts say of a method, by the names that stand for it."""
    if method is None:
        return {}

    def listed(maps: Mapping[str, str]) -> str:
        return "; ".join(f"{name} = {text.rstrip('.')}" for name, text in maps.items())

    return {
        "method": method.name,
        "maps": listed(method.maps),
        "maps and explainers": listed({**method.maps, **method.explainers()}),
        "explainer names": ", ".join(EXPLAINERS),
        "map names": ", ".join(method.maps),
        "own prior": "text" if method.reads_texts else "class",
        "default map": next(iter(method.maps)),
        "default maps": " and ".join(method.default_maps(next(iter(method.recipes.values())).recipe)),
    }


def _completed(what: str, method: Description | None) -> list[str] | list[tuple[str, str]]:
    """What completes an option's value: names, or names with what they are of."""
    if what == "datasets":
        return [(name, info.title) for name, info in DATASETS.items()]
    if method is None:
        return list(METHODS)
    return list(method.recipes) if what == "recipes" else [*method.maps, *method.explainers()]


def read_request(kind: type[Q], typed: Mapping[str, object], **known: object) -> Q:
    """The request that a command's keyword arguments ask for; `known` is what the command itself tells.

    Raises:
        UsageError: as `Request.of`.
    """
    return kind.of(typed_options(kind, typed) | known)


def typed_options(kind: type[Request], typed: Mapping[str, object]) -> dict[str, object]:
    """The options of a request that were typed, out of all keyword arguments of a command."""
    return {name: typed[name] for name in kind.model_fields if typed.get(name) is not None}


def _click_type(annotation: Any) -> tuple[Any, Keywords]:
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


def typed_fields(method: Description, values: Mapping[str, object], kind: type[Request] = Request) -> Fields:
    """The recipe fields that a person typed, out of all keyword arguments of a command; an option of its request that
    is called like a field, such as --decode of val, is none."""
    fields = method.recipe_type.model_fields
    names = [name for name in (*fields, *OLD_NAMES) if name not in kind.model_fields]
    typed = {name: values[name] for name in names if values.get(name) is not None}
    typed = todays_names(method.recipe_type, typed)
    off = [name for name, value in typed.items() if value == UNSET and type(None) in get_args(fields[name].annotation)]
    return {name: None if name in off else value for name, value in typed.items()}


def of_task(arguments: list[str]) -> list[str]:
    """Put the method in the first argument's place that does what `--task`, or the checkpoint, asks of that paper.

    `--task` itself stays where the method has several tasks, as an option of its recipe.

    Raises:
        UsageError: no such task, or two.
    """
    paper, *rest = arguments
    if paper not in TASKS:
        return arguments
    tasks = TASKS[paper]
    if (times := len(values_of("--task", rest))) > 1:
        raise UsageError(typed_again("--task", times))
    task, checkpoint = value_of("--task", rest), value_of("--load-from", rest)
    if task is None:
        stored = stored_method(Path(checkpoint)) if checkpoint is not None else paper
        return [stored, *rest] if stored is not None and stored in tasks.values() else arguments
    name = method_of_task(paper, task)
    if "task" not in get_description(name).recipe_type.model_fields:
        position = next(i for i, word in enumerate(rest) if word.split("=")[0] == "--task")
        del rest[position : position + (1 if "=" in rest[position] else 2)]
    return [name, *rest]


def paragraphs(text: str) -> str:
    """A docstring's text with each paragraph as one line."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def in_lines(*lines: str) -> str:
    """Text below a help page, a line each."""
    return "\n".join(("\b", *lines))


def value_of(option: str, arguments: list[str]) -> str | None:
    """The value of an option in arguments that nobody has parsed yet; the first of several."""
    return next(iter(values_of(option, arguments)), None)


def values_of(option: str, arguments: list[str]) -> list[str]:
    """All values of an option in arguments that nobody has parsed yet."""
    pairs = zip_longest(arguments, arguments[1:], fillvalue="")
    found = [(word, following) for word, following in pairs if word == option or word.startswith(option + "=")]
    return [word.partition("=")[2] or following for word, following in found]


def by_our_rules(command: Any) -> Any:
    """Return a command, and all below it, which takes an option of one value once, and whose help texts are shown as
    they are written: `[x]` is not markup, and a paragraph is as wide as the page."""
    each_once(flags_take_nothing(command))
    for place in (command, *command.params):
        for name in ("help", "short_help", "epilog"):
            if text := getattr(place, name, None):
                setattr(place, name, literal(text if name == "epilog" else paragraphs(text)))
    for child in getattr(command, "commands", {}).values():
        by_our_rules(child)
    return command


def method_commands(
    name: str, kind: type[Request], build: Callable[[Description], Callable[..., None]], words: str, *examples: str
) -> typer.Typer:
    """A group with one sub-command a method, each built (and its recipe imported) only when it is asked for.

    Its help is in two levels (cli/help_levels.py), and ends with the `examples`: what follows a method's name.
    A paper with several tasks has a method for each: `absvit --task segmentation` is `absvit-segmentation`, and without
    `--task` the checkpoint that is to be loaded says which.
    """

    class MethodGroup(TyperGroup):
        def list_commands(self, ctx: object) -> list[str]:
            return list(METHODS)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            return super().resolve_command(ctx, of_task(args))

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return of_method(cmd_name)

    @cache
    def of_method(method_name: str) -> Any:
        method = get_description(method_name)
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        about = f"{method.title}. {method.paper}"
        single.command(method_name, help=about, epilog=shown(method_name))(build(method))
        return in_two_levels(by_our_rules(get_command(single)), kind, method)

    def shown(method: str) -> str:
        return in_lines("Examples:", *(f"attnbias {name} {method} {example}" for example in examples))

    group = typer.Typer(
        name=name,
        cls=MethodGroup,
        no_args_is_help=True,
        help=words,
        epilog=shown("csra"),
        subcommand_metavar="METHOD [OPTIONS]",
    )
    group.callback()(lambda: None)  # a group without commands of its own exists by its callback
    return group


def with_options(
    command: Callable[..., T],
    kind: type[Request] | None,
    method: Description | None = None,
    *,
    training: bool = False,
) -> Callable[..., T]:
    """Give a command's signature the options of its request beside its own parameters, and the method's recipe fields,
    those of training if asked; help in two levels where there are both."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    asked = request_parameters(kind, method) if kind else []
    of_recipe = recipe_parameters(method, training) if method else []
    for more in (asked, of_recipe):
        names = {p.name for p in parameters}
        parameters += [p for p in more if p.name not in names]
    if kind and method:
        parameters.append(_parameter("help_all", HelpAll, False))
    return with_parameters(command, parameters)


def with_parameters(command: Callable[..., T], parameters: list[inspect.Parameter]) -> Callable[..., T]:
    """Give a function, which takes any keywords, the signature that Typer reads."""
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
