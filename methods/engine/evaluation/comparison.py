"""Runs side by side: what their folders hold, and by how much each differs from the first. No torch.

Accuracy is computed again from stored scores, by one rule for all: methods define average precision differently, and
those of the papers go by the order of the samples where scores are equal. Here equal scores are taken together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import isnan
from pathlib import Path
from typing import NamedTuple, TypeVar, get_args

import numpy as np
from pydantic import Field

from attnbias.data.index import Task
from attnbias.data.reading import Json, StoredModel, read_json, reading
from attnbias.methods.engine.attention_measures import (
    BACKGROUNDS,
    FAITHFULNESS,
    HEADLINE,
    background_gap,
    between_name,
    compared_measures,
    foreground_sensitivity,
)
from attnbias.methods.engine.description import EXPLAINERS, Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.evaluation.groups import group_changes
from attnbias.methods.engine.metrics import by_formula, leading, names, tied_scores
from attnbias.methods.engine.metrics_log import MetricsLog
from attnbias.methods.engine.recipe import Recipe, read_recipe
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.statistics import (
    Change,
    Estimate,
    Interval,
    Ratio,
    change,
    interval,
    mean_precision,
    unpaired,
    with_p_together,
)
from attnbias.methods.engine.stored import known_method
from attnbias.methods.engine.stored_evaluations import (
    RELIANCE_SHARES,
    Samples,
    Scores,
    StoredEvaluation,
    stored_evaluations,
)
from attnbias.methods.engine.types import LogLine
from attnbias.methods.engine.yaml_files import read_yaml
from attnbias.weights.errors import WeightsError

M = TypeVar("M", bound=StoredModel)
L = TypeVar("L", bound="Line")


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself."""

    path: Path
    method: Description
    recipe: Recipe
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """Split -> epoch -> the measure that decides; of raw and averaged weights the better one on the first split."""
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    """The same by optimiser step: every evaluation."""
    bias_curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """Split -> epoch -> how much of the attention is on the object (HEADLINE), where `train --bias-every` measured it.
    """
    measure: str = ""
    """The name of that measure."""
    evaluations: dict[str, StoredEvaluation] = field(default_factory=dict)
    """DATASET/SPLIT -> what `val --store` kept."""
    started_from: str = ""
    """The weights that it began with, as its environment.json names them; random, or nothing where that is missing."""
    data: str = ""
    """What it was trained on, as its data.json has it; nothing where that is missing."""
    environment: Json = field(default_factory=dict)
    """What it was started by and on, as its environment.json has it."""
    ended: str = ""
    """Where it ended before its recipe does, as a run that was stopped; nothing of a whole one."""

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
    """Against the first run; None for itself, and where samples are not the same or no spread was kept."""
    remarks: list[str] = field(default_factory=list)
    """Which runs cannot be held against the first, and why; of the first line also which ended before their recipe."""
    apart: list[int] = field(default_factory=list)
    """Positions of these runs: their images, objects or maps are others, and no seed makes them alike."""


class Kept(NamedTuple):
    """What a run keeps of a measure without its samples."""

    value: float
    interval_95: Interval | None


SILHOUETTES = ("kept", "reliance")
"""Reliance as it was measured until objects were taken away with their silhouettes: of runs stored before."""


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
        raise WeightsError(f"{path} is not a run folder ({error.filename}: {error.strerror})") from None
    stored = {each.split: each for each in stored_evaluations(path)}
    if not evaluated and not stored:
        raise WeightsError(
            f"{path} holds no evaluation yet; run: attnbias val {method.name} --load-from {path} --store"
        )
    measure, measured = _deciding(method, evaluated)
    environment = _written(path / "environment.json", _Environment)
    return Run(
        path,
        method,
        recipe,
        curves=_curves(measured, measure, "epoch"),
        points=_curves(measured, measure, "step"),
        bias_curves=_curves([line for line in measured if f"bias/{HEADLINE}" in line], f"bias/{HEADLINE}", "epoch"),
        measure=measure,
        evaluations=stored,
        started_from=environment.starting_weights,
        data=json.dumps(_written(path / "data.json", _Data).splits.get("train", {}), sort_keys=True),
        environment=environment.model_dump(),
        ended=_ended(path, recipe, evaluated),
    )


