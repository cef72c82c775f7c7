"""What answers are measured by: one table, which `val`, `compare`, plots and the documentation read. No torch.

Formulas are what the papers report: average precision, precision / recall / F1, top-k accuracy; NumPy, float64, exact.

Targets are (N, C) with 1 positive, 0 negative, -1 unknown, or (N,) class numbers; scores are (N, C) probabilities.
Every figure follows from the scores and the order of the samples alone, so it cannot depend on batches or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.errors import NotFiniteError
from attnbias.methods.engine.statistics import Change, Estimate, Ratio, change, mean_precision
from attnbias.methods.engine.types import LABELLED, Metrics

Rule = Literal["grouped", "mean", "interpolated"]
"""Average precision: the mean of the precision at each positive with equal scores taken together (scikit-learn), or one
after the other in the order of the samples (CSRA's program); or the area under the monotone precision-recall curve, in
the order of the samples (IDA's program; VOC since 2010)."""

Unknown = Literal["ignore", "negative"]
Absent = Literal["ignore", "count"]

THRESHOLD = 0.5


class F1(NamedTuple):
    """Precision, recall and F1, per class then averaged (C...) and over all labels together (O...), as fractions."""

    CP: float
    CR: float
    CF1: float
    OP: float
    OR: float
    OF1: float


def multilabel_measures(
    targets: np.ndarray,
    scores: np.ndarray,
    *,
    rule: Rule = "grouped",
    unknown_in_f1: Unknown = "ignore",
    absent_in_f1: Absent = "ignore",
) -> Metrics:
    """Measure multi-label scores, in per cent.

    Returns mAP; CP, CR, CF1, OP, OR, OF1 over all labels and, with `@3`, over each sample's three highest scores; `AP`
    of each class (None where it has no positive sample: left out of the mean); `without_positives`, those classes;
    `ties`, the rule of average precision and how many scores equal one of the other label in their class: where the
    order of the samples decides, it decides among those.

    Raises:
        NotFiniteError: a score is not finite.
    """
    ranking = _Ranking(targets, scores)
    precisions = ranking.average_precision(rule)
    rated = ~np.isnan(precisions)
    every, top3 = (f1(targets, kept, unknown_in_f1, absent_in_f1) for kept in (scores, keep_highest(scores, 3)))
    return {
        "mAP": 100 * float(precisions[rated].mean()) if rated.any() else None,
        **{name: 100 * value for name, value in every._asdict().items()},
        **{f"{name}@3": 100 * value for name, value in top3._asdict().items()},
        "AP": [100 * value if known else None for value, known in zip(precisions.tolist(), rated, strict=True)],
        "without_positives": np.flatnonzero(~rated).tolist(),
        "ties": {"rule": rule, "scores": ranking.tied_scores()},
        **_of_table("multilabel", targets, scores, but="mAP"),
    }


def singlelabel_measures(targets: np.ndarray, scores: np.ndarray) -> Metrics:
    """Measure single-label scores: top-1 and, of more than five classes, top-5 accuracy in per cent.

    Raises:
        NotFiniteError: a score is not finite.
    """
    return _of_table("singlelabel", targets, scores)


def real_accuracy(scores: np.ndarray, labels: Sequence[Collection[int]]) -> Metrics:
    """Top-1 and top-5 accuracy in per cent where any of an image's labels is right (ReaL, arXiv:2006.07159).

    `samples` counts the images that were rated: those without any label are left out. Of equal scores the first class
    leads.

    Raises:
        NotFiniteError: a score is not finite.
    """
    _check_finite(scores)
    positions = []
    for row, own in zip(scores, labels, strict=True):
        if own:
            highest = np.argsort(-row, kind="stable")[:5].tolist()
            positions.append(next((position for position, label in enumerate(highest) if label in own), 5))
    shares = {
        f"real_top{k}": 100 * sum(position < k for position in positions) / max(len(positions), 1) for k in (1, 5)
    }
    return {"samples": len(positions), **shares}


def average_precision(targets: np.ndarray, scores: np.ndarray, rule: Rule = "grouped") -> NDArray[np.float64]:
    """Average precision (C,) of each class over its known samples; NaN where a class has no positive one.

    Where a rule goes by the order of the samples, equal scores keep it. (The programs leave ties to an unstable sort.)

    Raises:
        NotFiniteError: a score is not finite.
    """
    return _Ranking(targets, scores).average_precision(rule)


def f1(targets: np.ndarray, scores: np.ndarray, unknown: Unknown = "ignore", absent: Absent = "ignore") -> F1:
    """Precision, recall and F1 of labels with a score of at least 0.5.

    Classes without a positive sample are left out of every figure: a prediction of them cannot be right. As in the
    programs, any other class that is never predicted counts as predicted once, in OP too, and CF1 is the harmonic mean
    of CP and CR. What would be 0 / 0 is 0.

    Two rules of CSRA's program are options: `unknown="negative"` makes a prediction on an unknown label a false
    positive, as it does for WIDER-Attribute (while its average precision ignores them); `absent="count"` has classes
    without a positive sample in CP and OP.
    """
    predicted = scores >= THRESHOLD
    if unknown == "ignore":
        predicted &= targets >= 0
    truth = targets > 0
    positives = np.count_nonzero(truth, axis=0)  # (C,)
    rated = positives > 0
    counted = rated if absent == "ignore" else np.ones_like(rated)
    hits = np.count_nonzero(predicted & truth, axis=0)
    claims = np.maximum(np.count_nonzero(predicted, axis=0), 1)
    class_precision = float((hits / claims)[counted].mean()) if counted.any() else 0.0
    class_recall = float((hits[rated] / positives[rated]).mean()) if rated.any() else 0.0
    precision = float(hits.sum() / max(claims[counted].sum(), 1))
    recall = float(hits.sum() / max(positives.sum(), 1))
    return F1(
        class_precision,
        class_recall,
        _harmonic_mean(class_precision, class_recall),
        precision,
        recall,
        _harmonic_mean(precision, recall),
    )


def keep_highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Set all but each sample's `count` highest scores to 0; among equal ones the first classes are kept."""
    position = scores.shape[1] - min(count, scores.shape[1])
    last = np.partition(scores, position, axis=1)[:, position : position + 1]  # (N, 1)
    above, equal = scores > last, scores == last
    room = count - np.count_nonzero(above, axis=1, keepdims=True)
    return np.where(above | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= room)), scores, 0)


