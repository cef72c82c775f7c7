"""`attnbias list methods|recipes|datasets`: what there is, from tables that need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from attnbias.methods import METHODS, get_method

listing = typer.Typer(no_args_is_help=True, help="Show methods, recipes or datasets.")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@listing.command()
def methods() -> None:
    """Show the methods and their papers."""
    table = _table("method", "what", "paper")
    for name in METHODS:
        method = get_method(name)
        table.add_row(name, method.title, method.paper)
    Console().print(table)


@listing.command()
def recipes(
    method: Annotated[
        str | None, typer.Argument(help="Only this method's.", autocompletion=lambda: list(METHODS))
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show sources and notes.")] = False,
) -> None:
    """Show the named recipes, with what the paper reports for each."""
    table = _table("method", "recipe", "dataset", "paper reports", *(["source", "note"] if verbose else []))
    for name in [method] if method else METHODS:
        for title, named in get_method(name).recipes.items():
            figures = ", ".join(f"{key} {value}" for key, value in named.paper.items()) or "-"
            words = [named.source, named.note] if verbose else []
            table.add_row(name, title, named.recipe.dataset, figures, *words)
    Console().print(table)


@listing.command()
def datasets(
    root: Annotated[Path | None, typer.Option("--root", help="Where prepare-data put the sets.")] = None,
) -> None:
    """Show the datasets, their terms, and which are ready on this machine."""
    from attnbias.data.registry import DATASETS, ready

    table = _table("dataset", "what", "task", "classes", "size", "obtained", "ready", "licence")
    for name, facts in DATASETS.items():
        state = "[green]yes[/green]" if ready(name, root) else "no"
        table.add_row(name, facts.title, facts.task, facts.classes, facts.size, facts.acquisition, state, facts.licence)
    Console().print(table)
