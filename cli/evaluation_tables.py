"""What `attnbias val` prints: all measures, a column a checkpoint and split, and what was left out of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show_results(results: list[dict[str, Any]], per_class: bool) -> None:
    """Print the results of `validate`; with `per_class`, also the measure of each class."""
    # Tables of several runs want more than a file's or pipe's customary 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=132)
    for source in dict.fromkeys(result["source"] for result in results):
        console.print(f"weights: {source}", highlight=False)
    _show_robustness(console, results)
    results = [result for result in results if "measures" in result]
    if not results:
        return
    first = results[0]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("measure", no_wrap=True)
    for result in results:
        table.add_column(f"{Path(result['load_from']).name}\n{result['split']}", justify="right")
    for baseline in first["bias"]["baselines"] if "bias" in first else ():
        table.add_column(f"{baseline}\nmap", justify="right")
    table.add_row("samples", *(str(result["samples"]) for result in results))
    for name, value in first["measures"].items():
        if not isinstance(value, list | dict):
            table.add_row(name, *(_number(result["measures"].get(name)) for result in results))
    for part, words, measures in _parts(first):
        table.add_section()
        table.add_row(words, *(str(result[part].get("samples", "")) for result in results), style="dim")
        for name in measures:
            found = [result[part].get("means", result[part])[name] for result in results]
            if part == "bias":
                found += [means[name] for means in first["bias"]["baselines"].values()]
            shown = _number if part in ("real", "context", "groups") else "{:.3f}".format
            table.add_row(name, *(value if isinstance(value, str) else shown(value) for value in found))
    console.print(table)
    for result in results:
        _show_left_out(console, result)
    if per_class:
        _show_per_class(console, results)


def _show_robustness(console: Console, results: list[dict[str, Any]]) -> None:
    """One table of all tests: a row a test, a column a run and measure."""
    cells: dict[str, dict[str, float]] = {}
    for result in results:
        for row in result.get("robustness", ()):
            for name, value in row.items():
                if name in ("top1", "top5", "mAP", "CE", "mCE"):
                    cells.setdefault(row["test"], {})[f"{Path(result['load_from']).name}\n{name}"] = value
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    if columns:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("test")
        for column in columns:
            table.add_column(column, justify="right")
        for test, row in cells.items():
            table.add_row(test, *(_number(row.get(column)) for column in columns))
        console.print(table)
    for row in (row for result in results for row in result.get("robustness", ())):
        if "note" in row:
            console.print(f"{row['test']}: {row['note']}", style="yellow", highlight=False)


def _parts(result: dict[str, Any]) -> Iterator[tuple[str, str, Iterable[str]]]:
    """What was measured beside scores: the part of the result, words for it, and the measures a table shows."""
    if "real" in result:
        yield "real", "ReaL labels", ("real_top1", "real_top5")
    if "groups" in result:
        yield "groups", "groups", ("worst_group", "worst_group_top1", "group_gap")
    if "context" in result:
        yield (
            "context",
            f"context ({len(result['context']['pairs'])} pairs)",
            ("cooccur_AP", "exclusive_AP", "context_gap"),
        )
    if "reliance" in result:
        yield "reliance", f"reliance ({result['reliance']['truth']})", result["reliance"]["means"]
    if "faithfulness" in result:
        yield "faithfulness", f"faithfulness ({result['faithfulness']['map']})", result["faithfulness"]["means"]
    if "bias" in result:
        from attnbias.methods.engine.bias.report import SHOWN

        yield "bias", f"attention ({result['bias']['map']}, {result['bias']['truth']})", SHOWN


def _show_left_out(console: Console, result: dict[str, Any]) -> None:
    """Say what the figures of a split do not hold, and what they are not."""
    split, told = result["split"], list(result["rules"])
    if result["decode"] == "fast":
        told.append("pictures were read with --decode fast")
    if result["skipped"]:
        told.append(f"{len(result['skipped'])} unreadable pictures left out")
    if missing := result["measures"].get("without_positives"):
        told.append(f"left out of the means, no positive label: {', '.join(result['classes'][p] for p in missing)}")
    ties = result["measures"].get("ties", {"scores": 0})
    if ties["scores"]:
        rule = {"grouped": "equal scores are taken together"}.get(
            ties["rule"], "by the paper's rule the order of the samples decides among them; compare takes them together"
        )
        told.append(f"AP: {ties['scores']:,} scores equal one of the other label in their class; {rule}")
    reasons = [result[part].get("truth_reason") for part in ("bias", "reliance") if part in result]
    told += dict.fromkeys(reason for reason in reasons if reason)
    for part in ("bias", "reliance"):
        if reasons := result.get(part, {}).get("skipped"):
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            told.append(f"samples left out of {part}: {counts}")
    if unpaired := result.get("context", {}).get("skipped"):
        told.append(f"{unpaired} pairs left out, which occur only together or only apart")
    for line in told:
        console.print(f"{split}: {line}", style="yellow", highlight=False)


def _show_per_class(console: Console, results: list[dict[str, Any]]) -> None:
    measure = next((name for name in ("AP", "IoU") if name in results[0]["measures"]), None)
    if measure is None:
        console.print("--per-class: only multi-label sets and label maps have one for each class", style="yellow")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    for result in results:
        table.add_column(f"{Path(result['load_from']).name}/{result['split']} {measure}", justify="right")
    for place, name in enumerate(results[0]["classes"]):
        values = [result["measures"][measure][place] for result in results]
        table.add_row(name, *map(_number, values))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