def among_highest(targets: np.ndarray, scores: np.ndarray, count: int) -> NDArray[np.bool_]:
    """Whether each sample's class (N,) is among its `count` highest scores; of equal scores the first class leads.

    Raises:
        NotFiniteError: a score is not finite.
    """
    _check_finite(scores)
    own = np.take_along_axis(scores, targets[:, None], axis=1)  # (N, 1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]  # (N, C)
    better = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
    return np.asarray(better < count)


def tied_scores(targets: np.ndarray, scores: np.ndarray) -> int:
    """How many scores of known labels (N, C) equal one of the other label in their class, where the order of the
    samples may decide; of classes (N,), how many images give their own class and another one the highest score."""
    if targets.ndim == 2:
        return _Ranking(targets, scores).tied_scores()
    _check_finite(scores)
    highest = scores == scores.max(axis=1, keepdims=True)  # (N, C)
    own = np.take_along_axis(highest, targets[:, None], axis=1)[:, 0]
    return int(np.count_nonzero(own & (np.count_nonzero(highest, axis=1) > 1)))


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise NotFiniteError("scores hold")


class _Ranking:
    """Samples of each class by descending score; equal scores keep their order, and are known as a group."""

    def __init__(self, targets: np.ndarray, scores: np.ndarray) -> None:
        """Sort targets (N, C), 1, 0 or -1 = unknown, by scores (N, C)."""
        labels = (targets > 0).astype(np.uint8) + 2 * (targets < 0).astype(np.uint8)
        keys, labels = _in_descending_order(scores.T, labels.T)
        self.positive, self.known = labels == 1, labels != 2  # (C, N)
        first = np.ones(keys.shape, dtype=np.bool_)
        np.not_equal(keys[:, 1:], keys[:, :-1], out=first[:, 1:])
        self.starts = np.flatnonzero(first)
        """Where each group of equal scores begins, counted through all classes."""

    def average_precision(self, rule: Rule) -> NDArray[np.float64]:
        """(C,); NaN where a class has no positive sample."""
        hits = self.positive.cumsum(axis=1, dtype=np.int32)
        # max(): only unknown samples so far; the precision there is multiplied by zero.
        precision = hits / np.maximum(self.known.cumsum(axis=1, dtype=np.int32), 1)
        if rule == "grouped":
            last = np.append(self.starts[1:], precision.size) - 1
            gains = self._per_group(self.positive) * precision.reshape(-1)[last]
            total = np.bincount(self.starts // precision.shape[1], gains, minlength=len(precision))
        else:
            precision *= self.positive
            if rule == "interpolated":
                precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1] * self.positive
            total = precision.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / hits[:, -1])

    def tied_scores(self) -> int:
        """How many scores of known samples equal one of the other label in their class."""
        positives, known = self._per_group(self.positive), self._per_group(self.known)
        return int(known[(positives > 0) & (positives < known)].sum())

    def _per_group(self, flags: NDArray[np.bool_]) -> NDArray[np.int32]:
        return np.add.reduceat(flags.reshape(-1), self.starts, dtype=np.int32)


