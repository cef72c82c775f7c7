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
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, rich_help_panel=RUN, help="GPUs of this machine; 0 = CPU.", show_default="1 if there is one"
    ),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, max=4096, rich_help_panel=RUN, help="Processes on the CPU (with --gpus 0)."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        max=4096,
        rich_help_panel=RUN,
        help="Loader processes a process.",
        show_default="0 on CPU, up to 8 a GPU",
    ),
]
EvalBatchSize = Annotated[
    int,
    typer.Option(
        "--eval-batch-size", min=1, max=2**31, rich_help_panel=RUN, help="Pictures at once in evaluation, a process."
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=4096, rich_help_panel=RUN, help="CPU threads a process.")
]
OnBadImage = Annotated[
    Literal["error", "skip"],
    typer.Option("--on-bad-image", rich_help_panel=RUN, help="An unreadable picture: stop, or leave out and say so."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", rich_help_panel=RUN, help="cpu, cuda, cuda:1 ...", show_default="cuda if there is one"),
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
