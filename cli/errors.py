"""What Typer refuses, in our words; any other error is described as the engine does it (methods/engine/describe.py)."""

from __future__ import annotations

from typing import Any

import typer

from attnbias.methods.engine import describe as engine
from attnbias.methods.engine.errors import UsageError, did_you_mean

Part = Any
"""A command, its context, parser, parameter or error: of Typer's own click in some versions, of the click package in
others."""

TypedWrong: Part = typer.BadParameter.__mro__[1]
"""Click's UsageError, of which Typer has its own copy in some versions and the click package's in others."""


def describe(error: BaseException) -> tuple[int, str]:
    """(exit code, one line) of an error; the line is empty where Typer showed the help, for no arguments at all."""
    if not isinstance(error, TypedWrong):
        return engine.describe(error)
    if not (words := _in_our_words(error)):
        return 2, ""
    refused = UsageError(words)
    refused.__cause__ = error
    return engine.describe(refused)


def _in_our_words(error: Part) -> str:
    """One line, the nearest option, where to read more."""
    words = error.format_message().replace("Value error, ", "").replace(". Did you", "; did you").rstrip(".")
    if not words:
        return ""
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        near = did_you_mean(error.option_name, error.possibilities or ())
        if not near and (kind := getattr(error.ctx and error.ctx.command, "subcommand_metavar", "").split(" ")[0]):
            near = (
                f" before {kind}; options of one stand behind it: {error.ctx.command_path} {kind} {error.option_name}"
            )
        words = f"no such option {error.option_name}{near}"
    more = f"; see: {error.ctx.command_path} --help" if error.ctx else ""
    return f"{words[:1].lower()}{words[1:]}{more}"
