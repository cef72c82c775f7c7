"""`attnbias compare RUN...`: finished or running runs side by side, from their metrics logs; imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from attnbias.methods import get_method
from attnbias.methods.engine.errors import UsageError
from attnbias.weights.errors import WeightsError

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Run:
    """What a run folder's metrics log says of the measure that decides."""

    name: str
    measure: str
    curves: dict[str, dict[int, float]]
    """Split -> epoch -> value; of raw and averaged weights the better one on the first split."""


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of attnbias train.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the curves as JSON.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --json file.")] = False,
) -> None:
    """Show runs side by side: their measures on every evaluated split, and the gap to the first split over epochs."""
    if json_file is not None and json_file.exists() and not overwrite:
        raise UsageError(f"{json_file} exists; choose another name or add --overwrite")
    read = [_read(path) for path in runs]
    splits = list(dict.fromkeys(split for run in read for split in run.curves))
    console = Console()
    console.print(_last_values(read, splits))
    if len(splits) > 1:
        console.print(_gaps(read, splits[0], splits[1]))
    if json_file is not None:
        content = [{"run": run.name, "measure": run.measure, "curves": run.curves} for run in read]
        json_file.write_text(json.dumps(content, indent=1) + "\n")


def _read(path: Path) -> Run:
    try:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        method = get_method(yaml.safe_load((path / "recipe.yaml").read_text())["method"])
    except OSError as error:
        raise WeightsError(f"{path} is no run folder ({error.filename}: {error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{path / 'metrics.jsonl'} is damaged; resume the run to mend it") from None
    evaluated = [line for line in lines if line["split"] != "train"]
    if not evaluated:
        raise WeightsError(f"{path} holds no evaluation yet")
    measure = next(
        name for name in (method.deciding_measure(t) for t in ("multilabel", "singlelabel")) if name in evaluated[0]
    )
    splits = list(dict.fromkeys(line["split"] for line in evaluated))
    best = max((line for line in evaluated if line["split"] == splits[0]), key=lambda line: line[measure])
    curves = {
        split: {
            line["epoch"]: line[measure]
            for line in evaluated
            if line["split"] == split and line["weights"] == best["weights"]
        }
        for split in splits
    }
    return Run(str(path), measure, curves)


def _last_values(runs: list[Run], splits: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"{runs[0].measure} after the last epoch", title_justify="left")
    table.add_column("run")
    for split in (*splits, *(f"gap {splits[0]} - {split}" for split in splits[1:])):
        table.add_column(split, justify="right")
    for run in runs:
        last = {split: list(curve.values())[-1] for split, curve in run.curves.items()}
        gaps = [last[splits[0]] - last[split] if split in last else None for split in splits[1:]]
        cells = [last.get(split) for split in splits] + gaps
        table.add_row(run.name, *("-" if cell is None else f"{cell:.1f}" for cell in cells))
    return table


def _gaps(runs: list[Run], reference: str, other: str) -> Table:
    """How the gap between two splits went over the epochs: a line of bars, and its values at a few epochs."""
    gaps = {
        run.name: {
            e: v - run.curves[other][e] for e, v in run.curves[reference].items() if e in run.curves.get(other, {})
        }
        for run in runs
    }
    highest = max((value for curve in gaps.values() for value in curve.values()), default=0) or 1
    epochs = sorted({epoch for curve in gaps.values() for epoch in curve})
    shown = sorted({epochs[place * (len(epochs) - 1) // 4] for place in range(5)})
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=f"gap {reference} - {other} over epochs (full bar: {highest:.1f})",
        title_justify="left",
    )
    for column in ("run", "epochs", *(f"@{epoch}" for epoch in shown)):
        table.add_column(column, justify="left" if column in ("run", "epochs") else "right")
    for name, curve in gaps.items():
        bars = "".join(BARS[max(0, round(8 * value / highest))] for value in curve.values())
        table.add_row(name, bars, *(f"{curve[epoch]:.1f}" if epoch in curve else "-" for epoch in shown))
    return table
