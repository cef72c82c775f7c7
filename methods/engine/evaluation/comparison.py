"""Runs side by side: what their folders hold, and by how much each differs from the first. No torch.

Accuracy is computed again from stored scores, by one rule for all: methods define average precision differently, and
those of the papers go by the order of the samples where scores are equal. Here equal scores are taken together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from attnbias.data.index import Task
from attnbias.data.reading import reading
from attnbias.methods.engine.attention_measures import AttentionMeasure, compared_measures
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.metrics import average_precision
from attnbias.methods.engine.metrics_log import MetricsLog
from attnbias.methods.engine.recipe import Recipe, read_recipe
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.statistics import Change, Ratio, bootstrap_precision, change, p_value
from attnbias.methods.engine.stored import known_method
from attnbias.methods.engine.stored_evaluations import Scores, StoredEvaluation, stored_evaluations
from attnbias.methods.engine.text import markdown_cell
from attnbias.methods.engine.yaml_files import read_yaml
from attnbias.weights.errors import WeightsError


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself."""

    path: Path
    method: Description
    recipe: Recipe
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """Split -> epoch -> the measure that decides; of raw and averaged weights the better one on the first split."""
    measure: str = ""
    """The name of that measure."""
    evaluations: dict[str, StoredEvaluation] = field(default_factory=dict)
    """DATASET/SPLIT -> what `val --store` kept."""

    @property
    def name(self) -> str:
        """The folder as it was typed."""
        return str(self.path)

    def map(self, kind: str) -> str:
        """The name of a kind of map, where "own" is the model's own."""
        return self.method.default_map(self.recipe) if kind == "own" else kind


