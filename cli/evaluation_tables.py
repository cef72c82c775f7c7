"""What `attnbias val` prints: all measures, a column a checkpoint and split, and what was left out of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attnbias.methods.engine.screen import Table, say


def show_results(results: list[dict[str, Any]], per_class: bool) -> None:
    """Print the results of `validate`; with `per_class`, also the measure of each class."""
    for source in dict.fromkeys(result["source"] for result in results):
        say(f"weights: {source}")
    _show_robustness(results)
    results = [result for result in results if "measures" in result]
    if not results:
        return
    first = results[0]
    table = Table()
    table.column("measure", no_wrap=True)
    for result in results:
        table.column(Path(result["load_from"]).name, result["split"], justify="right")
    for baseline in first["bias"]["baselines"] if "bias" in first else ():
        table.column(baseline, "map", justify="right")
    table.row("samples", *(str(result["samples"]) for result in results))
    for name, value in first["measures"].items():
        if not isinstance(value, list | dict):
            table.row(name, *(_number(result["measures"].get(name)) for result in results))
    for part, words, measures in _parts(first):
        table.section()
        table.row(words, *(str(result[part].get("samples", "")) for result in results), style="dim")
        for name in measures:
            found = [result[part].get("means", result[part])[name] for result in results]
            if part == "bias":
                found += [means[name] for means in first["bias"]["baselines"].values()]
            shown = _number if part in ("real", "context", "groups") else "{:.3f}".format
            table.row(name, *(value if isinstance(value, str) else shown(value) for value in found))
    table.show()
    for result in results:
        _show_left_out(result)
    if per_class:
        _show_per_class(results)


def _show_robustness(results: list[dict[str, Any]]) -> None:
    """One table of all tests: a row a test, a column a run and measure."""
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for result in results:
        for row in result.get("robustness", ()):
            for name, value in row.items():
                if name in ("top1", "top5", "mAP", "CE", "mCE"):
                    cells.setdefault(row["test"], {})[Path(result["load_from"]).name, name] = value
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    if columns:
        table = Table("test")
        for column in columns:
            table.column(*column, justify="right")
        for test, row in cells.items():
            table.row(test, *(_number(row.get(column)) for column in columns))
        table.show()
    for row in (row for result in results for row in result.get("robustness", ())):
        if "note" in row:
            say(f"{row['test']}: {row['note']}", style="yellow")


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


def _show_left_out(result: dict[str, Any]) -> None:
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
        say(f"{split}: {line}", style="yellow")


def _show_per_class(results: list[dict[str, Any]]) -> None:
    measure = next((name for name in ("AP", "IoU") if name in results[0]["measures"]), None)
    if measure is None:
        say("--per-class: only multi-label sets and label maps have one for each class", style="yellow")
        return
    table = Table("class")
    for result in results:
        table.column(f"{Path(result['load_from']).name}/{result['split']} {measure}", justify="right")
    for place, name in enumerate(results[0]["classes"]):
        values = [result["measures"][measure][place] for result in results]
        table.row(name, *map(_number, values))
    table.show()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