def _ended(path: Path, recipe: Recipe, evaluated: Sequence[LogLine]) -> str:
    """Where a run was last evaluated, if that is before the end that its recipe sets and it did not stop by itself."""
    unit, whole = ("step", recipe.steps) if recipe.steps else ("epoch", recipe.epochs)
    last = max((int(line[unit]) for line in evaluated), default=whole)
    newest = RunFolder(path).newest()
    if last >= whole or newest is None or RunFolder.read_progress(newest).stopped_early:
        return ""
    return f"{path} ended after {unit} {last:,} of {whole:,}: it is held against others as it is"


class _Environment(StoredModel, extra="allow"):
    """Of environment.json."""

    starting_weights: str = ""


class _Data(StoredModel, extra="allow"):
    """Of data.json."""

    splits: dict[str, Json] = Field(default_factory=dict)


def _written(path: Path, kind: type[M]) -> M:
    """What a run has written of itself; nothing where the file is missing, as in folders of earlier versions."""
    try:
        with reading(path, "put the run's own file back, or delete this one", WeightsError):
            return kind.model_validate(read_json(path))
    except FileNotFoundError:
        return kind()


def _deciding(method: Description, evaluated: Sequence[LogLine]) -> tuple[str, list[LogLine]]:
    """The name of the measure that decides, and the lines of the weights that are best by it on the first split."""
    names = [method.monitor(task) for task in get_args(Task)]
    measure = next((name for line in evaluated for name in names if name in line), "")
    measured = [line for line in evaluated if isinstance(line.get(measure), (int, float))]
    if not measured:
        return "", []
    first = measured[0]["split"]
    best = max((line for line in measured if line["split"] == first), key=lambda line: line[measure])
    return measure, [line for line in measured if line["weights"] == best["weights"]]


def _curves(measured: Sequence[LogLine], measure: str, over: str) -> dict[str, dict[int, float]]:
    """Split -> epoch or step -> the measure; of several evaluations in one epoch the last."""
    curves: dict[str, dict[int, float]] = {}
    for line in measured:
        curves.setdefault(line["split"], {})[line[over]] = line[measure]
    return curves


def compared(runs: Sequence[Run], kind: str = "own") -> list[Line]:
    """Everything that the runs' stored evaluations hold, split by split; `kind` says whose maps: own, or a name.

    Raises:
        UsageError: no method of the runs has such a map; or attention was held against masks in one run and boxes in
            another, or above other thresholds, or maps of one kind were steered by other priors.
    """
    known = ["own", *EXPLAINERS, *(name for run in runs for name in run.method.maps)]
    if kind not in known:
        raise UsageError(f"no map '{kind}'{did_you_mean(kind, known)}; one of: {', '.join(dict.fromkeys(known))}")
    lines: list[Line] = []
    for split in dict.fromkeys(split for run in runs for split in run.evaluations):
        evaluations = [run.evaluations.get(split) for run in runs]
        others: list[int] = []
        own: list[Line]
        if any(each.has_scores for each in evaluations if each):
            own, others = _of_scores(split, runs, evaluations)
        else:  # another task: its measures, as they were stored
            contents = [each.content["measures"] for each in evaluations if each]
            figures = (name for content in contents for name, value in content.items() if isinstance(value, float))
            own = _plain(split, evaluations, "measures", tuple(dict.fromkeys(figures)))
        own += _attention(split, runs, evaluations, kind)
        own += _groups(split, evaluations, others)
        own += _of_objects(split, runs, evaluations)
        own += _plain(split, evaluations, "faithfulness", [trust.name for trust in FAITHFULNESS])
        own += _robustness(split, evaluations)
        lines += [_without_changes(line, others) for line in own]
    lines = read_together(lines + _gaps(lines))
    ended = [run.ended for run in runs if run.ended]
    return [replace(line, remarks=[*ended, *line.remarks]) for line in lines[:1]] + lines[1:]


def _without_changes(line: Line, runs: Sequence[int]) -> Line:
    """A line that holds some runs, by position, against nothing."""
    changes = [None if n in runs else change for n, change in enumerate(line.changes)]
    return replace(line, changes=changes, apart=sorted({*line.apart, *runs}))