def _in_descending_order(scores: np.ndarray, labels: NDArray[np.uint8]) -> tuple[np.ndarray, NDArray[np.uint8]]:
    """Sort each row's scores and labels (C, N), numbers below 4, by descending score; equal scores keep their order.

    Instead of scores, keys may come back that are equal where scores are.
    """
    _check_finite(scores)
    if scores.dtype != np.float32:
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)
    # Score, place and label fit into one word: sorting those takes a quarter of the time of a stable argsort.
    bits = np.ascontiguousarray(0 - scores).view(np.uint32)  # 0 - x: no negative zero
    words = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    words <<= np.uint64(32)
    words |= np.arange(scores.shape[1], dtype=np.uint64) << np.uint64(2)
    words |= labels
    words.sort(axis=1)
    return (words >> np.uint64(32)).astype(np.uint32), (words & np.uint64(3)).astype(np.uint8)


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """One measure of answers, in per cent. `of_sample` or `of_all` compute it from scores in every evaluation of
    its kind of labels; without either, a method's `measure` or a test of robustness does."""

    name: str
    words: str
    """What it says, for the documentation."""
    better: Literal["higher", "lower"] = "higher"
    labels: Literal["multilabel", "singlelabel"] | None = None
    of_sample: Callable[[np.ndarray, np.ndarray], NDArray[np.bool_]] | None = None
    """(targets, scores) -> (N,): true or false of each sample; the share is reported."""
    of_all: Callable[[np.ndarray, np.ndarray], Estimate | None] | None = None
    """(targets, scores) -> a fraction of all samples together, and how it depends on each; None where it has none."""
    brief: bool = False
    """Whether the lines of a training run show it; metrics.jsonl holds all."""
    compared: bool = False
    """Whether `compare` shows it: with differences on the same samples where it has a formula, else alone."""
    robustness: bool = False
    """Whether `val`'s table of attacks and corruptions shows it."""
    of_class: bool = False
    """Whether it is a figure of each class, for `val --per-class`."""
    least_classes: int = 1
    """Of sets with fewer classes it says nothing, and is left out."""

    def of(self, targets: np.ndarray, scores: np.ndarray) -> float | None:
        """Its value, in per cent, by its formula; None where it has none."""
        if self.of_sample is not None:
            return float(100 * (np.count_nonzero(self.of_sample(targets, scores)) / max(len(targets), 1)))
        found = self.of_all(targets, scores) if self.of_all else None
        return 100 * found.value if found else None

    def change(self, one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]) -> Change | None:
        """How much more the second (targets, scores) has, in per cent, of the same images in one order."""
        if self.of_sample is not None:
            first, second = (Ratio.mean(self.of_sample(*each)) for each in (one, two))
            return change(first, second, np.arange(len(first.over)), flags=True).scaled(100)
        before, after = (self.of_all(*each) if self.of_all else None for each in (one, two))
        return Change.of(after - before).scaled(100) if before and after else None


