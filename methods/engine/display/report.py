"""`compare --report`: runs side by side as one page that needs no other file, from a headline in words to the commands
that reproduce it. Reading order: `report_page`; then the parts in the order of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from attnbias.data.reading import Json
from attnbias.data.registry import split_words
from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.display.html_page import html_page, short
from attnbias.methods.engine.display.report_images import Chosen, by_class, pictures, scores_of
from attnbias.methods.engine.evaluation.classes import calibration
from attnbias.methods.engine.evaluation.comparison import Line, Run, reading_aid
from attnbias.methods.engine.evaluation.comparison_tables import cell, decimals_of, number, seed_aid, seed_cells
from attnbias.methods.engine.evaluation.measure_words import described
from attnbias.methods.engine.evaluation.over_seeds import Compared, SeedLine
from attnbias.methods.engine.metrics import by_formula, leading
from attnbias.methods.engine.requests import CompareRequest, ValRequest
from attnbias.methods.engine.statistics import Change
from attnbias.methods.engine.text import html_paragraph


@dataclass(frozen=True)
class Columns:
    """What stands side by side: runs, or recipes over their seeds where one has several."""

    names: list[str]
    lines: Sequence[Line]
    seeds: list[int]
    """Seeds of each; 1 of single runs."""

    @classmethod
    def of(cls, found: Compared) -> Columns:
        """The recipes where seeds can be pooled, else the runs."""
        pooled = found.over_seeds
        names = [each.name for each in (found.recipes if pooled else found.runs)]
        seeds = [len(recipe.runs) for recipe in found.recipes] if pooled else [1] * len(found.runs)
        return cls(_within_their_folder(names, found.runs), pooled or found.lines, seeds)

    def line(self, split: str, measure: str) -> Line | None:
        """One measure on one split."""
        return next((line for line in self.lines if (line.split, line.measure) == (split, measure)), None)


def _within_their_folder(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Names without the folder that all runs are in."""
    folders = {run.path.parent for run in runs}
    prefix = f"{folders.pop()}/" if len(folders) == 1 else ""
    return [name.removeprefix(prefix) for name in names]


def report_page(request: CompareRequest, found: Compared) -> str:
    """Write the page as one HTML text.

    Models are loaded for its images; where the dataset is not here, the page says so and has none.

    Raises:
        WeightsError: a stored file or a checkpoint is damaged.
    """
    runs, columns = found.runs, Columns.of(found)
    names = dict(zip((run.name for run in runs), _within_their_folder([run.name for run in runs], runs), strict=True))
    chosen = chosen_splits(runs[0], columns)
    images, left_out = pictures(request, runs, chosen)
    content = {
        "columns": columns.names,
        "runs": [*names.values()],
        "four": [_row(columns, line) for line in _four(columns, chosen)],
        "lines": [_row(columns, line) for line in columns.lines],
        "aid": list(dict.fromkeys([*(remark for line in found.lines for remark in line.remarks), *_aid(columns)])),
        "measure": runs[0].measure,
        "curves": [{"run": names[run.name], "splits": _points(run.curves)} for run in runs],
        "gaps": [{"run": names[run.name], "splits": _points(_gaps(run))} for run in runs],
        "looks": [{"run": names[run.name], "splits": _points(run.bias_curves)} for run in runs],
        "scatter": _scatter(request, runs, chosen),
        "calibration": _calibration(runs, chosen),
        "by_class": by_class(runs, chosen),
        "chosen": None if chosen is None else chosen._asdict(),
        **images,
        "left_out": left_out,
        "recipe": _recipe_differences(runs),
        "environment": _environment(runs),
        "commands": _commands(request, runs),
    }
    about = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {date.today().isoformat()}"
    document = {
        "about": "".join(map(html_paragraph, [about, *_what_splits_show(chosen)])),
        "answer": "".join(map(html_paragraph, headline(columns, chosen))),
        "beside": "attnbias compare prints the figures.",
    }
    return html_page("report", " against ".join(reversed(columns.names)), content, document)