def _of_scores(
    split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None]
) -> tuple[list[Line], list[int]]:
    """Metrics of scores, by one rule for all (mAP or top-1), and pairs of a class and a co-occurring class; all
    paired. And which runs were evaluated on other images or labels than the first."""
    found = [each.scores() if each else None for each in evaluations]
    first, remarks = found[0], []
    others: list[int] = []
    for position, (run, scores) in enumerate(zip(runs, found, strict=True)):
        if first and scores and (differs := first.differs(scores)):
            remarks.append(f"{split}: {run.name} was evaluated on other {differs} than {runs[0].name}: no difference")
            others.append(position)
    same = [scores is not None and n not in others for n, scores in enumerate(found)]
    single = any(scores.targets.ndim == 1 for scores in found if scores)
    tables = [(each.targets, each.scores) if each else None for each in found]
    lines: list[Line] = []
    for metric in by_formula("singlelabel" if single else "multilabel"):
        if metric.compared:
            values = [metric.of(*table) if table else None for table in tables]
            changes = [
                metric.change(tables[0], table) if tables[0] and table and ok else None
                for table, ok in zip(tables[1:], same[1:], strict=True)
            ]
            lines.append(Line(split, metric.name, values, [None, *changes], [] if lines else remarks))
    ties = [tied_scores(*table) if table else None for table in tables]
    lines.append(Line(split, "tied_scores", [*ties], [None] * len(runs)))
    if single:
        return lines, others
    pairs = [_context(scores, each) if scores and each else {} for scores, each in zip(found, evaluations, strict=True)]
    remarks = _of_other_pairs(split, runs, evaluations)
    for name in dict.fromkeys(name for figures in pairs for name in figures):
        line = _estimated(split, name, [figures.get(name) for figures in pairs], same)
        lines.append(replace(line, remarks=remarks))
        remarks = []
    return lines, others


def _of_other_pairs(split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None]) -> list[str]:
    """Which runs were measured on other pairs of classes than the first."""
    pairs = [(each.content.get("context") or {}).get("pairs", ()) if each else () for each in evaluations]
    named = [{(pair.get("class"), pair.get("context")) for pair in own} for own in pairs]
    return [
        f"{split}: the pairs of {run.name} are others than those of {runs[0].name}: each context_gap is of its own; "
        "val --context with --load-from of both finds one set for all"
        for run, own in zip(runs, named, strict=True)
        if own and named[0] and own != named[0]
    ]


def _estimated(split: str, measure: str, found: Sequence[Estimate | None], same: Sequence[bool]) -> Line:
    """A line, in per cent, of figures of the same images where `same` says so."""
    first = found[0]
    changes = [
        Change.of(each - first).scaled(100) if first and each and ok else None
        for each, ok in zip(found, same, strict=True)
    ]
    return Line(split, measure, [100 * each.value if each else None for each in found], [None, *changes[1:]])


def _context(scores: Scores, evaluation: StoredEvaluation) -> dict[str, Estimate]:
    """Average precision of the classes that a run's pairs name, beside their co-occurring class and without it, and
    the gap."""
    pairs = (evaluation.content.get("context") or {}).get("pairs", ())
    kept = [pair for pair in pairs if pair.get("cooccur_AP") is not None and pair.get("exclusive_AP") is not None]
    classes = evaluation.content.get("classes", [])
    named = {pair.get(key) for pair in kept for key in ("class", "context")}
    if not kept or not named <= {*classes} or len(classes) != scores.scores.shape[1]:
        return {}
    own, context = ([classes.index(pair[key]) for pair in kept] for key in ("class", "context"))
    there, beside = scores.targets[:, own] == 1, scores.targets[:, context] == 1  # (N, pairs)
    together, alone = (
        mean_precision(np.where(there, np.where(chosen, 1, -1), 0), scores.scores[:, own])
        for chosen in (beside, ~beside)
    )
    if together is None or alone is None:
        return {}
    return {"cooccur_AP": together, "exclusive_AP": alone, "context_gap": together - alone}


