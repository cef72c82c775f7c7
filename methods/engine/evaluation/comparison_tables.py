"""What `compare` found, as text, CSV and JSON. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from attnbias.data.reading import Json
from attnbias.methods.engine.evaluation.comparison import Line, reading_aid
from attnbias.methods.engine.evaluation.over_seeds import Compared, SeedLine
from attnbias.methods.engine.statistics import Change
from attnbias.methods.engine.text import figure, markdown_cell


def as_markdown(found: Compared) -> str:
    """A Markdown table: one row per measure, one column per run, differences to the first with their 95 % intervals;
    below it, which runs cannot be held against the first. Then the same by recipe, over seeds."""
    names, lines = [run.name for run in found.runs], found.lines
    rows = [[line.split, line.measure, *map(cell, line.values, line.changes)] for line in lines]
    text = _table(names, rows, [*(remark for line in lines for remark in line.remarks), *reading_aid(lines)])
    if found.over_seeds:
        rows = [[line.split, line.measure, *seed_cells(line)] for line in found.over_seeds]
        text += "\nOver seeds\n\n" + _table([recipe.name for recipe in found.recipes], rows, seed_aid(found.over_seeds))
    return text


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    head = [["split", "measure", *map(markdown_cell, names)], ["---", "---", *("---:" for _ in names)]]
    body = [[markdown_cell(split), *cells] for split, *cells in rows]
    table = [f"| {' | '.join(row)} |\n" for row in (*head, *body)]
    return "".join([*table, *(f"\n{markdown_cell(remark)}\n" for remark in remarks)])


def as_csv(found: Compared) -> list[list[str]]:
    """Rows of a CSV table, the header first: one row per split, measure and run; then one per recipe of several seeds,
    with their number and their standard deviation."""
    header = ["split", "measure", "run", "method", "value", "difference", "low_95", "high_95", "p", "p_together"]
    rows = [[*header, "seeds", "deviation"]]
    for line in found.lines:
        for position, run in enumerate(found.runs):
            rows.append([line.split, line.measure, run.name, run.method.name, *_figures(line, position), "", ""])
    for line in found.over_seeds:
        for position, recipe in enumerate(found.recipes):
            spread = line.deviations[position]
            own = [str(line.seeds[position]), figure(spread)]
            rows.append([line.split, line.measure, recipe.name, recipe.method, *_figures(line, position), *own])
    return rows


def _figures(line: Line, position: int) -> list[str]:
    """A value and its difference to the first one, as texts."""
    found = line.changes[position]
    edges = (found and found.interval_95) or (None, None)
    figures = (found.difference, *edges, found.p, found.p_together) if found else (None,) * 5
    return [figure(each) for each in (line.values[position], *figures)]


def as_json(found: Compared) -> Json:
    """Runs with their curves and recipes, and all lines; recipes of several seeds, and the same lines over seeds."""
    return {
        "runs": [
            {
                "run": run.name,
                "method": run.method.name,
                "measure": run.measure,
                "curves": run.curves,
                "recipe": run.recipe.model_dump(mode="json"),
            }
            for run in found.runs
        ],
        "lines": [asdict(line) for line in found.lines],
        "recipes": [{"recipe": recipe.name, **asdict(recipe)} for recipe in found.recipes],
        "lines_over_seeds": [asdict(line) for line in found.over_seeds],
    }


def seed_cells(line: SeedLine) -> list[str]:
    """Means, deviations and numbers of seeds, and differences to the first recipe, as texts."""
    cells = []
    for value, spread, seeds, change in zip(line.values, line.deviations, line.seeds, line.changes, strict=True):
        if value is None:
            cells.append("-")
            continue
        deviation = "" if spread is None else f" ± {spread:.{decimals_of(value)}f}"
        moved = cell(value, change).removeprefix(number(value))
        cells.append(f"{number(value)}{deviation} of {seeds}{moved}")
    return cells


def seed_aid(lines: Sequence[SeedLine]) -> list[str]:
    """What has to be said of all figures over seeds."""
    fewer = [line.measure for line in lines if any(pairs < line.pairs[0] for pairs in line.pairs)]
    missing = f"not all of the first recipe's seeds are paired: {', '.join(dict.fromkeys(fewer))}"
    return [
        "over seeds: mean ± standard deviation of so many seeds; differences are paired by seed, and their intervals "
        "say what other seeds would give on the same images",
        *reading_aid(lines, "seeds"),
        *([missing] if fewer else []),
    ]


def cell(value: float | None, change: Change | None) -> str:
    """A value and its difference to the first run, as text; * marks what holds among all differences."""
    if value is None:
        return "-"
    if change is None:
        return number(value)
    decimals = decimals_of(value)
    words = [f"{change.difference:+.{decimals}f}"]
    if change.interval_95 is not None:
        words.append("[{}]".format(", ".join(f"{edge:+.{decimals}f}" for edge in change.interval_95)))
    return f"{number(value)} ({' '.join(words)}){'*' if change.sure else ''}"


def number(value: float) -> str:
    """A value as text: per cent with one decimal, shares with three, counts in full."""
    return f"{value:,.{decimals_of(value)}f}"


def decimals_of(value: float) -> int:
    """How many decimals a value, and its differences, are written with."""
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
