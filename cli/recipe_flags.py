"""Recipe flags of commands that learn the method from the weights: taken as text first, read once it is known."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperCommand
from typer.main import get_command

from attnbias.cli.errors import TypedWrong
from attnbias.cli.options import (
    of_task,
    recipe_parameters,
    typed_fields,
    value_of,
    with_options,
    with_parameters,
)
from attnbias.errors import AttnbiasError
from attnbias.methods import METHODS, TASKS
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.requests import OfAnyMethod
from attnbias.methods.engine.types import Fields

Q = TypeVar("Q", bound=OfAnyMethod)

OPTIONS, FLAGS = "attnbias.recipe_options", "attnbias.recipe_flags"
"""Entries of a context's `meta`: the options that a command takes beside its own, and what was typed of them, one word
each: `--lam=0.4`, `--no-flip`."""


class WithRecipeFlags(TyperCommand):
    """A command that takes the recipe flags of every method, or of the one that `--method` names, beside its own.

    Its function takes them by `with_recipe_flags`. They are not in its help, which says where they are listed.
    """

    def get_params(self, ctx: Any) -> Any:
        return [*super().get_params(ctx), *ctx.meta.get(OPTIONS, ())]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        method = value_of("--method", args)
        methods = [method, *TASKS.get(method, {}).values()] if method in METHODS else METHODS
        own = {parameter.name for parameter in self.params}
        ctx.meta[OPTIONS] = [option for option in _text_options(methods) if option.name not in own]
        rest = super().parse_args(ctx, args)
        typed = {option.name: ctx.params.pop(option.name) for option in ctx.meta[OPTIONS]}
        ctx.meta[FLAGS] = [_as_typed(name, value) for name, value in typed.items() if value is not None]
        return rest


def with_recipe_flags(request: Q, context: typer.Context) -> Q:
    """A request with the recipe fields that were typed, and the method that they are of."""
    flags: list[str] = context.meta[FLAGS]
    if not flags:
        return request
    if request.method is None:
        _refuse_for_all(request, flags)
    from attnbias.methods.engine.load import owner

    return _told(request, owner(request), flags)


def _told(request: Q, method: str, flags: list[str]) -> Q:
    name, fields = read_flags(method, flags)
    told = request.model_copy(update={"method": name, "fields": fields})
    told.refuse()
    return told


def _refuse_for_all(request: OfAnyMethod, flags: list[str]) -> None:
    """Refuse flags that no method takes so, before weights are read to learn whose they are."""
    refused: list[Exception] = []
    for method in METHODS:
        try:
            _told(request, method, flags)
        except (AttnbiasError, TypedWrong) as error:
            refused.append(error)
        else:
            return
    said = Counter(map(str, refused))
    raise min(refused, key=lambda error: (_says_little(error), -said[str(error)]))


def _says_little(error: Exception) -> int:
    """How little a refusal says of what was typed: a method without an option says only that there is none."""
    return 0 if isinstance(error, AttnbiasError) else 1 + hasattr(error, "possibilities")


def read_flags(method: str, flags: list[str]) -> tuple[str, Fields]:
    """The method (that of `--task`, where it is typed) and its recipe fields, as `attnbias val METHOD` reads them.

    Raises:
        Typer's errors of usage: a flag is of another method, or its value is none. UsageError: no such task.
    """
    name, *words = of_task([method, *flags])
    known = get_description(name)

    def fields(**values: Any) -> Fields:
        return typed_fields(known, values)

    reader = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    reader.command()(with_options(fields, None, known))
    command = get_command(reader)
    return name, command.main(args=words, prog_name=f"attnbias val {name}", standalone_mode=False)


def _text_options(methods: Iterable[str]) -> list[Any]:
    """The recipe fields of methods as hidden options whose values are any text.

    A field that is a switch in one of them and a value in another takes a value: `--method` tells which it is.
    """
    switches: dict[str, bool] = {}
    for method in methods:
        for field in recipe_parameters(get_description(method), training=False):
            is_switch = get_args(field.annotation)[0] == bool | None
            switches[field.name] = switches.get(field.name, True) and is_switch
    parameters = []
    for name, is_switch in switches.items():
        word = name.replace("_", "-")
        option = typer.Option(f"--{word}/--no-{word}" if is_switch else f"--{word}", hidden=True)
        annotation: Any = Annotated[bool | None, option] if is_switch else Annotated[str | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    def fields(**values: object) -> None:
        """Only its signature is of use."""

    holder = typer.Typer(add_completion=False)
    holder.command()(with_parameters(fields, parameters))
    return list(get_command(holder).params)


def _as_typed(name: str, value: bool | str) -> str:
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{word}" if value else f"--no-{word}"
    return f"--{word}={value}"
