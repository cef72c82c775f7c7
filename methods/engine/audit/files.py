"""The files of an audit: audit.json, classes.csv and samples.csv; JUnit and Markdown for machines that build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from attnbias.data.atomic import replacing
from attnbias.methods.engine.audit.page import REPORT
from attnbias.methods.engine.audit.pictures import WORST
from attnbias.methods.engine.audit.result import Audit, Check, ClassRow, Figure, Sample
from attnbias.methods.engine.text import csv_text, figure, markdown_cell, visible, write_csv

RESULT, CLASSES, SAMPLES = "audit.json", "classes.csv", "samples.csv"
WRITTEN = (RESULT, CLASSES, SAMPLES, REPORT, WORST)
"""All that is written, and all that --overwrite replaces."""


def write_files(audit: Audit, folder: Path) -> None:
    """Write audit.json, classes.csv and samples.csv."""
    with replacing(folder / RESULT) as file:
        file.write(audit.to_json())
    estimated = audit.about.truth_kind == "estimated"
    for name, rows in (
        (CLASSES, class_rows(audit.classes)),
        (SAMPLES, sample_rows(audit.samples, audit.about.classes)),
    ):
        write_csv(folder / name, marked(rows) if estimated else rows)


def marked(rows: Iterable[list[object]]) -> Iterator[list[object]]:
    """Rows with a last column that says of each that its objects were estimated."""
    for number, row in enumerate(rows):
        yield [*row, "estimated" if number else "truth"]


def class_rows(rows: Sequence[ClassRow]) -> Iterator[list[object]]:
    """classes.csv: one row a class, each figure with its interval, n and chance value; the header first."""
    figures = ("accuracy", "average_precision", "position_biased", "on_object", "context_only")
    parts = ("", ":low_95", ":high_95", ":n", ":chance")
    yield ["class", "number", "objects", "too_small", *(f"{name}{part}" for name in figures for part in parts)]
    for row in rows:
        own: list[Figure | None] = [getattr(row, name) for name in figures]
        yield [row.name, row.number, row.objects, int(row.too_small), *(cell for each in own for cell in _cells(each))]


def _cells(of: Figure | None) -> list[object]:
    if of is None:
        return [""] * 5
    low, high = of.interval_95 or (None, None)
    return [*map(figure, (of.value, low, high)), of.n, figure(of.chance)]


def sample_rows(samples: Sequence[Sample], classes: Sequence[str]) -> Iterator[list[object]]:
    """samples.csv: one row for each true class of each image; cells are empty where nothing was measured."""
    columns = list(dict.fromkeys(name for sample in samples for name in sample.values))
    yield ["image", "path", "class", "right", "predicted", "score", "group", *columns]
    for sample in samples:
        true = classes[sample.label] if sample.label >= 0 else ""
        predicted = " ".join(map(str, sample.predicted))
        values = (figure(sample.values.get(name)) for name in columns)
        own = [sample.image, sample.path, true, int(sample.right), predicted, figure(sample.score), sample.group]
        yield [*own, *values]


# For machines that build ----------------------------------------------------------------------------------------------


def junit(audit: Audit) -> str:
    """The conditions of --fail-if as JUnit XML, a test case each: one that could not be measured is an error."""
    own = [check for check in audit.checks if check.threshold_of == "yours"]
    counts = {state: sum(check.state == state for check in own) for state in ("fails", "not run")}
    suite = ElementTree.Element(
        "testsuite",
        name="attnbias audit",
        tests=str(len(own)),
        failures=str(counts["fails"]),
        errors=str(counts["not run"]),
        timestamp=audit.about.date,
    )
    for check in own:
        where = f"{audit.about.dataset}/{audit.about.split}"
        case = ElementTree.SubElement(suite, "testcase", name=_xml(check.says), classname=_xml(where))
        words = _xml(f"{check.state}: {in_words(check)}")
        kind = {"fails": "failure", "not run": "error"}.get(check.state)
        if kind is not None:
            ElementTree.SubElement(case, kind, message=words)
        else:
            ElementTree.SubElement(case, "system-out").text = words
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """A text that XML takes, which has no controls."""
    return visible(csv_text(text))


def markdown(audit: Audit) -> str:
    """The findings as Markdown, for a comment or a summary of a build."""
    about = audit.about
    lines = [
        f"## Audit of {markdown_cell(about.model)} on {markdown_cell(f'{about.dataset}/{about.split}')}",
        "",
        f"{about.images} images; map {markdown_cell(about.map)}; weights `{about.weights_sha256[:12]}`.",
        "",
        f"**{markdown_cell(audit.trust.text)}**",
        "",
        *(f"- {markdown_cell(sentence.text)}" for sentence in audit.answer),
        "",
        "| check | state | figure |",
        "| --- | --- | --- |",
        *(
            f"| {markdown_cell(check.says)} | {check.state} | {markdown_cell(in_words(check))} |"
            for check in audit.checks
        ),
    ]
    if audit.suggestions:
        lines += ["", "What to try:", ""]
        lines += [f"- {markdown_cell(each.text)} `{visible(each.command)}`" for each in audit.suggestions]
    return "\n".join(lines) + "\n"


def in_words(check: Check) -> str:
    """The figure of a check, or why there is none: "0.310 [0.270, 0.350] of 400 objects"."""
    if check.figure is None or check.figure.value is None:
        return check.reason
    figure = check.figure
    edges = "no interval" if figure.interval_95 is None else "{:.3f}, {:.3f}".format(*figure.interval_95)
    words = f"{figure.value:.3f} [{edges}] of {figure.n} {figure.unit}"
    if check.threshold_of == "reference" and check.threshold is not None:
        words += f"; {check.threshold_words}: {check.threshold:.3f}"
    return f"{words}; {check.reason}" if check.reason else words
