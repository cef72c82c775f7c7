"""Runs side by side, from what their folders hold: a request in; their lines, and the files that were asked for, out.

Models are loaded, and torch with them, only for their cost and for a page of images.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.comparison import Line, compared, read_run
from attnbias.methods.engine.evaluation.comparison_tables import as_csv, as_json, as_markdown
from attnbias.methods.engine.evaluation.over_seeds import Compared, at_equal_accuracy, by_recipe, over_seeds
from attnbias.methods.engine.output_folder import output_folder
from attnbias.methods.engine.requests import CompareRequest
from attnbias.methods.engine.text import write_csv

if TYPE_CHECKING:
    from attnbias.methods.engine.display.gallery import GalleryPage

MARKDOWN, JSON, CSV, PAGE = "comparison.md", "comparison.json", "comparison.csv", "comparison.html"
REPORT = "report.html"
CURVES, ACCURACY = "learning-curves.png", "accuracy-attention.png"
WRITTEN = (MARKDOWN, JSON, CSV, PAGE, CURVES, ACCURACY)
"""All that is written into --out, and all that --overwrite replaces there."""


@dataclass(frozen=True)
class Comparison(Compared):
    """Runs side by side, and what was made of them."""

    missing: list[str]
    """What was asked for and no run keeps, each with the command that makes it."""
    page: GalleryPage | None = None
    """The same images under each run, where that was asked for."""
    written: Sequence[Path] = ()


def compare(request: CompareRequest) -> Comparison:
    """Read the runs, hold each against the first one, and write what was asked for.

    Raises:
        UsageError: the runs cannot be compared, or the folder holds what is not the command's own.
        WeightsError: a run is missing or damaged, or holds no evaluation. RunError: the folder cannot be written.
    """
    if request.plots and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plots needs matplotlib; install it with: pip install 'attnbias[plot]'")
    with ExitStack() as folders:
        out = request.out and folders.enter_context(output_folder(request.out, request.overwrite, WRITTEN))
        report = request.report and folders.enter_context(output_folder(request.report, request.overwrite, (REPORT,)))
        found, written = _compare(request), list[Path]()
        if out is not None and request.out is not None:
            _write(found, out, plots=request.plots)
            written += [request.out / path.name for path in sorted(out.iterdir())]
        if report is not None and request.report is not None:
            from attnbias.methods.engine.display.report import report_page

            (report / REPORT).write_text(report_page(request, found), encoding="utf-8")
            written.append(request.report / REPORT)
    return replace(found, written=written)


def _compare(request: CompareRequest) -> Comparison:
    runs = [read_run(path) for path in request.runs]
    recipes = by_recipe(runs)
    lines, page = compared(runs, request.map) + at_equal_accuracy(runs, recipes), None
    if request.measure or request.page:
        from attnbias.methods.engine.display.comparison_page import comparison_page, cost_lines, load_models

        models = load_models(runs, request.data_root)
        lines += cost_lines(models) if request.measure else []
        with request.finite_answers():
            page = comparison_page(request, runs, models, lines) if request.page else None
    return Comparison(runs, lines, recipes, over_seeds(recipes, lines), _missing(request, lines), page)


def _missing(request: CompareRequest, lines: Sequence[Line]) -> list[str]:
    has_bias, kind, missing = any(line.measure == HEADLINE for line in lines), request.map, []
    if not any(line.split for line in lines):
        missing.append("no evaluations are kept; run attnbias val with --store first")
    elif kind != "own" and not has_bias:
        missing.append(
            f"no attention bias of map '{kind}' is kept; run attnbias val with --bias --map {kind} --store first"
        )
    if request.plots and not has_bias:
        missing.append(f"no {ACCURACY}: no attention bias is kept; run attnbias val with --bias --store first")
    return missing


def _write(found: Comparison, folder: Path, *, plots: bool) -> None:
    (folder / MARKDOWN).write_text(as_markdown(found), encoding="utf-8")
    (folder / JSON).write_text(json.dumps(as_json(found), indent=1) + "\n")
    write_csv(folder / CSV, as_csv(found))
    if found.page is not None:
        (folder / PAGE).write_text(found.page.html(), encoding="utf-8")
    if plots:
        from attnbias.methods.engine.display.plots import accuracy_against_attention, learning_curves

        learning_curves(found.runs).savefig(folder / CURVES, dpi=150)
        if any(line.measure == HEADLINE for line in found.lines):
            accuracy_against_attention(found.runs, found.lines).savefig(folder / ACCURACY, dpi=150)