def _attention(
    split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None], kind: str
) -> list[Line]:
    """Means of all samples of each run; differences on the samples that both runs have, where maps are of one kind."""
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
        over, under = measure.ratio or (measure.name, None)
        if under:  # runs stored before it was a ratio of means have the mean of each sample's ratio
            values = [Ratio(table[over], table[under]).value if table else None for table in samples]
        changes: list[Change | None] = [None] * len(runs)
        if measure.compared == "paired":
            changes[1:] = [_paired(samples[0], table, over, under, flags=measure.flag) for table in samples[1:]]
        lines.append(Line(split, measure.name, values, changes))
        if measure.between and any(content and measure.name in content["between"] for content in contents):
            values = [content["between"].get(measure.name) if content else None for content in contents]
            placed = [table and _placed(table, measure.name) for table in samples]
            changes = [None, *(_paired(placed[0], table, "gained", "room") for table in placed[1:])]
            lines.append(Line(split, between_name(measure.name), values, changes))
    others = [
        n
        for n, content in enumerate(contents)
        if contents[0] and content and not runs[0].method.same_map(kinds[0], runs[n].method, kinds[n])
    ]
    said = [
        f"{split}: attention of {runs[n].name} is its own map ({kinds[n]} of {runs[n].method.name}), that of "
        f"{runs[0].name} {kinds[0]} of {runs[0].method.name}: no difference; one explainer for all is "
        "val --bias --map gradcam --store, then compare --map gradcam"
        for n in others
    ]
    said += _steered_alike(split, runs, kinds, contents)
    return [replace(_without_changes(line, others), remarks=[] if n else said) for n, line in enumerate(lines)]


def _steered_alike(split: str, runs: Sequence[Run], kinds: Sequence[str], contents: Sequence[Json | None]) -> list[str]:
    """Which runs' maps were told what to look for (`val --prior`).

    Raises:
        UsageError: two maps of one kind were told to look for different things.
    """
    told: dict[str, list[str]] = {}
    remarks = []
    for run, kind, content in zip(runs, kinds, contents, strict=True):
        if content:
            prior, gain = content["prior"] or content["steered_by"], content["gain"]
            gained = "" if gain is None else f", gain {gain:g}"
            told.setdefault(kind, []).append(f"{prior}{gained}" if prior else "no --prior")
            if content["steered_by"]:
                remarks.append(f"{split}: maps of {run.name} are steered by {content['steered_by']}")
    for kind, priors in told.items():
        if len({*priors}) > 1:
            words = " and ".join(dict.fromkeys(priors))
            raise UsageError(
                f"{split}: map '{kind}' was steered by {words}; evaluate again with one --prior and --gain"
            )
    return remarks


def _placed(table: Samples, name: str) -> Samples:
    """With what a map has gained over the centre map, and what room the oracle of its grid leaves."""
    centre, oracle = (table.get(f"{baseline}:{name}") for baseline in ("centre", "oracle"))
    if centre is None or oracle is None:
        return table
    return table | {"gained": table[name] - centre, "room": oracle - centre}


def _paired(
    first: Samples | None, other: Samples | None, over: str, under: str | None = None, *, flags: bool = False
) -> Change | None:
    """The change, of a mean or of a ratio of means, on samples (image and class) that both have, where both were
    measured so."""
    if first is None or other is None or not {over, under or over} <= first.keys() & other.keys():
        return None
    keys = [list(zip(table["picture"].tolist(), table["class"].tolist(), strict=True)) for table in (first, other)]
    positions = {key: position for position, key in enumerate(keys[1])}
    pairs = np.array([(position, positions[key]) for position, key in enumerate(keys[0]) if key in positions])
    if not len(pairs) or not np.array_equal(first["path"][pairs[:, 0]], other["path"][pairs[:, 1]]):
        return None
    before, after = (
        Ratio(table[over][column], table[under][column]) if under else Ratio.mean(table[over][column])
        for table, column in zip((first, other), pairs.T, strict=True)
    )
    return change(before, after, first["picture"][pairs[:, 0]], flags=flags)


def _of_objects(split: str, runs: Sequence[Run], evaluations: Sequence[StoredEvaluation | None]) -> list[Line]:
    """Reliance and backgrounds; a run whose objects were others (masks, boxes) than the first's has no difference."""
    named = {
        "reliance": _reliance(split, evaluations),
        "backgrounds": _backgrounds(split, evaluations),
    }
    lines = []
    for part, own in named.items():
        truths = [(each.content.get(part) or {}).get("truth") if each else None for each in evaluations]
        others = [n for n, truth in enumerate(truths) if truth and truths[0] and truth != truths[0]]
        said = [
            f"{split}: {part} of {runs[n].name} is of {truths[n]}, that of {runs[0].name} of {truths[0]}: no difference"
            for n in others
        ]
        lines += [replace(_without_changes(line, others), remarks=[] if n else said) for n, line in enumerate(own)]
    return lines


