"""What `attnbias val` prints: all measures, one column per checkpoint and split, and what was left out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnbias.data.reading import Json
from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.methods.engine.evaluation.probe import Probe


def show_results(results: list[Json], per_class: bool) -> None:
    """Print the results of `validate`; with `per_class`, also the measure of each class."""
    from attnbias.methods.engine.validate import probes

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
        part = [result["drawn"].partition(",")[0]] if "drawn" in result else []
        table.column(Path(result["load_from"]).name, result["split"], *part, justify="right")
    shown = [probe for probe in probes() if all(probe.name in result for result in results)]
    baselines = {name: means for probe in shown for name, means in probe.baselines(first[probe.name]).items()}
    for name in baselines:
        table.column(name, "map", justify="right")
    table.row("samples", *(str(result["samples"]) for result in results))
    for name, value in first["measures"].items():
        if not isinstance(value, list | dict):
            table.row(name, *(_number(result["measures"].get(name)) for result in results))
    for probe in shown:
        figures = [probe.figures(result[probe.name]) for result in results]
        if not figures[0]:
            continue
        known = probe.baselines(first[probe.name]).values()
        table.section()
        samples = (str(result[probe.name].get("samples", "")) for result in results)
        table.row(probe.heading(first[probe.name]), *samples, style="dim")
        for name in figures[0]:
            values = [found[name] for found in (*figures, *known)]
            table.row(name, *(value if isinstance(value, str) else _number(value, probe.decimals) for value in values))
    table.show()
    for line in dict.fromkeys(line for result in results for line in _left_out(result, shown)):
        say(line, style="yellow")
    if per_class:
        _show_per_class(results)


def _show_robustness(results: list[Json]) -> None:
    """One table of all tests: one row per test, one column per run and measure."""
    from attnbias.methods.engine.metrics import names

    shown = names(lambda metric: metric.robustness)
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for result in results:
        for row in result.get("robustness", ()):
            for name, value in row.items():
                if name in shown:
                    cells.setdefault(row["test"], {})[Path(result["load_from"]).name, name] = value
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    if columns:
        table = Table("test", names=1)
        for column in columns:
            table.column(*column, justify="right")
        for test, row in cells.items():
            table.row(test, *(_number(row.get(column)) for column in columns))
        table.show()
    for row in (row for result in results for row in result.get("robustness", ())):
        if "note" in row:
            say(f"{row['test']}: {row['note']}", style="yellow")


def _left_out(result: Json, probes: Sequence[Probe]) -> list[str]:
    """What the figures of a split do not hold, and what they are not."""
    split, remarks = result["split"], list(result["rules"])
    if "drawn" in result:
        remarks.append(f"only {result['drawn']}: the whole split has other figures")
    if result["decode"] == "fast":
        remarks.append("images were read with --decode fast")
    if result["amp"] != "no":
        remarks.append(f"computed with --amp {result['amp']}")
    if result["skipped"]:
        remarks.append(f"{len(result['skipped'])} unreadable images left out")
    if missing := result["measures"].get("without_positives"):
        remarks.append(f"left out of the means, no positive label: {', '.join(result['classes'][p] for p in missing)}")
    ties = result["measures"].get("ties", {"scores": 0})
    if ties["scores"]:
        rule = {"grouped": "equal scores are taken together"}.get(
            ties["rule"], "by the paper's rule the order of the samples decides among them; compare takes them together"
        )
        remarks.append(f"AP: {ties['scores']:,} scores equal one of the other label in their class; {rule}")
    remarks += [line for probe in probes for line in probe.remarks(result[probe.name])]
    return [f"{split}: {line}" for line in remarks]


def _show_per_class(results: list[Json]) -> None:
    from attnbias.methods.engine.evaluation.classes import most_confused
    from attnbias.methods.engine.metrics import names

    if "per_class" in results[0]:
        table = Table("class", "images")
        shown = ("precision", "recall", "F1", "AP")
        for result in results:
            for name in shown:
                table.column(Path(result["load_from"]).name, f"{result['split']} {name}", justify="right")
        for position, name in enumerate(results[0]["classes"]):
            figures = [result["per_class"][each][position] for result in results for each in shown]
            table.row(name, str(results[0]["per_class"]["images"][position]), *map(_number, figures))
        table.show()
        for result in results:
            for line in most_confused(result["per_class"], result["classes"]):
                say(f"{Path(result['load_from']).name}/{result['split']}: {line}")
        return
    of_class = names(lambda metric: metric.of_class)
    measure = next((name for name in of_class if name in results[0]["measures"]), None)
    if measure is None:
        say("--per-class: only classes of images and of pixels have measures of their own", style="yellow")
        return
    table = Table("class")
    for result in results:
        table.column(f"{Path(result['load_from']).name}/{result['split']} {measure}", justify="right")
    for position, name in enumerate(results[0]["classes"]):
        values = [result["measures"][measure][position] for result in results]
        table.row(name, *map(_number, values))
    table.show()


def _number(value: float | None, decimals: int = 2) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
