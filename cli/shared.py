"""Options that several commands have in common: one name, one help text, one default, wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.models import OptionInfo

from attnbias.methods.engine.description import Description

RUN = "Run (does not change the numbers)"

DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        "--root",
        rich_help_panel=RUN,
        help="Where prepared datasets stand.",
        show_default="$ATTNBIAS_DATA or ./datasets",
    ),
]
Weights = Annotated[
    Literal["raw", "ema"] | None,
    typer.Option("--weights", help="Which weights of a checkpoint.", show_default="those of the best measure"),
]
TrustCheckpoint = Annotated[bool, typer.Option("--trust-checkpoint", help="Read pickles that may run code.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace what an earlier run of the command wrote.")
]


def recipe_option(method: Description, words: str) -> OptionInfo:
    """`--recipe` of a method's command, with its names to complete."""
    option: OptionInfo = typer.Option("--recipe", help=words, autocompletion=lambda: list(method.recipes))
    return option
