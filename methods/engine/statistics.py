"""Statistics of per-sample figures: means over classes, intervals, and how two runs differ. No torch.

Samples of one image are not independent, so images are what is counted: intervals take the images' own spread
(linearised ratios, Student's t), tests exchange two runs image by image. Shares of samples for which something is true
or false get a pull towards the middle (Agresti & Coull 1998; of differences, Bonett & Price 2012): without it a flag
that is rarely up has an interval that is too short. `tests/engine/test_statistics.py` shows coverage and false alarms
by simulation; bootstrap intervals (percentiles, BCa) cover less there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Interval = tuple[float, float]

EXCHANGES = 9999


class Ratio(NamedTuple):
    """A ratio of two means over samples: the sum of `over` (N,) by the sum of `under` (N,)."""

    over: Floats
    under: Floats

    @classmethod
    def mean(cls, values: np.ndarray) -> Ratio:
        """The mean of values (N,)."""
        return cls(np.asarray(values, dtype=np.float64), np.ones(len(values)))

    @property
    def value(self) -> float:
        """NaN where there is nothing to divide by."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.over.sum() / self.under.sum())


@dataclass(frozen=True)
class Estimate:
    """A figure of many images, and how it depends on each."""

    value: float
    influence: Floats
    """(images,): what each adds to the error."""
    count: float
    """Of what the spread is known from: images, or positives."""

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two figures of the same images."""
        count = min(self.count, other.count)
        return Estimate(self.value - other.value, self.influence - other.influence, count)

    @property
    def interval_95(self) -> Interval | None:
        """Student's interval; None where a single image or positive says nothing of the spread."""
        if self.count < 2:
            return None
        spread = sqrt(self.count / (self.count - 1) * float((self.influence**2).sum()))
        reach = float(stdtrit(self.count - 1, 0.975)) * spread
        return self.value - reach, self.value + reach

    def scaled(self, factor: float) -> Estimate:
        """In other units, as per cent."""
        return Estimate(factor * self.value, factor * self.influence, self.count)


@dataclass(frozen=True)
class Change:
    """By how much a second figure is more than a first."""

    difference: float
    interval_95: Interval | None
    """None where a single image says nothing of the spread."""
    p: float | None
    """Two-sided p-value that there is no difference."""
    paired: bool = True
    """Whether it was found on the samples that both have; else its interval is wider than it would have to be."""
    p_together: float | None = None
    """The p-value among all differences that are read together."""

    @property
    def sure(self) -> bool:
        """Whether it holds at 5 % among all that are read together, and its own interval leaves zero out.

        Of maps that are constant in most images every difference is small and of one sign: an exchange finds it, where
        the interval of a share stays careful.
        """
        if self.p_together is None or self.interval_95 is None:
            return False
        low, high = self.interval_95
        return self.p_together <= 0.05 and not low <= 0 <= high

    @classmethod
    def of(cls, difference: Estimate) -> Change:
        """A difference of two figures of the same images."""
        edges = difference.interval_95
        return cls(difference.value, edges, edges and p_value(difference.value, edges))

    def scaled(self, factor: float) -> Change:
        """In other units, as per cent."""
        if self.interval_95 is None:
            return replace(self, difference=factor * self.difference)
        low, high = sorted(factor * edge for edge in self.interval_95)
        return replace(self, difference=factor * self.difference, interval_95=(low, high))


def macro(values: Floats, classes: np.ndarray) -> float:
    """Mean over classes of the mean over a class's samples."""
    _, inverse = np.unique(classes, return_inverse=True)
    return float((np.bincount(inverse, values) / np.bincount(inverse)).mean())


# Means and ratios of means --------------------------------------------------------------------------------------------


def interval(samples: Ratio, images: np.ndarray, *, flags: bool = False) -> Interval | None:
    """95 % interval of a ratio whose samples (N,) are of `images` (N,); None where there is but one image.

    `flags` says that the values are true or false (1 or 0).
    """
    (own,) = _by_image(images, samples)
    if not flags:
        return _estimate(own).interval_95
    return _clipped(_estimate(_with_images(own, over=(1, 1, 0, 0))).interval_95, 0, 1)