def _reliance(split: str, evaluations: Sequence[StoredEvaluation | None]) -> list[Line]:
    """What the object and the context alone leave; paired, but for runs that were stored when silhouettes were left."""
    lines = []
    tables = [each.reliance_samples() if each else None for each in evaluations]
    for line in _plain(split, evaluations, "reliance", (*RELIANCE_SHARES, *SILHOUETTES)):
        if line.measure in RELIANCE_SHARES and tables[0]:
            part = RELIANCE_SHARES[line.measure]
            changes = [_paired(tables[0], table, part, "probability") if table else None for table in tables[1:]]
            line = replace(line, changes=[None, *changes])
        lines.append(line)
    return lines


def _backgrounds(split: str, evaluations: Sequence[StoredEvaluation | None]) -> list[Line]:
    """Objects on other contexts; paired, but for runs that were stored without their samples."""
    lines = []
    tables = [each.backgrounds_samples() if each else None for each in evaluations]
    for line in _plain(split, evaluations, "backgrounds", [figure.name for figure in BACKGROUNDS]):
        paired = [swapped_change(tables[0], table, line.measure) for table in tables[1:]]
        changes = [own or apart for own, apart in zip(paired, line.changes[1:], strict=True)]
        lines.append(replace(line, changes=[None, *changes]))
    return lines


def swapped_change(first: Samples | None, other: Samples | None, measure: str) -> Change | None:
    """The paired change of a figure of BACKGROUNDS; None where it is not defined in both."""
    if first is None or other is None:
        return None
    made = {"bg_gap": background_gap, "rfs": foreground_sensitivity}.get(measure)
    if made is None:
        return _paired(first, other, measure, flags=True)
    before, after = made(first), made(other)
    if isnan(before.value) or isnan(after.value):
        return None
    return _paired(first | before._asdict(), other | after._asdict(), "over", "under")


GROUP_KINDS = {"accuracy": ("worst_group_accuracy", "group_gap"), "top1": ("worst_group_top1", "group_gap_top1")}
"""What a group's figure is called -> the lines made of it. top1 is of runs stored when a group was an attribute
alone: they are shown, and not held against those of a label under an attribute."""


def _groups(split: str, evaluations: Sequence[StoredEvaluation | None], others: Sequence[int]) -> list[Line]:
    """The worst group's accuracy, and its distance to that of all images, from how many of each are right.

    Paired where it is the same group of the same images as the first run's (`others` were evaluated on others).
    """
    lines = []
    for key, measures in GROUP_KINDS.items():
        found = [_worst_group((each.content.get("groups") or {}) if each else {}, key) for each in evaluations]
        if any(found):
            figures = zip(*(pair or (None, None) for pair in found), strict=True)
            lines += [_apart(split, name, column) for name, column in zip(measures, figures, strict=True)]
    first = evaluations[0]
    for position, other in enumerate(evaluations):
        if position and position not in others and (paired := _paired_groups(first, other)):
            for line in lines:
                if line.measure in paired:
                    line.changes[position] = paired[line.measure]
    return lines


def _paired_groups(first: StoredEvaluation | None, other: StoredEvaluation | None) -> dict[str, Change]:
    """The changes of the worst group's figures; none where two runs have not the same one, or kept no attributes."""
    if first is None or other is None or not (first.has_scores and other.has_scores):
        return {}
    names = [(each.content.get("groups") or {}).get("worst_group") for each in (first, other)]
    if names[0] is None or names[0] != names[1]:
        return {}
    before, after = first.scores(), other.scores()
    if before.attributes is None or after.attributes is None:
        return {}
    if before.differs(after) or not np.array_equal(before.attributes, after.attributes):
        return {}
    scores, classes = (before.scores, after.scores), first.content["classes"]
    found = group_changes(before.targets, *scores, before.attributes.tolist(), classes, names[0])
    return dict(zip(GROUP_KINDS["accuracy"], found, strict=True)) if found else {}


def _worst_group(groups: Json, key: str) -> tuple[Kept, Kept] | None:
    """The accuracy of the worst group and its gap, where accuracies are called so."""
    known = {name: (each["samples"], each[key]) for name, each in groups.get("groups", {}).items() if key in each}
    if groups.get("worst_group") not in known:
        return None
    lowest = _share(*known[groups["worst_group"]])
    samples = sum(count for count, _ in known.values())
    whole = groups.get("whole") or {"samples": samples, key: sum(n * share for n, share in known.values()) / samples}
    distance = unpaired(*lowest, *_share(whole["samples"], whole[key]))
    return lowest, Kept(distance.difference, distance.interval_95)


