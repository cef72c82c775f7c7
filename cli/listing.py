"""`attnbias list methods|recipes|datasets|weights`: what there is, from tables that need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbias.cli.options import read_request, with_options
from attnbias.data.info import MANY_SPLITS
from attnbias.methods import METHODS
from attnbias.methods.engine.listing import list_datasets, list_methods, list_recipes, list_weights
from attnbias.methods.engine.requests import Datasets
from attnbias.methods.engine.screen import Table, say, styled

if TYPE_CHECKING:
    from attnbias.data.info import DatasetInfo
    from attnbias.weights.manifest import Published

listing = typer.Typer(no_args_is_help=True, help="Show methods, recipes, datasets or published weights.")


@listing.command()
def methods() -> None:
    """Show the methods and their papers."""
    table = Table("method", "what", "paper")
    for row in list_methods():
        table.row(row.name, row.title, row.paper)
    table.show()


@listing.command()
def recipes(
    method: Annotated[
        str | None, typer.Argument(help="Only this method's.", autocompletion=lambda: list(METHODS))
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show sources and notes.")] = False,
) -> None:
    """Show the named recipes, with what the paper reports for each."""
    rows = list_recipes(method)
    if verbose:
        for row in rows:
            facts = {
                "dataset": row.dataset,
                "reports": _figures(row.reports),
                "starts from": row.starts_from,
                "source": row.source,
                "note": row.note,
            }
            _facts(f"{row.method} {row.name}", facts)
        return
    table = Table("method", "recipe", "dataset", "paper reports", names=2)
    for row in rows:
        table.row(row.method, row.name, row.dataset, _figures(row.reports))
    table.show()


def datasets(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show classes, splits, licences, pages and expected files.")
    ] = False,
    **typed: object,
) -> None:
    """Show the datasets, how each is obtained, and which are ready on this machine."""
    root = read_request(Datasets, typed).data_root
    if verbose:
        from attnbias.data.registry import DATASETS

        for info in DATASETS.values():
            _facts(f"{info.name}  {info.title}", _details(info, root))
        return
    table = Table("dataset", "what", "task", "size", "obtained", "ready", names=1)
    for row in list_datasets(root):
        state = styled("yes", "green") if row.ready else "no"
        table.row(row.name, row.title, row.task, row.size, row.obtained, state)
    table.show()
    say("", "licences, pages, files and what to type: attnbias list datasets -v")


listing.command()(with_options(datasets, Datasets))


def _details(info: DatasetInfo, root: Path | None) -> dict[str, str]:
    """Everything else that is known of a dataset."""
    from attnbias.data.fetch.acquire import named
    from attnbias.data.registry import ready

    many = len(info.splits) > MANY_SPLITS
    splits = f"{len(info.splits)}, {info.splits[0]} to {info.splits[-1]}" if many else ", ".join(info.splits)
    return {
        "task": f"{info.task}; classes: {info.classes_in_words}",
        "splits": splits,
        "size": info.size,
        "licence": info.licence,
        "cite": info.citation,
        "page": info.page,
        "files": ", ".join(named(archive) for archive in info.archives),
        "or folders": info.layout,
        "ready": "yes" if ready(info.name, root) else "no",
        "run": f"attnbias prepare-data {info.name}{info.arguments}",
    }


@listing.command()
def weights(
    method: Annotated[
        str | None, typer.Argument(help="Only what this method loads.", autocompletion=lambda: list(METHODS))
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show links, checksums and licences.")] = False,
) -> None:
    """Show the published weights that --load-from and --backbone-weights take by name."""
    from attnbias.weights.cache import cache_folder
    from attnbias.weights.manifest import PUBLISHED

    rows = list_weights(method)
    if verbose:
        for row in rows:
            _facts(row.name, _info(PUBLISHED[row.name]))
    else:
        for of in sorted({row.of for row in rows}, key=lambda of: (of == "backbone", of)):
            table = Table("backbones" if of == "backbone" else f"models of {of}", "MB", "reports", "obtained", names=1)
            for row in (row for row in rows if row.of == of):
                size = f"{row.megabytes:.0f}" if row.megabytes else "?"
                obtained = styled("on this disk", "green") if row.path else row.obtained
                table.row(row.name, size, _figures(row.reports), obtained)
            table.show()
            say("")
    say(f"kept in {cache_folder()}; links and licences: attnbias list weights -v")


def _facts(title: str, facts: Mapping[str, str]) -> None:
    """What is known of one thing, a fact a line, as long as it is."""
    say(title, style="bold")
    wide = max(map(len, facts)) + 2
    say(*(f"  {name:<{wide}}{text}" for name, text in facts.items() if text), "")


def _figures(reports: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value}" for key, value in reports.items()) or "-"


def _info(entry: Published) -> dict[str, str]:
    """Everything that is known of a published file."""
    from attnbias.methods.engine.published import in_cache
    from attnbias.weights.cache import cache_folder

    return {
        "of": f"recipe {entry.recipe}" if entry.recipe else "a backbone",
        "for": ", ".join(entry.methods),
        "reports": ", ".join(f"{key} {value}" for key, value in entry.paper.items()),
        "licence": entry.licence,
        "size": f"about {entry.megabytes:g} MB" if entry.megabytes else "",
        "checksum": f"{entry.algorithm} {entry.digest}..." if entry.digest else "none published",
        "link": entry.url,
        "on disk": str(in_cache(entry) or "no"),
        "put at": str(cache_folder() / entry.name / entry.file) if entry.browser else "",
        "use": "" if entry.refused else f"{entry.option} {entry.name}",
        "refused": entry.refused,
    }