def change(
    first: Ratio, second: Ratio, images: np.ndarray, *, flags: bool = False, exchanges: int = EXCHANGES
) -> Change:
    """Hold two runs against each other on the same samples (N,) of `images` (N,).

    The p-value is that of exchanging both runs' samples of an image, which are alike where the runs do not differ: all
    exchanges of the images that differ where there are few (of one flag an image this is McNemar's exact test), else
    as many random `exchanges`.
    """
    one, other = _by_image(images, first, second)
    difference = other.value - one.value
    if flags:
        a, b = _with_images(one, over=(0, 1)), _with_images(other, over=(1, 0))
        edges = _clipped((_estimate(b) - _estimate(a)).interval_95, -1, 1)
    else:
        edges = (_estimate(other) - _estimate(one)).interval_95
    return Change(difference, edges, _exchange_p(one, other, exchanges))


def change_of_gap(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> Change:
    """How two runs differ in the distance of a part of the images to all of them.

    Args:
        first, second: whether each image (N,) is right under either run.
        inside: (N,), which images are the part.

    Two imagined images of the part, one right under each run alone, pull as they do in `change` of flags.
    """
    held = np.append(inside, (True, True))
    gaps = []
    for right, imagined in ((first, (0, 1)), (second, (1, 0))):
        flags = np.append(right, imagined).astype(np.float64)
        gaps.append(_estimate(Ratio.mean(flags)) - _estimate(Ratio(flags * held, held.astype(np.float64))))
    distance = replace(gaps[1] - gaps[0], count=float(held.sum()))
    gained = second.astype(np.float64) - first
    return replace(Change.of(distance), difference=float(gained.mean() - gained[inside].mean()))


def unpaired(first: float, first_interval: Interval | None, second: float, second_interval: Interval | None) -> Change:
    """The difference of two figures from their intervals alone, as if they were independent (MOVER, Zou & Donner 2008).

    Where both are of the same images, which are hard or easy for both, the interval is too wide, never too short.
    """
    difference = second - first
    if first_interval is None or second_interval is None:
        return Change(difference, None, None, paired=False)
    low = difference - sqrt((second - second_interval[0]) ** 2 + (first_interval[1] - first) ** 2)
    high = difference + sqrt((second_interval[1] - second) ** 2 + (first - first_interval[0]) ** 2)
    return Change(difference, (low, high), p_value(difference, (low, high)), paired=False)


def repeated(differences: Sequence[float]) -> Change:
    """The mean of what each repetition of two runs, such as one per seed, has found, with Student's interval and test.

    Repetitions that all found the same say nothing of the spread: neither interval nor p-value, as of a single one.
    """
    count, mean = len(differences), float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / sqrt(count) if count > 1 else 0.0
    if error <= 1e-12 * abs(mean):  # also where all are 0
        return Change(mean, None, None)
    reach = float(stdtrit(count - 1, 0.975)) * error
    return Change(mean, (mean - reach, mean + reach), float(2 * stdtr(count - 1, -abs(mean) / error)))


def p_value(difference: float, edges: Interval) -> float:
    """The p-value that a normal deviate with this 95 % interval has."""
    reach = difference - edges[0] if difference > 0 else edges[1] - difference
    if reach <= 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * ndtr(-abs(difference) / reach * ndtri(0.975)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of tests that are read together (Holm 1979): those below 5 % hold with 95 % confidence, all at once."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def with_p_together(changes: Sequence[Change | None]) -> list[Change | None]:
    """The same changes, each with its p-value among all of them (`p_together`)."""
    adjusted = iter(holm([change.p for change in changes if change and change.p is not None]))
    return [
        replace(change, p_together=next(adjusted)) if change and change.p is not None else change for change in changes
    ]


def _by_image(images: np.ndarray, *samples: Ratio) -> list[Ratio]:
    """The sums of each image's samples."""
    _, inverse = np.unique(images, return_inverse=True)
    sums = [[np.bincount(inverse, part).astype(np.float64) for part in each] for each in samples]
    return [Ratio(over, under) for over, under in sums]


def _with_images(own: Ratio, *, over: Sequence[float]) -> Ratio:
    """Imagined images of average size beside the true ones, whose samples all have the value that `over` says."""
    size = own.under.mean()
    added = size * np.asarray(over, dtype=np.float64)
    return Ratio(np.append(own.over, added), np.append(own.under, np.full(len(added), size)))


def _estimate(own: Ratio) -> Estimate:
    """A ratio of sums over images, linearised."""
    return Estimate(own.value, (own.over - own.value * own.under) / own.under.sum(), len(own.over))


def _clipped(edges: Interval | None, least: float, most: float) -> Interval | None:
    return None if edges is None else (max(edges[0], least), min(edges[1], most))


def _exchange_p(first: Ratio, second: Ratio, most: int) -> float:
    moved = np.stack([np.subtract(*pair) for pair in zip(second, first, strict=True)], axis=1)  # (images, 2)
    moved = moved[moved.any(axis=1)]
    sums = np.array([[part.sum() for part in each] for each in (first, second)])
    least = abs(second.value - first.value) * (1 - 1e-9)
    as_far = tried = 0
    for exchanged in _exchanges(len(moved), most):
        shift = exchanged @ moved
        with np.errstate(invalid="ignore", divide="ignore"):
            values = [(part[:, 0] / part[:, 1]) for part in (sums[0] + shift, sums[1] - shift)]
            as_far += int((abs(values[1] - values[0]) >= least).sum())
        tried += len(shift)
    return as_far / tried


def _exchanges(images: int, most: int) -> Iterator[Floats]:
    """Which images (F, images) are exchanged: every choice of them, or none and `most` random choices."""
    if 2**images <= most:
        yield (np.arange(2**images)[:, None] >> np.arange(images) & 1).astype(np.float64)
        return
    yield np.zeros((1, images))
    rng = np.random.default_rng(0)
    for first in range(0, most, 500):
        yield rng.integers(2, size=(min(500, most - first), images), dtype=np.int8).astype(np.float64)


# Average precision ----------------------------------------------------------------------------------------------------


def mean_precision(targets: np.ndarray, scores: np.ndarray) -> Estimate | None:
    """Mean average precision over the classes that have a positive image, equal scores taken together; None without.

    Targets (N, C) hold 1, 0, -1 = ignore; scores (N, C). An image's influence is the derivative by its weight.
    Student's t is taken of the mean number of positives, on which the error of a precision depends.
    """
    order = np.argsort(-scores.T, axis=1, kind="stable")
    labels, ranked = (np.take_along_axis(each.T, order, axis=1) for each in (targets, scores))  # (C, N)
    positive, known = (labels > 0).astype(np.float64), (labels >= 0).astype(np.float64)
    rated = positive.any(axis=1)
    if not rated.any():
        return None
    first, last = _ends_of_ties(ranked)

    def above(values: Floats) -> Floats:
        """Sums over the images with at least the same score."""
        return np.take_along_axis(values.cumsum(1), last, axis=1)

    def below(values: Floats) -> Floats:
        """Sums over the images with at most the same score."""
        return np.take_along_axis(values[:, ::-1].cumsum(1)[:, ::-1], first, axis=1)

    hits, seen = above(positive), np.maximum(above(known), 1)
    positives = np.maximum(positive.sum(1, keepdims=True), 1)
    precision = (positive * hits / seen).sum(1, keepdims=True) / positives  # (C, 1)
    own = positive * (hits / seen - precision)
    others = positive * below(positive / seen) - known * below(positive * hits / seen**2)
    influence = np.zeros(order.shape)
    np.put_along_axis(influence, order, (own + others) / positives, axis=1)
    return Estimate(float(precision[rated].mean()), influence[rated].mean(0), float(positives[rated].mean()))


def _ends_of_ties(ranked: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (C, N) of the first and the last image with the same score, of scores in descending order."""
    positions = np.arange(ranked.shape[1])
    new = np.ones(ranked.shape, dtype=np.bool_)
    np.not_equal(ranked[:, 1:], ranked[:, :-1], out=new[:, 1:])
    ends = np.ones(ranked.shape, dtype=np.bool_)
    ends[:, :-1] = new[:, 1:]
    first = np.maximum.accumulate(np.where(new, positions, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, positions, len(positions))[:, ::-1], axis=1)[:, ::-1]
    return first, last
