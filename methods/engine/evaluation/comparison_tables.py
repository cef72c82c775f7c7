"""What `compare` found, as text, CSV and JSON. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from attnbias.data.reading import Json
from attnbias.methods.engine.evaluation.comparison import Line, Run, reading_aid
from attnbias.methods.engine.statistics import Change
from attnbias.methods.engine.text import markdown_cell


def as_markdown(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    """A Markdown table: one row per measure, one column per run, differences to the first with their 95 % intervals;
    below it, which runs cannot be held against the first."""
    rows = [["split", "measure", *(markdown_cell(run.name) for run in runs)], ["---", "---", *("---:" for _ in runs)]]
    rows += [[markdown_cell(line.split), line.measure, *map(cell, line.values, line.changes)] for line in lines]
    remarks = [*(remark for line in lines for remark in line.remarks), *reading_aid(lines)]
    return "".join(
        [*(f"| {' | '.join(row)} |\n" for row in rows), *(f"\n{markdown_cell(remark)}\n" for remark in remarks)]
    )


def as_csv(runs: Sequence[Run], lines: Sequence[Line]) -> list[list[str]]:
    """Rows of a CSV table, the header first: one row per split, measure and run."""
    rows = [["split", "measure", "run", "method", "value", "difference", "low_95", "high_95", "p", "p_together"]]
    for line in lines:
        for run, value, found in zip(runs, line.values, line.changes, strict=True):
            edges = (found and found.interval_95) or (None, None)
            figures = (found.difference, *edges, found.p, found.p_together) if found else (None,) * 5
            numbers = ["" if figure is None else f"{figure:.8g}" for figure in (value, *figures)]
            rows.append([line.split, line.measure, run.name, run.method.name, *numbers])
    return rows


def as_json(runs: Sequence[Run], lines: Sequence[Line]) -> Json:
    """Runs with their curves and recipes, and all lines."""
    return {
        "runs": [
            {
                "run": run.name,
                "method": run.method.name,
                "measure": run.measure,
                "curves": run.curves,
                "recipe": run.recipe.model_dump(mode="json"),
            }
            for run in runs
        ],
        "lines": [asdict(line) for line in lines],
    }


def cell(value: float | None, change: Change | None) -> str:
    """A value and its difference to the first run, as text; * marks what holds among all differences."""
    if value is None:
        return "-"
    if change is None:
        return number(value)
    decimals = _decimals(value)
    words = [f"{change.difference:+.{decimals}f}"]
    if change.interval_95 is not None:
        words.append("[{}]".format(", ".join(f"{edge:+.{decimals}f}" for edge in change.interval_95)))
    return f"{number(value)} ({' '.join(words)}){'*' if change.sure else ''}"


def number(value: float) -> str:
    """A value as text: per cent with one decimal, shares with three, counts in full."""
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