def _what_splits_show(chosen: Chosen | None) -> list[str]:
    """A line for each split of the headline whose name does not tell it."""
    splits = [] if chosen is None else [chosen.hard, chosen.first]
    words = {split: split_words(*split.rsplit("/", 1)) for split in dict.fromkeys(splits)}
    return [f"{split}: {shows}" for split, shows in words.items() if shows]


# The headline ---------------------------------------------------------------------------------------------------------


def chosen_splits(reference: Run, columns: Columns) -> Chosen | None:
    """The metric and the splits that the headline is about; None where no scores are kept."""
    measured = [line for line in columns.lines if line.measure in leading() and line.values[0] is not None]
    if not measured:
        return None
    names = [line.split for line in measured]
    deciding = next(iter(reference.curves), "val")
    first = next((name for name in names if name.rpartition("/")[2] == deciding), names[0])
    others = [line for line in measured if line.split != first] or measured
    lowest = min(others, key=lambda line: line.values[0] or 0.0)
    return Chosen(lowest.measure, first, lowest.split)


def headline(columns: Columns, chosen: Chosen | None) -> list[str]:
    """Who wins and by how much, in sentences; how sure that is stands in the last one."""
    if chosen is None:
        return ["No scores are kept of these runs; run attnbias val with --store, then compare again."]
    line, names = columns.line(chosen.hard, chosen.metric), columns.names
    assert line is not None
    if len(names) == 1:
        return [f"{names[0]} reaches {_values(line, 0)} on {chosen.hard}.", _how_sure(columns)]
    reached = [-1.0 if value is None else value for value in line.values]
    best = max(range(len(names)), key=reached.__getitem__)
    rival = best or max(range(1, len(names)), key=reached.__getitem__)
    ahead, behind = (best, 0) if best else (0, rival)

    def gained(of: Line) -> Change | None:
        """What the one that is ahead has more than the other one."""
        change = of.changes[rival]
        return change if best or change is None else change.scaled(-1)

    change = gained(line)
    verdict = "wins" if change is not None and change.sure else "is not surely better"
    sentences = [
        f"{names[ahead]} {verdict} on {chosen.hard}: {_values(line, ahead, behind)}, "
        f"{_moved(line, change, names[behind])}."
    ]
    other, look = columns.line(chosen.first, chosen.metric), columns.line(chosen.hard, HEADLINE)
    if other is not None and other is not line:
        words = f"{names[ahead]} has {_values(other, ahead, behind)}, {_moved(other, gained(other), names[behind])}"
        sentences.append(f"On {chosen.first} {words}.")
    if look is not None and (own := look.values[ahead]) is not None and (others := look.values[behind]) is not None:
        sentences.append(
            f"Of the attention of {names[ahead]} on {chosen.hard} {100 * own:.0f} % is on the object, of that of "
            f"{names[behind]} {100 * others:.0f} %: {_in_points(gained(look))}."
        )
    return [*sentences, _how_sure(columns)]


def _values(line: Line, *positions: int) -> str:
    texts = ["-" if (value := line.values[n]) is None else number(value) for n in positions]
    return f"{line.measure} {' against '.join(texts)}"


def _moved(line: Line, change: Change | None, than: str) -> str:
    """A difference in words."""
    if change is None:
        return "which cannot be held against each other"
    direction = "more" if change.difference >= 0 else "less"
    edges = change.interval_95 and [_text(line, edge, "+") for edge in change.interval_95]
    return f"{_text(line, abs(change.difference))} {direction} than {than} ({_certainty(change, edges)})"


def _in_points(change: Change | None) -> str:
    """A difference of shares in words."""
    if change is None:
        return "which cannot be held against each other"
    points = change.scaled(100)
    direction = "more" if points.difference >= 0 else "less"
    edges = points.interval_95 and [f"{edge:+.1f}" for edge in points.interval_95]
    return f"{abs(points.difference):.1f} points {direction} ({_certainty(change, edges)})"


