"""The command line `attnbias`: registers the commands, turns errors into exit codes. Imports no torch."""

from __future__ import annotations

import os
import re
import signal
import sys
from functools import cache
from types import FrameType
from typing import Annotated

import typer
from typer.core import TyperGroup

from attnbias import __version__
from attnbias.cli.audit import audit
from attnbias.cli.cite import cite
from attnbias.cli.compare import compare
from attnbias.cli.doctor import doctor
from attnbias.cli.errors import describe
from attnbias.cli.explore import explore
from attnbias.cli.export import export
from attnbias.cli.listing import listing
from attnbias.cli.options import by_our_rules, in_lines, with_options
from attnbias.cli.predict import predict
from attnbias.cli.prepare_data import prepare_data
from attnbias.cli.priors import priors
from attnbias.cli.recipe_flags import WithRecipeFlags
from attnbias.cli.show import show
from attnbias.cli.train import train
from attnbias.cli.val import val
from attnbias.cli.visualize import visualize
from attnbias.cli.weights import weights
from attnbias.methods.engine.errors import Interrupted, UsageError
from attnbias.methods.engine.requests import (
    AuditRequest,
    CompareRequest,
    DoctorRequest,
    ExploreRequest,
    PredictRequest,
    PrepareRequest,
    PriorsRequest,
)
from attnbias.methods.engine.screen import prepare_output, say
from attnbias.methods.engine.variables import check_variables

WORK = (
    "prepare-data",
    "train",
    "val",
    "audit",
    "visualize",
    "explore",
    "predict",
    "compare",
    "priors",
    "export",
    "weights",
    "list",
    "show",
    "cite",
    "doctor",
)
"""Commands in the order of work."""


class InOrder(TyperGroup):
    """Lists the commands in the order of work."""

    def list_commands(self, ctx: object) -> list[str]:
        return sorted(self.commands, key=WORK.index)


app = typer.Typer(
    name="attnbias",
    cls=InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Five papers on attention bias behind one command line: train, evaluate, and see where a model looks.",
    epilog=in_lines(
        "First steps:", "attnbias prepare-data demo", "attnbias train csra --dataset demo", "attnbias list recipes"
    ),
)


def _version(asked: bool) -> None:
    if asked:
        say(f"attnbias {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch no weights: take them from the cache.")] = False,
) -> None:
    """Options before the command; --debug and --offline also behind it (`_to_the_front`)."""
    if debug:
        os.environ["ATTNBIAS_DEBUG"] = "1"
    if offline:
        os.environ["ATTNBIAS_OFFLINE"] = "1"


app.command("prepare-data", no_args_is_help=True)(with_options(prepare_data, PrepareRequest))
app.add_typer(train)
app.add_typer(val)
app.add_typer(visualize)
app.add_typer(export)
app.command("predict", cls=WithRecipeFlags, no_args_is_help=True)(with_options(predict, PredictRequest))
app.command("audit", cls=WithRecipeFlags, no_args_is_help=True)(with_options(audit, AuditRequest))
app.command("explore", cls=WithRecipeFlags, no_args_is_help=True)(with_options(explore, ExploreRequest))
app.command("compare", no_args_is_help=True)(with_options(compare, CompareRequest))
app.command("priors", cls=WithRecipeFlags, no_args_is_help=True)(with_options(priors, PriorsRequest))
app.command("show", no_args_is_help=True)(show)
app.command("cite", no_args_is_help=True)(cite)
app.command("doctor")(with_options(doctor, DoctorRequest))
app.add_typer(weights, name="weights")
app.add_typer(listing, name="list")


@cache
def program() -> TyperGroup:
    """The command line as click knows it, which a process builds once."""
    group: TyperGroup = by_our_rules(typer.main.get_command(app))
    return group


def main() -> None:
    """Run the command line and exit with its code."""
    prepare_output()
    _end_on_signals()
    try:
        check_variables()
        code = program()(args=_to_the_front(_none_empty(sys.argv[1:])), prog_name="attnbias", standalone_mode=False)
    except (Exception, Interrupted) as error:
        code, message = describe(error)
        if message:
            say(*message.split("\n"), error=True)
    sys.exit(code)


def _none_empty(arguments: list[str]) -> list[str]:
    """The words of a command line, of which none is empty: a path would be the working folder.

    Raises:
        UsageError: one is, as that of a shell's variable which is not set.
    """
    for word, before in zip(arguments, ["", *arguments], strict=False):
        if glued := re.fullmatch(r"(--[\w-]+)=", word):
            flag = glued[1]
        elif not word:
            flag = before if before.startswith("-") else "a word of the command"
        else:
            continue
        raise UsageError(f"{flag} is empty; give it a value, or leave it out (is a variable of the shell not set?)")
    return arguments


def _to_the_front(arguments: list[str]) -> list[str]:
    """Put options of all commands, which may stand anywhere, before the command; prepare-data has its own --offline."""
    own = ["--debug"] if "prepare-data" in arguments else ["--debug", "--offline"]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    moved = [word for word in arguments[:end] if word in own]
    return moved + [word for word in arguments[:end] if word not in own] + arguments[end:]


def _end_on_signals() -> None:
    """Let SIGINT and SIGTERM end the command in one line: the first in good order, a second one at once."""
    home = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != home:
            sys.exit(128 + number)  # a worker process that was forked from this one ends without a word
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):  # where an exception may be swallowed
                say(describe(Interrupted(number))[1], error=True)
                os._exit(128 + number)
            frame = frame.f_back
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
