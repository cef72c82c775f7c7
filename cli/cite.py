"""`attnbias cite METHOD`: BibTeX of the paper, of the program that its numbers come from, and of attnbias."""

from __future__ import annotations

from typing import Annotated

import typer

from attnbias import __version__
from attnbias.methods import METHODS
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.screen import say


def cite(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Whose paper.", autocompletion=lambda: list(METHODS))],
) -> None:
    """Print BibTeX entries: the method's paper, its published program, and attnbias."""
    paper = get_description(method).paper
    own = f"@software{{attnbias,\n  title        = {{attnbias}},\n  version      = {{{__version__}}},\n}}"
    say(*paper.bibtex().split("\n"), "", *own.split("\n"))