def _certainty(change: Change, edges: Sequence[str] | None) -> str:
    """How sure a difference is; `edges` are those of its interval."""
    if edges is None:
        return "no interval"
    words = f"95 % interval of the difference {' to '.join(edges)}"
    return words if change.sure else f"{words}; not sure among all that is compared"


def _text(line: Line, value: float, sign: str = "") -> str:
    """A difference with as many decimals as the values of its line."""
    largest = max((abs(each) for each in line.values if each is not None), default=0.0)
    return f"{value:{sign}.{decimals_of(largest)}f}"


def _how_sure(columns: Columns) -> str:
    if len(columns.names) == 1:
        return "One run stands alone: name another one to compare it with."
    if max(columns.seeds) > 1:
        counts = ", ".join(f"{count} of {name}" for count, name in zip(columns.seeds, columns.names, strict=True))
        return f"Figures are means over seeds ({counts}); intervals say what other seeds would give on the same images."
    return (
        "Each was trained once: intervals say what other images would give, not what another training would; "
        "--seeds 0,1,2 trains several."
    )


# The table ------------------------------------------------------------------------------------------------------------


def _four(columns: Columns, chosen: Chosen | None) -> list[Line]:
    """At most four lines that tell most: accuracy where it is decided and where it is hard, what is lost between, and
    where the attention lies."""
    if chosen is None:
        return []
    hard = chosen.hard.rpartition("/")[2]
    asked = [
        (chosen.hard, chosen.metric),
        (chosen.first, chosen.metric),
        ("", f"{chosen.metric} {chosen.first} - {hard}"),
        (chosen.hard, HEADLINE),
        (chosen.hard, "worst_group_accuracy"),
    ]
    found = [line for split, measure in dict.fromkeys(asked) if (line := columns.line(split, measure)) is not None]
    return found[:4]


def _row(columns: Columns, line: Line) -> Json:
    known = described(line.measure)
    texts = seed_cells(line) if isinstance(line, SeedLine) else list(map(cell, line.values, line.changes))
    return {
        "split": line.split,
        "measure": line.measure.replace("_", " "),
        "words": known.words,
        "better": known.better,
        "cells": [
            {"text": text, "value": value, "verdict": _judged(change, known.better)}
            for text, value, change in zip(texts, line.values, line.changes, strict=True)
        ],
    }


def _judged(change: Change | None, better: Literal["higher", "lower"] | None) -> str:
    """better, worse, differs (where neither way is better), or unsure; nothing of the reference itself."""
    if change is None:
        return ""
    if not change.sure:
        return "unsure"
    if better is None:
        return "differs"
    return "better" if (change.difference > 0) == (better == "higher") else "worse"


def _aid(columns: Columns) -> list[str]:
    pooled = [line for line in columns.lines if isinstance(line, SeedLine)]
    return seed_aid(pooled) if pooled else reading_aid(columns.lines)


# Curves and plots -----------------------------------------------------------------------------------------------------


def _points(curves: Mapping[str, Mapping[int, float]]) -> Json:
    return {split: [[epoch, short(value)] for epoch, value in curve.items()] for split, curve in curves.items()}


def _gaps(run: Run) -> dict[str, dict[int, float]]:
    """What is lost from the split that decides to each other one, over epochs."""
    first = next(iter(run.curves), "")
    whole = run.curves.get(first, {})
    return {
        f"{first} - {split}": {epoch: whole[epoch] - value for epoch, value in curve.items() if epoch in whole}
        for split, curve in run.curves.items()
        if split != first
    }


def _scatter(request: CompareRequest, runs: Sequence[Run], chosen: Chosen | None) -> list[Json]:
    """How accurate each run is over how much of its attention is on the object, both with intervals, split by split."""
    if chosen is None:
        return []
    found = []
    for split in dict.fromkeys(split for run in runs for split in run.evaluations):
        points = [
            {"run": number, **point}
            for number, run in enumerate(runs)
            if (point := _point(run, split, run.map(request.map), chosen.metric))
        ]
        if points:
            found.append({"split": split, "points": points})
    return found


