"""`attnbias compare RUN...`: runs side by side, from what their folders hold; loads models only where that is asked."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbias.cli.options import read_request
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.output_folder import output_folder
from attnbias.methods.engine.requests import CompareRequest
from attnbias.methods.engine.screen import Table, say
from attnbias.methods.engine.text import write_csv

if TYPE_CHECKING:
    from attnbias.methods.engine.evaluation.comparison import Line, Run

WRITTEN = (
    "comparison.md", "comparison.json", "comparison.csv", "comparison.html", "learning-curves.png",
    "accuracy-attention.png",
)  # fmt: skip
"""All that this command writes, and all that --overwrite replaces."""

BARS = " ▁▂▃▄▅▆▇█"


def compare(**typed: Any) -> None:
    """Show runs side by side: learning curves, and what `attnbias val --store` kept, with differences to the first run
    and their 95 % intervals over images."""
    request = read_request(CompareRequest, typed)
    out = request.out
    if request.plots and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plots needs matplotlib; install it with: pip install 'attnbias[plot]'")
    with contextlib.nullcontext() if out is None else output_folder(out, request.overwrite, WRITTEN) as folder:
        from attnbias.methods.engine.evaluation.comparison import compared, read_run
        from attnbias.methods.engine.evaluation.comparison_tables import as_csv, as_json, as_markdown

        read = [read_run(path) for path in request.runs]
        lines = compared(read, request.map)
        models = []
        if request.measure or request.page:
            from attnbias.methods.engine.display.comparison_page import comparison_page, cost_lines, load_models

            models = load_models(read, request.data_root)
            lines += cost_lines(models) if request.measure else []
        _show(read, lines)
        _say_what_is_missing(lines, request.map)
        if out is None or folder is None:
            return
        (folder / "comparison.md").write_text(as_markdown(read, lines), encoding="utf-8")
        (folder / "comparison.json").write_text(json.dumps(as_json(read, lines), indent=1) + "\n")
        write_csv(folder / "comparison.csv", as_csv(read, lines))
        if request.page:
            chosen = _page_split(lines, request.split)
            shown = comparison_page(
                read,
                models,
                lines,
                split=chosen,
                kind=request.map,
                limit=request.limit,
                data_root=request.data_root,
            )
            (folder / "comparison.html").write_text(shown.html(), encoding="utf-8")
        if request.plots:
            _plot(read, lines, folder)
        written = ", ".join(str(out / path.name) for path in sorted(folder.iterdir()))
    say(f"written: {written}")


def _say_what_is_missing(lines: Sequence[Line], kind: str) -> None:
    """What was asked for and no run keeps, with the command that makes it."""
    from attnbias.methods.engine.attention_measures import HEADLINE

    if not any(line.split for line in lines):
        say("no evaluations are kept; run attnbias val with --store first")
    elif kind != "own" and not any(line.measure == HEADLINE for line in lines):
        say(f"no attention bias of map '{kind}' is kept; run attnbias val with --bias --map {kind} --store first")


def _plot(runs: Sequence[Run], lines: Sequence[Line], folder: Path) -> None:
    from attnbias.methods.engine.attention_measures import HEADLINE
    from attnbias.methods.engine.display.plots import accuracy_against_attention, learning_curves

    learning_curves(runs).savefig(folder / "learning-curves.png", dpi=150)
    if any(line.measure == HEADLINE for line in lines):
        accuracy_against_attention(runs, lines).savefig(folder / "accuracy-attention.png", dpi=150)
    else:
        say("no accuracy-attention.png: no attention bias is kept; run attnbias val with --bias --store first")


def _page_split(lines: Sequence[Line], asked: str | None) -> str:
    """DATASET/SPLIT of the page."""
    from attnbias.methods.engine.attention_measures import HEADLINE

    known = list(dict.fromkeys(line.split for line in lines if line.measure == HEADLINE))
    chosen = [name for name in known if asked in (None, name, name.rpartition("/")[2])]
    if not chosen:
        have = f"there is: {', '.join(known)}" if known else "run attnbias val with --bias --store first"
        raise UsageError(f"no attention bias is kept of split '{asked or 'val'}'; {have}")
    return chosen[0]


def _show(runs: Sequence[Run], lines: Sequence[Line]) -> None:
    from attnbias.methods.engine.evaluation.comparison import reading_aid
    from attnbias.methods.engine.evaluation.comparison_tables import cell

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
