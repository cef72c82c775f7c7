"""`attnbias cite METHOD`: BibTeX of the paper, of the program that its numbers come from, and of attnbias."""

from __future__ import annotations

from typing import Annotated

import typer

from attnbias.methods import METHODS
from attnbias.methods.engine import listing as engine
from attnbias.methods.engine.screen import say


def cite(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Whose paper.", autocompletion=lambda: list(METHODS))],
) -> None:
    """Print BibTeX entries: the method's paper, its published program, and attnbias."""
    say(*engine.cite(method).split("\n"))