@dataclass(frozen=True)
class Line:
    """One measure of all runs."""

    split: str
    """DATASET/SPLIT, or what the measure does not depend on one: an empty text."""
    measure: str
    values: list[float | None]
    changes: list[Change | None]
    """Against the first run; None for itself, and where samples are not the same or were not kept."""
    remarks: list[str] = field(default_factory=list)
    """Which runs cannot be held against the first, and why."""


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        WeightsError: it is none, is damaged, or holds no evaluation yet.
    """
    try:
        with reading(path / "recipe.yaml", "train again", WeightsError):
            method = get_description(known_method(read_yaml(path / "recipe.yaml").get("method")))
            recipe = read_recipe(path / "recipe.yaml", method.recipe_type, method.name)
        evaluated = [line for line in MetricsLog(path).records() if "weights" in line]
    except UsageError as error:
        raise WeightsError(f"{error}; it was written by another version of attnbias, or edited: train again") from None
    except OSError as error:
        raise WeightsError(f"{path} is no run folder ({error.filename}: {error.strerror})") from None
    stored = {each.split: each for each in stored_evaluations(path)}
    if not evaluated and not stored:
        raise WeightsError(
            f"{path} holds no evaluation yet; run: attnbias val {method.name} --load-from {path} --store"
        )
    return Run(path, method, recipe, *_curves(method, evaluated), stored)


def _curves(method: Description, evaluated: Sequence[dict[str, Any]]) -> tuple[dict[str, dict[int, float]], str]:
    """The measure that decides over epochs, and its name."""
    names = [method.deciding_measure(task) for task in get_args(Task)]
    measure = next((name for line in evaluated for name in names if name in line), "")
    measured = [line for line in evaluated if isinstance(line.get(measure), (int, float))]
    if not measured:
        return {}, ""
    splits = list(dict.fromkeys(line["split"] for line in measured))
    best = max((line for line in measured if line["split"] == splits[0]), key=lambda line: line[measure])
    curves = {
        split: {
            line["epoch"]: line[measure]
            for line in measured
            if line["split"] == split and line["weights"] == best["weights"]
        }
        for split in splits
    }
    return curves, measure


def compared(runs: Sequence[Run], kind: str = "own") -> list[Line]:
    """Everything that the runs' stored evaluations hold, split by split; `kind` says whose maps: own, or a name.

    Raises:
        UsageError: no method of the runs has such a map; or attention was held against masks in one run and boxes in
            another, or above other thresholds.
    """
    known = ["own", "gradcam", *(name for run in runs for name in run.method.maps)]
    if kind not in known:
        raise UsageError(f"no map '{kind}'{did_you_mean(kind, known)}; one of: {', '.join(dict.fromkeys(known))}")
    lines: list[Line] = []
    for split in dict.fromkeys(split for run in runs for split in run.evaluations):
        evaluations = [run.evaluations.get(split) for run in runs]
        if any(each.has_scores for each in evaluations if each):
            lines += _accuracy(split, runs, evaluations)
        else:  # another task: its measures, as they were stored
            contents = [each.content["measures"] for each in evaluations if each]
            figures = (name for content in contents for name, value in content.items() if isinstance(value, float))
            lines += _plain(split, evaluations, "measures", tuple(dict.fromkeys(figures)))
        lines += _attention(split, runs, evaluations, kind)
        for part, measures in (
            ("groups", ("worst_group_top1", "group_gap")),
            ("context", ("cooccur_AP", "exclusive_AP", "context_gap")),
            ("reliance", ("kept", "reliance")),
            ("faithfulness", ("deletion", "insertion")),
        ):
            lines += _plain(split, evaluations, part, measures)
        tests = [{row["test"]: row for row in each.robustness()} if each else {} for each in evaluations]
        for test in dict.fromkeys(test for rows in tests for test in rows):
            rows = [found.get(test, {}) for found in tests]
            for name in dict.fromkeys(name for row in rows for name in row if name in ("mAP", "top1", "CE", "mCE")):
                lines.append(_line(split, f"{test}: {name}", [row.get(name) for row in rows]))
    return lines + _gaps(lines)


def _accuracy(split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None]) -> list[Line]:
    """mAP (one rule for all) or top-1, in per cent, with paired differences."""
    found = [each.scores() if each else None for each in evaluations]
    known = [scores for scores in found if scores is not None]
    single = known[0].targets.ndim == 1
    first = found[0]
    measure: Callable[[Scores], float] = _top1 if single else _mean_precision
    changes: list[Change | None] = [None]
    remarks = []
    for run, scores in zip(runs[1:], found[1:], strict=True):
        if scores is None or first is None:
            changes.append(None)
            continue
        if differs := first.differs(scores):
            changes.append(None)
            remarks.append(f"{split}: {run.name} was evaluated on other {differs} than {runs[0].name}: no difference")
            continue
        difference = measure(scores) - measure(first)
        if single:
            right, other = (Ratio.mean(_right(each)) for each in (first, scores))
            changes.append(_percent(change(right, other, np.arange(len(first.paths)), flags=True)))
        else:
            low, high = (100 * edge for edge in bootstrap_precision(first.targets, first.scores, scores.scores))
            changes.append(Change(difference, (low, high), p_value(difference, (low, high))))
    values = [None if scores is None else measure(scores) for scores in found]
    return [Line(split, "top1" if single else "mAP", values, changes, remarks)]


def _percent(change: Change) -> Change:
    edges = change.interval_95
    return replace(
        change,
        difference=100 * change.difference,
        interval_95=None if edges is None else (100 * edges[0], 100 * edges[1]),
    )


def _mean_precision(scores: Scores) -> float:
    return 100 * float(np.nanmean(average_precision(scores.targets, scores.scores, "grouped")))


def _right(scores: Scores) -> NDArray[np.bool_]:
    return np.asarray(scores.scores.argmax(1) == scores.targets)


def _top1(scores: Scores) -> float:
    return 100 * float(_right(scores).mean())


def _attention(
    split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None], kind: str
) -> list[Line]:
    """Means of all samples of each run; differences on the samples that both runs have."""
    kinds = [run.map(kind) for run in runs]
    contents = [each.bias(name) if each else None for each, name in zip(evaluations, kinds, strict=True)]
    if not any(contents):
        return []
    settings = {(content["truth"], content["tau"]) for content in contents if content}
    if len(settings) > 1:
        words = " and ".join(f"{truth}, tau {tau}" for truth, tau in sorted(settings))
        raise UsageError(f"{split}: attention was held against {words}; evaluate again with one --truth and --tau")
    samples = [
        each.bias_samples(name) if each and content else None
        for each, name, content in zip(evaluations, kinds, contents, strict=True)
    ]
    lines = []
    for measure in compared_measures():
        values = [content["means"].get(measure.name) if content else None for content in contents]
        changes: list[Change | None] = [None] * len(runs)
        if samples[0] is not None and measure.compared == "paired":
            for place, other in enumerate(samples[1:], start=1):
                changes[place] = None if other is None else _paired(samples[0], other, measure)
        lines.append(Line(split, measure.name, values, changes))
    return lines


def _paired(first: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], measure: AttentionMeasure) -> Change | None:
    """The change on samples (picture and class) that both have, where both were measured so."""
    if measure.name not in first.keys() & other.keys():
        return None
    keys = [list(zip(table["picture"].tolist(), table["class"].tolist(), strict=True)) for table in (first, other)]
    places = {key: place for place, key in enumerate(keys[1])}
    pairs = np.array([(place, places[key]) for place, key in enumerate(keys[0]) if key in places])
    if not len(pairs) or not np.array_equal(first["path"][pairs[:, 0]], other["path"][pairs[:, 1]]):
        return None
    before, after = (
        Ratio.mean(table[measure.name][column]) for table, column in zip((first, other), pairs.T, strict=True)
    )
    return change(before, after, first["picture"][pairs[:, 0]], flags=measure.flag)


def _plain(
    split: str, evaluations: Sequence[StoredEvaluation | None], part: str, measures: Iterable[str]
) -> list[Line]:
    found = [each.content.get(part) if each else None for each in evaluations]
    if not any(found):
        return []
    return [_line(split, name, [_figure(part, name) for part in found]) for name in measures]


def _figure(part: Mapping[str, Any] | None, name: str) -> float | None:
    """A figure of a stored part, or of the means in it; None where there is none."""
    figures = (part or {}).get("means", part)
    value = figures.get(name) if isinstance(figures, Mapping) else None
    return value if isinstance(value, int | float) else None


def _gaps(lines: Sequence[Line]) -> list[Line]:
    """How much accuracy each run loses from the first split of a data set to the others."""
    accuracy = [line for line in lines if line.measure in ("mAP", "top1")]
    gaps = []
    for line in accuracy:
        dataset = line.split.rpartition("/")[0]
        first = next((a for a in accuracy if a.split == f"{dataset}/val"), None)
        if first is not None and first is not line:
            values = [
                a - b if a is not None and b is not None else None
                for a, b in zip(first.values, line.values, strict=True)
            ]
            gaps.append(_line("", f"{line.measure} {first.split} - {line.split.rpartition('/')[2]}", values))
    return gaps


def _line(split: str, measure: str, values: list[float | None]) -> Line:
    return Line(split, measure, values, [None] * len(values))


# Tables ---------------------------------------------------------------------------------------------------------------


def as_markdown(runs: Sequence[Run], lines: Sequence[Line]) -> str:
    """A Markdown table: a row a measure, a column a run, differences to the first with their 95 % intervals; below it,
    which runs cannot be held against the first."""
    rows = [["split", "measure", *(markdown_cell(run.name) for run in runs)], ["---", "---", *("---:" for _ in runs)]]
    rows += [[markdown_cell(line.split), line.measure, *map(cell, line.values, line.changes)] for line in lines]
    remarks = [f"\n{markdown_cell(remark)}\n" for line in lines for remark in line.remarks]
    return "".join([*(f"| {' | '.join(row)} |\n" for row in rows), *remarks])


def as_csv(runs: Sequence[Run], lines: Sequence[Line]) -> list[list[str]]:
    """Rows of a CSV table, the header first: one row a split, measure and run."""
    rows = [["split", "measure", "run", "method", "value", "difference", "low_95", "high_95", "p"]]
    for line in lines:
        for run, value, found in zip(runs, line.values, line.changes, strict=True):
            edges = (found and found.interval_95) or (None, None)
            figures = (found.difference, *edges, found.p) if found else (None,) * 4
            numbers = ["" if figure is None else f"{figure:.8g}" for figure in (value, *figures)]
            rows.append([line.split, line.measure, run.name, run.method.name, *numbers])
    return rows


def as_json(runs: Sequence[Run], lines: Sequence[Line]) -> dict[str, Any]:
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
    """A value and its difference to the first run, as text."""
    if value is None:
        return "-"
    if change is None:
        return number(value)
    decimals = _decimals(value)
    words = [f"{change.difference:+.{decimals}f}"]
    if change.interval_95 is not None:
        words.append("[{}]".format(", ".join(f"{edge:+.{decimals}f}" for edge in change.interval_95)))
    return f"{number(value)} ({' '.join(words)})"


def number(value: float) -> str:
    """A value as text: per cent with one decimal, shares with three, counts in full."""
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