METRICS: tuple[Metric, ...] = (
    Metric(
        "mAP",
        "mean over classes of average precision, by the paper's rule; in `compare` with equal scores taken together",
        labels="multilabel",
        of_all=mean_precision,
        brief=True,
        compared=True,
        robustness=True,
    ),
    Metric("AP", "average precision of each class", of_class=True),
    Metric("CF1", "harmonic mean of precision and recall at 0.5, averaged over classes", brief=True),
    Metric("OF1", "harmonic mean of precision and recall at 0.5 over all labels together", brief=True),
    Metric(
        "top1",
        "share of images whose class has the highest score",
        labels="singlelabel",
        of_sample=partial(among_highest, count=1),
        brief=True,
        compared=True,
        robustness=True,
    ),
    Metric(
        "top5",
        "share of images whose class is among the five highest scores; left out of sets of five classes or fewer",
        labels="singlelabel",
        of_sample=partial(among_highest, count=5),
        brief=True,
        robustness=True,
        least_classes=6,
    ),
    Metric("CE", "error under a corruption over AlexNet's", "lower", compared=True, robustness=True),
    Metric("mCE", "mean of CE over all corruptions", "lower", compared=True, robustness=True),
    Metric("carton", "mean probability of the class carton under ImageNet-W's watermark", "lower", robustness=True),
    Metric("carton_change", "by how much more that is than without it", "lower", compared=True, robustness=True),
    Metric(
        "mIoU",
        "mean over classes of intersection over union, counted in pixels",
        brief=True,
        compared=True,
        robustness=True,
    ),
    Metric("IoU", "intersection over union of each class", of_class=True),
    Metric("aAcc", "share of pixels that are right", brief=True, robustness=True),
    Metric("vqa_score", "mean of the scores that the chosen answers earn", brief=True, compared=True, robustness=True),
    Metric("accuracy", "share of statements that are judged rightly", brief=True, compared=True, robustness=True),
    Metric("ir_r1", "share of texts whose image ranks first", brief=True),
    Metric("tr_r1", "share of images with one of their texts ranked first", brief=True),
    Metric("r1_sum", "the sum of ir_r1 and tr_r1", compared=True, robustness=True),
)
"""A new metric is one entry; with a formula, every evaluation of its kind of labels has it. The first one of a kind of
labels leads: gaps between splits are of it, and intervals of robustness."""


def _of_table(labels: str, targets: np.ndarray, scores: np.ndarray, but: str = "") -> dict[str, float | None]:
    asked = [each for each in by_formula(labels) if each.name != but and scores.shape[1] >= each.least_classes]
    return {metric.name: metric.of(targets, scores) for metric in asked}


def names(of: Callable[[Metric], bool]) -> list[str]:
    """The names of some metrics, in the order of the table."""
    return [metric.name for metric in METRICS if of(metric)]


def leading() -> set[str]:
    """The first metric of each kind of labels."""
    return {next(by_formula(labels)).name for labels in LABELLED}


def by_formula(labels: str) -> Iterator[Metric]:
    """The metrics that are computed from scores for a kind of labels."""
    return (metric for metric in METRICS if metric.labels == labels)
