"""Help in two levels: `--help` shows what most people set and three examples, `--help-all` shows every option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from attnbias.cli.errors import Part
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.recipe import OF_THE_METHOD, Recipe, panel_of
from attnbias.methods.engine.requests import RUN, Request, TrainRequest, spelled
from attnbias.methods.engine.screen import OptionTable, say

RARE = "attnbias_rare"
"""The mark of an option that only `--help-all` shows."""


def is_common(kind: type[Request], method: Description, name: str) -> bool:
    """Whether most people set an option of a command, or a field of its recipe: those that say so, in training all of
    the method's own, and what a command asks for beside how it runs."""
    if name in kind.model_fields:
        how = spelled(kind, name) or {}
        return bool(how.get("often", how.get("panel") != RUN))
    fields = method.recipe_type.model_fields
    if name not in fields:
        return name not in ("jobs", "verbose")
    for info in (fields[name], Recipe.model_fields.get(name)):
        extra = info.json_schema_extra if info is not None else None
        if isinstance(extra, dict) and "often" in extra:
            return bool(extra["often"])
    return kind is TrainRequest and panel_of(fields[name]) == OF_THE_METHOD


def in_two_levels(command: Part, kind: type[Request], method: Description) -> Part:
    """Return a command that hides what few people set from `--help`."""
    for parameter in command.params:
        if not parameter.hidden and not is_common(kind, method, parameter.name):
            parameter.hidden = True
            setattr(parameter, RARE, True)
    return command


def _show_all(context: typer.Context, asked: bool) -> None:
    if not asked:
        return
    rare: list[Part] = [parameter for parameter in context.command.params if getattr(parameter, RARE, False)]
    for parameter in rare:
        parameter.hidden = False
    if text := context.get_help():  # what was not printed already
        say(*text.split("\n"))
    for parameter in rare:  # the next command of this process hides them again
        parameter.hidden = True
    raise typer.Exit


HelpAll = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit.")
]


def flags_take_nothing(command: Part) -> Part:
    """Return a command whose help gives flags no value, and cuts nothing off where lines are short."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    command.get_help_option = _without_value(command.get_help_option)
    command.format_help = _with_whole_names(command.format_help)
    return command


def _with_whole_names(show: Callable[..., None]) -> Callable[..., None]:
    def shown(context: typer.Context, formatter: object) -> None:
        from typer import rich_utils  # brings readers of Markdown, and only help wants it

        vars(rich_utils)["Table"] = OptionTable
        show(context, formatter)

    return shown


def _without_value(get: Callable[[Part], Part]) -> Callable[[Part], Part]:
    def found(context: Part) -> Part:
        option = get(context)
        if option is not None:
            option.metavar = ""
        return option

    return found