def _share(samples: int, percent: float) -> Kept:
    """How many of the samples, an image each, are right."""
    right = np.arange(samples) < round(samples * percent / 100)
    edges = interval(Ratio.mean(right), np.arange(samples), flags=True)
    return Kept(percent, edges and (100 * edges[0], 100 * edges[1]))


def _plain(
    split: str, evaluations: Sequence[StoredEvaluation | None], part: str, measures: Iterable[str]
) -> list[Line]:
    """Stored means, and their differences where intervals are stored beside them."""
    found = [each.content.get(part) if each else None for each in evaluations]
    if not any(found):
        return []
    lines = [_apart(split, name, [_figure(part, name) for part in found]) for name in measures]
    return [line for line in lines if any(value is not None for value in line.values)]


def _figure(part: Json | None, name: str) -> Kept | None:
    """A figure of a stored part, or of the means in it; None where there is none."""
    figures = (part or {}).get("means", part)
    value = figures.get(name) if isinstance(figures, Mapping) else None
    edges = ((part or {}).get("intervals_95") or {}).get(name)
    return Kept(value, tuple(edges) if edges else None) if isinstance(value, int | float) else None


def _robustness(split: str, evaluations: Sequence[StoredEvaluation | None]) -> list[Line]:
    lines, known = [], names(lambda metric: metric.compared)
    tests = [{row["test"]: row for row in each.robustness()} if each else {} for each in evaluations]
    for test in dict.fromkeys(test for rows in tests for test in rows):
        rows = [found.get(test, {}) for found in tests]
        for name in dict.fromkeys(name for row in rows for name in row if name in known):
            figures = [
                Kept(row[name], (row["low_95"], row["high_95"]) if "low_95" in row and name in leading() else None)
                if name in row
                else None
                for row in rows
            ]
            lines.append(_apart(split, f"{test}: {name}", figures))
    return lines


def _gaps(lines: Sequence[Line]) -> list[Line]:
    """How much accuracy each run loses from the first split of a data set to the others, whose images are others."""
    accuracy = [line for line in lines if line.measure in leading()]
    gaps = []
    for line in accuracy:
        dataset = line.split.rpartition("/")[0]
        first = next((a for a in accuracy if a.split == f"{dataset}/val"), None)
        if first is None or first is line:
            continue
        values = [None if a is None or b is None else a - b for a, b in zip(first.values, line.values, strict=True)]
        changes = [
            replace(unpaired(b.difference, b.interval_95, a.difference, a.interval_95), paired=True)
            if a and b
            else None
            for a, b in zip(first.changes, line.changes, strict=True)
        ]
        gaps.append(Line("", f"{line.measure} {first.split} - {line.split.rpartition('/')[2]}", values, changes))
    return gaps


def _apart(split: str, measure: str, figures: Sequence[Kept | None]) -> Line:
    """A line whose differences follow from the runs' own intervals."""
    first = figures[0]
    changes = [unpaired(*first, *each) if first and each else None for each in figures[1:]]
    return Line(split, measure, [each.value if each else None for each in figures], [None, *changes])


def read_together(lines: Sequence[L]) -> list[L]:
    """The lines, of runs or of recipes over their seeds, with p-values among all of their differences."""
    changes = iter(with_p_together([change for line in lines for change in line.changes]))
    return [replace(line, changes=list(islice(changes, len(line.changes)))) for line in lines]


def reading_aid(lines: Sequence[Line], few: str = "images") -> list[str]:
    """What has to be said of all differences together; `few` names what there may be too little of."""
    found = [(line, change) for line in lines for change in line.changes if change]
    changes = [(line, change) for line, change in found if change.interval_95]
    unknown = list(dict.fromkeys(line.measure for line, change in found if not change.interval_95))
    without = [f"no interval, since no spread was kept or there are too few {few}: {', '.join(unknown)}"]
    if not changes:
        return without if unknown else []
    sure = sum(change.sure for _, change in changes)
    remarks = [
        f"{len(changes)} differences are shown at once, each with an interval of its own, of which one in 20 misses "
        f"by chance; * marks the {sure} that hold for all of them together (Holm, 5 %)"
    ]
    apart = list(dict.fromkeys(line.measure for line, change in changes if not change.paired))
    if apart:
        remarks.append(f"not paired, so that their intervals are rather too wide: {', '.join(apart)}")
    return [*remarks, *without] if unknown else remarks
