"""One model on one split, measured once: the scores, and the samples that every figure of an audit is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Index
from attnbias.methods.engine.attention_measures import ATTENTION, BACKGROUND_FLAGS
from attnbias.methods.engine.audit.measures import CENTRE, ORACLE, SWAPPED
from attnbias.methods.engine.audit.opening import kind_of
from attnbias.methods.engine.audit.result import Property, Sample
from attnbias.methods.engine.audit.shortcuts import find_shortcuts
from attnbias.methods.engine.bias import reliance as taken_away
from attnbias.methods.engine.bias.backgrounds import Backgrounds, OnContexts, score_backgrounds
from attnbias.methods.engine.bias.faithfulness import Faithfulness, agreement_words, score_faithfulness
from attnbias.methods.engine.bias.objects import (
    NothingToMeasureError,
    ResolvedTruth,
    has_objects,
    resolve_truth,
    true_labels,
)
from attnbias.methods.engine.bias.reliance import Reliance, score_reliance
from attnbias.methods.engine.bias.report import BiasReport, measure_bias, named_classes
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import score
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import AuditRequest

T = TypeVar("T")

STEPS = 16
"""Of the curves of deletion and insertion: enough to tell a map from a random order."""


@dataclass(frozen=True)
class MeasuredModel:
    """What was found of one model."""

    loaded: Loaded
    dataset: ImageDataset
    """The images that were drawn of the split."""
    evaluation: Evaluation
    map: str
    truth: ResolvedTruth | None
    truth_missing: str
    """Why there is none."""
    left_out: Mapping[str, int]
    """Objects that the map was not held against, by reason."""
    not_run: Mapping[str, str]
    """Of attention, reliance, backgrounds and trust: why it was not measured."""
    samples: tuple[Sample, ...]
    properties: tuple[Property, ...]
    agrees_with: str
    """What `agreement` is with, in words; empty where it was not measured."""


def measure(request: AuditRequest, loaded: Loaded, index: Index, accelerator: Accelerator) -> MeasuredModel:
    """Score the images, hold the maps against the objects, take objects and contexts away, and test the map.

    What cannot be measured here is left out, and said why.
    """
    dataset = loaded.method.open_dataset(loaded.recipe, index, on_bad_image=request.on_bad_image)
    evaluation = score(request, loaded, dataset, accelerator)
    truth, missing = truth_of(dataset, request)
    given = (loaded, dataset, evaluation, accelerator)
    found = _probe(request, given, truth, missing)
    samples = tuple(_samples(dataset, evaluation, _values_of(found, evaluation)))
    if not any(sample.right for sample in samples if sample.label >= 0):
        found.not_run["right_elsewhere"] = "no object is named rightly"
    if evaluation.targets.ndim == 1:
        found.not_run["mean_average_precision"] = "the set is single-label"
    row_of = {sample.image: row for row, sample in reversed([*enumerate(samples)])}
    shortcuts = find_shortcuts(*given, batch_size=request.eval_batch_size)
    return MeasuredModel(
        loaded,
        dataset,
        evaluation,
        kind_of(request, loaded),
        truth,
        missing,
        found.bias.skipped if found.bias else {},
        found.not_run,
        samples,
        tuple(shortcut.result(loaded.classes, row_of) for shortcut in shortcuts),
        agreement_words(tested.other_map, tested.map, tested.same_maps) if (tested := found.faithfulness) else "",
    )


class _Probed(NamedTuple):
    """What each kind of measure found; None where it could not be run."""

    bias: BiasReport | None
    reliance: Reliance | None
    backgrounds: Backgrounds | None
    faithfulness: Faithfulness | None
    not_run: dict[str, str]


def _probe(
    request: AuditRequest,
    given: tuple[Loaded, ImageDataset, Evaluation, Accelerator],
    truth: ResolvedTruth | None,
    missing: str,
) -> _Probed:
    not_run = {} if truth else dict.fromkeys(("attention", "reliance", "backgrounds"), missing)
    against, size, kind = truth.kind if truth else None, request.eval_batch_size, kind_of(request, given[0])

    workers = request.workers or 0

    def run(name: str, measured: Callable[[], T]) -> T | None:
        if name in not_run:
            return None
        try:
            return measured()
        except NothingToMeasureError as error:
            not_run[name] = str(error)
            return None

    def test_map() -> Faithfulness:
        curves = ("deletion", "insertion")
        return score_faithfulness(
            *given, request.faithfulness, kind=kind, batch_size=size, steps=STEPS, on_pixels=curves
        )

    return _Probed(
        run(
            "attention",
            lambda: measure_bias(*given, kind=kind, truth=against, tau=request.tau, batch_size=size, workers=workers),
        ),
        run("reliance", lambda: score_reliance(*given, truth=against, batch_size=size, workers=workers)),
        run("backgrounds", lambda: score_backgrounds(*given, truth=against, batch_size=size, workers=workers)),
        run("trust", test_map),
        not_run,
    )


def truth_of(dataset: ImageDataset, request: AuditRequest) -> tuple[ResolvedTruth | None, str]:
    """What objects are; or why nothing is held against them.

    Raises:
        DataError: the set does not have what was asked for.
    """
    if request.truth is None and not has_objects(dataset):
        index = dataset.index
        return None, f"{index.dataset}/{index.split} has neither masks nor boxes"
    return resolve_truth(dataset, request.truth), ""


# Samples --------------------------------------------------------------------------------------------------------------


class _Values:
    """What was measured of each sample, by image and class."""

    def __init__(self, absent: NDArray[np.float64]) -> None:
        self.absent = absent
        self.found: dict[tuple[int, int], dict[str, float]] = {}

    def add(self, image: int, label: int, values: Iterable[tuple[str, float]]) -> None:
        own = self.found.setdefault((image, label), {})
        own.update(values)

    def add_maps(self, bias: BiasReport) -> None:
        """The map's measures, and of the reference maps those that figures are held against."""
        kept = {column for each in ATTENTION if each.shown is not None for column in each.ratio or (each.name,)}
        of_reference = [name for name in bias.rows[0].values if name in kept]
        for row in bias.rows:
            self.add(row.image, row.label, row.values.items())
        for prefix, name in ((CENTRE, "centre"), (ORACLE, "oracle")):
            for row in bias.beside[name]:
                self.add(row.image, row.label, ((f"{prefix}{each}", row.values[each]) for each in of_reference))

    def add_swapped(self, named: OnContexts) -> None:
        values = dict(zip(BACKGROUND_FLAGS, map(float, named.values), strict=True))
        values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
        self.add(named.image, named.label, ((f"{SWAPPED}{name}", value) for name, value in values.items()))

    def add_trust(self, found: Faithfulness) -> None:
        columns = dict(found.columns)
        columns["deletion_gain"] = columns["random_deletion"] - columns["deletion"]
        columns["insertion_gain"] = columns["insertion"] - columns["random_insertion"]
        for number, (image, label) in enumerate(zip(found.images.tolist(), found.labels.tolist(), strict=True)):
            self.add(image, label, ((name, float(each[number])) for name, each in columns.items()))

    def of(self, image: int, label: int) -> dict[str, float]:
        own = self.found.get((image, label), {})
        if label >= 0 and np.isfinite(self.absent[label]):
            own = {**own, "absent_score": float(self.absent[label])}
        return own


