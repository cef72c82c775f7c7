"""Statistics of per-sample figures: means over classes, bootstrap intervals, paired tests of two runs. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

RESAMPLES = 1000


def macro(values: Floats, classes: NDArray[Any]) -> float:
    """Mean over classes of the mean over a class's samples."""
    _, inverse = np.unique(classes, return_inverse=True)
    return float((np.bincount(inverse, values) / np.bincount(inverse)).mean())


def bootstrap(
    values: Floats, pictures: NDArray[Any], *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean, resampling pictures: samples (N,) of one picture stay together.

    Give the difference of two runs on the same samples for a paired interval.
    """
    _, inverse = np.unique(pictures, return_inverse=True)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    means = [float((times @ sums) / (times @ counts)) for times in _resampled(len(sums), resamples, seed)]
    return _percentiles(means, level)


def bootstrap_precision(
    targets: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the difference in mean average precision, second minus first, over resampled pictures.

    Targets (N, C) hold 1, 0, -1 = ignore; both scores (N, C) are of the same pictures. A picture drawn k times counts
    k times at its place in the ranking, and equal scores are taken together.
    """
    ranked = [_ranking(targets, scores) for scores in (first, second)]
    differences = [
        _weighted_precision(ranked[1], times) - _weighted_precision(ranked[0], times)
        for times in _resampled(len(targets), resamples, seed)
    ]
    return _percentiles(differences, level)


def mcnemar(first: Sequence[bool] | Bools, second: Sequence[bool] | Bools) -> float:
    """Exact two-sided p-value that a flag differs between two runs on the same samples (McNemar 1947)."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    count = only_first + only_second
    term = tail = 1
    for k in range(min(only_first, only_second)):
        term = term * (count - k) // (k + 1)  # count over k + 1
        tail += term
    return min(1.0, 2 * tail / 2**count)


def _resampled(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` pictures is drawn, (count,), in each resample."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)


def _percentiles(values: Sequence[float], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
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