def _point(run: Run, split: str, kind: str, metric: str) -> Json | None:
    stored, scores = run.evaluations.get(split), scores_of(run, split)
    content = stored.bias(kind) if stored else None
    formula = next(each for each in (*by_formula("multilabel"), *by_formula("singlelabel")) if each.name == metric)
    if scores is None or content is None or content["means"].get(HEADLINE) is None:
        return None
    estimate = formula.of_all(scores.targets, scores.scores) if formula.of_all else None
    edges = estimate.scaled(100).interval_95 if estimate else None
    return {
        "x": content["means"][HEADLINE],
        "xs": (content.get("intervals_95") or {}).get(HEADLINE),
        "y": formula.of(scores.targets, scores.scores),
        "ys": edges,
    }


def _calibration(runs: Sequence[Run], chosen: Chosen | None) -> list[Json]:
    """Whether scores are probabilities, on the hard split."""
    if chosen is None:
        return []
    return [
        {"run": number, "split": chosen.hard, **calibration(scores.targets, scores.scores)}
        for number, run in enumerate(runs)
        if (scores := scores_of(run, chosen.hard)) is not None
    ]


# How it was made ------------------------------------------------------------------------------------------------------


def _recipe_differences(runs: Sequence[Run]) -> list[list[str]]:
    """Fields of the recipes, and what else decides, in which the runs differ: a row each, its name first."""
    tables = [
        {"method": run.method.name, **run.recipe.model_dump(mode="json"), "starting weights": run.started_from}
        for run in runs
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [[name, *(str(table.get(name, "-")) for table in tables)] for name in names]
    return [row for row in rows if len({*row[1:]}) > 1]


def _environment(runs: Sequence[Run]) -> list[list[str]]:
    """What each run was trained on and with: a row each, its name first."""
    names = ("started", "device", "python", "torch", "cuda", "host_cores")
    rows = [[name, *(str(run.environment.get(name, "-")) for run in runs)] for name in names]
    return [*rows, ["dataset", *(run.recipe.dataset for run in runs)], ["epochs", *_epochs(runs)]]


def _epochs(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        yield str(max((epoch for curve in run.curves.values() for epoch in curve), default=run.recipe.epochs))


def _how_measured(run: Run, asked: str) -> list[str]:
    """Options of `val` that measure and store of a run what it keeps, as it was measured."""
    kept = {name for stored in run.evaluations.values() for name in stored.content}
    contents = [stored.bias(run.map(asked)) for stored in run.evaluations.values()]
    settings = {(content["truth"], content["tau"]) for content in contents if content is not None}
    words = ["--bias"] if asked == "own" else ["--bias", "--map", asked]
    if len(settings) == 1:
        truth, tau = settings.pop()
        words += [] if truth == "masks" else ["--truth", truth]
        words += [] if tau == ValRequest.model_fields["tau"].default else ["--tau", f"{tau:g}"]
    words += [f"--{name}" for name in ("reliance", "backgrounds") if name in kept]
    return [*words, "--store"]


def _commands(request: CompareRequest, runs: Sequence[Run]) -> list[str]:
    """What makes the runs, their evaluations and this page again."""
    made = [run.environment.get("command") for run in runs]
    trained = [shlex.join(["attnbias", *map(str, command[1:])]) for command in made if isinstance(command, list)]
    splits = ",".join(dict.fromkeys(split.rpartition("/")[2] for run in runs for split in run.evaluations))
    stored = [
        shlex.join(
            [
                *("attnbias", "val", run.method.name, "--load-from", run.name, "--split", splits),
                *_how_measured(run, request.map),
            ]
        )
        for run in runs
        if splits
    ]
    report = ["attnbias", "compare", *(run.name for run in runs), "--report", str(request.report)]
    return [*trained, *stored, shlex.join(report)]