def _values_of(found: _Probed, evaluation: Evaluation) -> _Values:
    values = _Values(_absent_scores(evaluation))
    if found.bias is not None:
        values.add_maps(found.bias)
    for row in found.reliance.rows if found.reliance else ():
        values.add(row.image, row.label, zip(taken_away.COLUMNS, row.values, strict=True))
    for named in found.backgrounds.rows if found.backgrounds else ():
        values.add_swapped(named)
    if found.faithfulness is not None:
        values.add_trust(found.faithfulness)
    return values


def _absent_scores(evaluation: Evaluation) -> NDArray[np.float64]:
    """Of each class (C,), its mean score in the images that surely do not show it; NaN where all do."""
    scores = evaluation.scores["scores"].astype(np.float64)
    targets = evaluation.targets
    absent = targets == 0 if targets.ndim == 2 else targets[:, None] != np.arange(scores.shape[1])
    with np.errstate(invalid="ignore"):
        return np.asarray((scores * absent).sum(0) / absent.sum(0))


def _samples(dataset: ImageDataset, evaluation: Evaluation, values: _Values) -> Iterable[Sample]:
    """One sample for each true class of each scored image, and one of an image without."""
    named = named_classes(evaluation)
    for position, scores in zip(evaluation.ids.tolist(), evaluation.scores["scores"], strict=True):
        own, record = named[position], dataset.records[position]
        order = np.argsort(-scores, kind="stable")
        predicted = tuple(order[own[order]].tolist())
        for label in true_labels(dataset, position) or (-1,):
            yield Sample(
                image=position,
                path=record.path,
                label=label,
                right=bool(own[label]) if label >= 0 else not predicted,
                predicted=predicted,
                score=float(scores[label] if label >= 0 else scores.max()),
                group=record.group or "",
                values=values.of(position, label),
            )
