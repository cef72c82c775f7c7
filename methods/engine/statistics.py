"""Statistics of per-sample figures: means over classes, intervals, and how two runs differ. No torch.

Samples of one image are not independent, so images are what is counted: intervals take the images' own spread
(linearised ratios, Student's t), tests exchange two runs image by image. Shares of samples for which something is true
or false get a pull towards the middle (Agresti & Coull 1998; of differences, Bonett & Price 2012): without it a flag
that is rarely up has an interval that is too short. `tests/test_statistics.py` shows coverage and false alarms by
simulation; bootstrap intervals (percentiles, BCa) cover less there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

RESAMPLES = 1000
EXCHANGES = 9999


class Ratio(NamedTuple):
    """A ratio of two means over samples: the sum of `over` (N,) by the sum of `under` (N,)."""

    over: Floats
    under: Floats

    @classmethod
    def mean(cls, values: NDArray[Any]) -> Ratio:
        """The mean of values (N,)."""
        return cls(np.asarray(values, dtype=np.float64), np.ones(len(values)))

    @property
    def value(self) -> float:
        """NaN where there is nothing to divide by."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.over.sum() / self.under.sum())


@dataclass(frozen=True)
class Change:
    """By how much a second figure is more than a first."""

    difference: float
    interval_95: Interval | None
    """None where a single image says nothing of the spread."""
    p: float | None
    """Two-sided p-value that there is no difference."""
    paired: bool = True
    """Whether it was found on the samples that both have; else it is wider than it would have to be."""


def macro(values: Floats, classes: NDArray[Any]) -> float:
    """Mean over classes of the mean over a class's samples."""
    _, inverse = np.unique(classes, return_inverse=True)
    return float((np.bincount(inverse, values) / np.bincount(inverse)).mean())


# Means and ratios of means --------------------------------------------------------------------------------------------


def interval(samples: Ratio, images: NDArray[Any], *, flags: bool = False) -> Interval | None:
    """95 % interval of a ratio whose samples (N,) are of `images` (N,); None where there is but one image.

    `flags` says that the values are true or false (1 or 0).
    """
    (own,) = _by_image(images, samples)
    if not flags:
        return _interval(own.value, _residuals(own))
    pulled = _with_images(own, over=(1, 1, 0, 0))
    return _clipped(_interval(pulled.value, _residuals(pulled)), 0, 1)


def change(
    first: Ratio, second: Ratio, images: NDArray[Any], *, flags: bool = False, exchanges: int = EXCHANGES
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
        edges = _clipped(_interval(b.value - a.value, _residuals(b) - _residuals(a)), -1, 1)
    else:
        edges = _interval(difference, _residuals(other) - _residuals(one))
    return Change(difference, edges, _exchange_p(one, other, exchanges))


def unpaired(first: float, first_interval: Interval, second: float, second_interval: Interval) -> Change:
    """The difference of two figures from their intervals alone, as if they were independent (MOVER, Zou & Donner 2008).

    Where both are of the same images, which are hard or easy for both, the interval is too wide, never too short.
    """
    difference = second - first
    low = difference - sqrt((second - second_interval[0]) ** 2 + (first_interval[1] - first) ** 2)
    high = difference + sqrt((second_interval[1] - second) ** 2 + (first - first_interval[0]) ** 2)
    return Change(difference, (low, high), p_value(difference, (low, high)), paired=False)


def over_seeds(values: Sequence[float]) -> Change:
    """The mean of differences, one for each seed, with Student's interval; one seed has none."""
    found = Ratio.mean(np.array(values, dtype=np.float64))
    edges = _interval(found.value, _residuals(found))
    return Change(found.value, edges, None)


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


def _by_image(images: NDArray[Any], *samples: Ratio) -> list[Ratio]:
    """The sums of each image's samples."""
    _, inverse = np.unique(images, return_inverse=True)
    sums = [[np.bincount(inverse, part).astype(np.float64) for part in each] for each in samples]
    return [Ratio(over, under) for over, under in sums]


def _with_images(own: Ratio, *, over: Sequence[float]) -> Ratio:
    """Imagined images of average size beside the true ones, whose samples all have the value that `over` says."""
    size = own.under.mean()
    added = size * np.asarray(over, dtype=np.float64)
    return Ratio(np.append(own.over, added), np.append(own.under, np.full(len(added), size)))


def _residuals(own: Ratio) -> Floats:
    """What each image adds to the error of the ratio."""
    return np.asarray((own.over - own.value * own.under) / own.under.sum())


def _interval(value: float, residuals: Floats) -> Interval | None:
    count = len(residuals)
    if count < 2:
        return None
    reach = float(stdtrit(count - 1, 0.975)) * sqrt(count / (count - 1) * float((residuals**2).sum()))
    return value - reach, value + reach


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


def bootstrap_precision(
    targets: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % interval of the difference in mean average precision, second minus first, over resampled images.

    Targets (N, C) hold 1, 0, -1 = ignore; both scores (N, C) are of the same images. An image drawn k times counts
    k times at its place in the ranking, and equal scores are taken together. Percentiles, expanded for few images
    (Hesterberg, The American Statistician 2015).
    """
    ranked = [_ranking(targets, scores) for scores in (first, second)]
    differences = [
        _weighted_precision(ranked[1], times) - _weighted_precision(ranked[0], times)
        for times in _resampled(len(targets), resamples, seed)
    ]
    return _percentiles(differences, len(targets))


def _resampled(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` pictures is drawn, (count,), in each resample."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)


def _percentiles(values: Sequence[float], images: int) -> Interval:
    outside = ndtr(-sqrt(images / (images - 1)) * stdtrit(images - 1, 0.975))
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


class _Ranking(NamedTuple):
    """Pictures by descending score of each class, all (C, N)."""

    order: NDArray[np.int64]
    positive: Bools
    known: Bools
    last: NDArray[np.int64]
    """Place of the last picture with the same score."""


def _ranking(targets: NDArray[Any], scores: NDArray[Any]) -> _Ranking:
    order = np.argsort(-scores.T, axis=1, kind="stable")
    labels, values = (np.take_along_axis(each.T, order, axis=1) for each in (targets, scores))
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    ends = np.ones(values.shape, dtype=np.bool_)
    np.not_equal(values[:, 1:], values[:, :-1], out=ends[:, :-1])
    last = np.minimum.accumulate(np.where(ends, places, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return _Ranking(order, labels > 0, labels >= 0, last)


def _weighted_precision(ranking: _Ranking, times: Floats) -> float:
    """Mean average precision of a ranking whose pictures count `times` (N,) times."""
    weights = times[ranking.order]  # (C, N)
    own = weights * ranking.positive
    hits = own.cumsum(1)
    precision = np.take_along_axis(hits / np.maximum((weights * ranking.known).cumsum(1), 1), ranking.last, axis=1)
    rated = hits[:, -1] > 0
    return float(((own * precision).sum(1)[rated] / hits[rated, -1]).mean())
