"""`attnbias compare RUN...`: runs side by side, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbias.cli.options import read_request
from attnbias.methods.engine.requests import CompareRequest
from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.methods.engine.compare import Comparison
    from attnbias.methods.engine.evaluation.comparison import Run
    from attnbias.methods.engine.evaluation.over_seeds import Repeated, SeedLine

BARS = " ▁▂▃▄▅▆▇█"


def compare(**typed: object) -> None:
    """Show runs side by side, with differences to the first and their intervals.

    Learning curves, and what `attnbias val --store` kept, with 95 % intervals over images; runs of one recipe with
    other seeds also together, with intervals over seeds.
    """
    request = read_request(CompareRequest, typed)
    from attnbias.methods.engine.compare import compare

    found = compare(request)
    show(found)
    if found.written:
        say(f"written: {', '.join(map(str, found.written))}")


def show(found: Comparison) -> None:
    """Learning curves, every measure of all runs, and what no run keeps."""
    from attnbias.methods.engine.evaluation.comparison import reading_aid
    from attnbias.methods.engine.evaluation.comparison_tables import cell

    runs, lines = found.runs, found.lines
    logged = [run for run in runs if run.curves]
    splits = list(dict.fromkeys(split for run in logged for split in run.curves))
    if logged:
        _last_values(logged, splits).show()
    if len(splits) > 1:
        _gaps(logged, splits[0], splits[1]).show()
    for split in dict.fromkeys(line.split for line in lines):
        words = f"{split}, differences to {runs[0].name} [95 % interval]" if split and len(runs) > 1 else split
        table = Table("measure", title=words or "all splits")
        for run in runs:
            table.column(run.name, justify="right")
        for line in lines:
            if line.split == split:
                table.row(line.measure, *map(cell, line.values, line.changes))
        table.show()
    say(*(remark for line in lines for remark in line.remarks), *reading_aid(lines))
    _show_over_seeds(found.recipes, found.over_seeds)
    say(*found.missing)


def _show_over_seeds(recipes: Sequence[Repeated], lines: Sequence[SeedLine]) -> None:
    from attnbias.methods.engine.evaluation.comparison_tables import seed_aid, seed_cells

    for split in dict.fromkeys(line.split for line in lines):
        table = Table("measure", title=f"{split or 'all splits'}, over seeds [95 % interval of differences]")
        for recipe in recipes:
            table.column(recipe.name, justify="right")
        for line in lines:
            if line.split == split:
                table.row(line.measure, *seed_cells(line))
        table.show()
    if lines:
        say(*seed_aid(lines))


def _last_values(runs: Sequence[Run], splits: list[str]) -> Table:
    table = Table("run", title=f"{runs[0].measure} after the last epoch")
    for split in (*splits, *(f"gap {splits[0]} - {split}" for split in splits[1:])):
        table.column(split, justify="right")
    for run in runs:
        last = {split: list(curve.values())[-1] for split, curve in run.curves.items()}
        gaps = [last[splits[0]] - last[split] if {splits[0], split} <= set(last) else None for split in splits[1:]]
        values = [last.get(split) for split in splits] + gaps
        table.row(run.name, *("-" if value is None else f"{value:.1f}" for value in values))
    return table


def _gaps(runs: Sequence[Run], reference: str, other: str) -> Table:
    """How the gap between two splits went over the epochs: a line of bars, and its values at a few epochs."""
    gaps = {
        run.name: {
            e: v - run.curves[other][e]
            for e, v in run.curves.get(reference, {}).items()
            if e in run.curves.get(other, {})
        }
        for run in runs
    }
    highest = max((value for curve in gaps.values() for value in curve.values() if value > 0), default=1)
    epochs = sorted({epoch for curve in gaps.values() for epoch in curve})
    shown = sorted({epochs[position * (len(epochs) - 1) // 4] for position in range(5)})
    table = Table("run", "epochs", title=f"gap {reference} - {other} over epochs (full bar: {highest:.1f})")
    for epoch in shown:
        table.column(f"@{epoch}", justify="right")
    for name, curve in gaps.items():
        bars = "".join(BARS[max(0, round(8 * value / highest))] for value in curve.values())
        table.row(name, bars, *(f"{curve[epoch]:.1f}" if epoch in curve else "-" for epoch in shown))
    return table
