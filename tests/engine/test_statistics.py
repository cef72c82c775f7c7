"""Intervals cover and tests keep their level where samples of one image depend on each other: shown by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from attnbias.methods.engine.metrics import average_precision
from attnbias.methods.engine.statistics import (
    Change,
    Estimate,
    Ratio,
    change,
    holm,
    interval,
    macro,
    mean_precision,
    p_value,
    unpaired,
)

Drawn = tuple[np.ndarray, np.ndarray]
"""Values of samples, and the images that they are of."""


def images_of(count: int, rng: np.random.Generator) -> np.ndarray:
    """One to three samples an image."""
    return np.repeat(np.arange(count), rng.integers(1, 4, count))


def alike(images: np.ndarray, rng: np.random.Generator, together: float = 0.6) -> np.ndarray:
    """Uniform numbers; a share `together` of an image's samples has the image's own number."""
    own, common = rng.random(len(images)), rng.random(images.max() + 1)[images]
    return np.where(rng.random(len(images)) < together, common, own)


def flags(share: float, count: int) -> Callable[[np.random.Generator], Drawn]:
    def draw(rng: np.random.Generator) -> Drawn:
        images = images_of(count, rng)
        return (alike(images, rng) < share).astype(float), images

    return draw


def skewed(rng: np.random.Generator) -> Drawn:
    """As a map's energy on small objects: most near 0, a mean of a seventh."""
    images = images_of(60, rng)
    return 0.7 * rng.beta(0.5, 3, 60)[images] + 0.3 * rng.beta(0.5, 3, len(images)), images


@pytest.mark.parametrize(
    ("draw", "truth", "flag"),
    [
        (flags(0.02, 50), 0.02, True),  # percentiles of a bootstrap cover 63 %
        (flags(0.1, 30), 0.1, True),
        (flags(0.4, 200), 0.4, True),
        (skewed, 1 / 7, False),
    ],
    ids=["rare flags", "few images", "many images", "skewed"],
)
def test_intervals_of_means_cover(draw: Callable[[np.random.Generator], Drawn], truth: float, flag: bool) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        values, images = draw(rng)
        low, high = interval(Ratio.mean(values), images, flags=flag) or (1, 0)
        covered += low <= truth <= high
    assert covered >= 930


@pytest.mark.parametrize(("more", "less"), [(0.05, 0.02), (0.2, 0.1), (0.04, 0.04)])
def test_intervals_of_differences_of_flags_cover(more: float, less: float) -> None:
    """A sample is true under the second run alone, under the first alone, or under both alike."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        images = images_of(50, rng)
        place = alike(images, rng)
        second, first = place < more, place > 1 - less
        low, high = change(Ratio.mean(first), Ratio.mean(second), images, flags=True, exchanges=1).interval_95 or (1, 0)
        covered += low <= more - less <= high
    assert covered >= 930


def test_intervals_of_differences_of_ratios_cover() -> None:
    """Each run's share of what it gives the whole image; large figures weigh more, in both alike."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        images = images_of(60, rng)
        size = rng.gamma(2, size=60)[images]
        wholes = [size + rng.gamma(1, size=len(images)) for _ in range(2)]
        parts = [share * whole * 2 * rng.random(len(images)) for share, whole in zip((0.2, 0.35), wholes, strict=True)]
        first, second = (Ratio(part, whole) for part, whole in zip(parts, wholes, strict=True))
        low, high = change(first, second, images, exchanges=1).interval_95 or (1, 0)
        covered += low <= 0.15 <= high
    assert covered >= 930


@pytest.mark.parametrize("kind", ["flags", "shares"])
def test_false_alarms_keep_their_level_where_samples_of_an_image_agree(kind: str) -> None:
    rng = np.random.default_rng(0)
    alarms, mcnemar_alarms = 0, 0
    for _ in range(1000):
        images = np.repeat(np.arange(40), rng.integers(2, 6, 40))
        first, second = (alike(images, rng, 0.8) for _ in range(2))
        if kind == "flags":
            first, second = first < 0.3, second < 0.3
            mine, other = int((first & ~second).sum()), int((~first & second).sum())
            mcnemar_alarms += stats.binomtest(mine, mine + other).pvalue <= 0.05
        found = change(Ratio.mean(first), Ratio.mean(second), images, flags=kind == "flags", exchanges=199)
        assert found.p is not None
        alarms += found.p <= 0.05
    assert 30 <= alarms <= 60
    assert kind == "shares" or mcnemar_alarms > 200  # what the samples, taken one by one, would say


def test_exchanging_single_flags_is_mcnemars_exact_test() -> None:
    first = np.array([True] * 9 + [False] * 1 + [True] * 50)
    second = np.array([False] * 9 + [True] * 1 + [True] * 50)
    images = np.arange(60)
    p = change(Ratio.mean(first), Ratio.mean(second), images, flags=True).p
    assert p == pytest.approx(stats.binomtest(1, 10).pvalue)
    assert change(Ratio.mean(first), Ratio.mean(first), images, flags=True).p == 1


def test_exchanging_images_is_scipys_paired_permutation_test() -> None:
    rng = np.random.default_rng(0)
    for count, tolerance in ((9, 1e-9), (40, 0.02)):  # all exchanges, and some
        first = rng.normal(size=count)
        second = first + rng.normal(0.25, 0.7, count)
        expected = stats.permutation_test(
            (first, second), lambda a, b: (b - a).mean(), permutation_type="samples", n_resamples=4999, random_state=1
        )
        found = change(Ratio.mean(first), Ratio.mean(second), np.arange(count))
        assert found.p == pytest.approx(expected.pvalue, abs=tolerance)


def test_copies_of_an_image_s_samples_are_no_more_evidence() -> None:
    values = np.random.default_rng(0).normal(size=200)
    once = interval(Ratio.mean(values), np.arange(200))
    assert interval(Ratio.mean(np.repeat(values, 5)), np.repeat(np.arange(200), 5)) == pytest.approx(once)
    assert once == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    assert interval(Ratio.mean(np.zeros(5)), np.arange(5)) == (0, 0)


def test_one_image_has_no_interval() -> None:
    first, second = Ratio.mean(np.array([0.1, 0.3])), Ratio.mean(np.array([0.2, 0.8]))
    assert interval(first, np.zeros(2)) is None
    found = change(first, second, np.zeros(2))
    assert (found.difference, found.interval_95, found.p) == (pytest.approx(0.3), None, 1)


def test_intervals_of_independent_figures_make_that_of_their_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=400), rng.normal(0.3, 2, 300)
    edges = [interval(Ratio.mean(values), np.arange(len(values))) for values in (a, b)]
    assert None not in edges
    found = unpaired(a.mean(), edges[0], b.mean(), edges[1])
    welch = stats.ttest_ind(b, a, equal_var=False)
    assert found.interval_95 == pytest.approx(welch.confidence_interval(0.95), rel=0.01)
    assert found.p == pytest.approx(welch.pvalue, rel=0.05)
    assert not found.paired


def test_intervals_that_are_not_symmetric_make_that_of_newcombe_s_published_example() -> None:
    """Method 10 of Newcombe 1998: 56 of 70 against 48 of 80, from Wilson's intervals."""
    edges = [stats.binomtest(hits, number).proportion_ci(method="wilson") for hits, number in ((48, 80), (56, 70))]
    found = unpaired(48 / 80, (edges[0].low, edges[0].high), 56 / 70, (edges[1].low, edges[1].high))
    assert found.interval_95 == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_p_values_of_many_tests_are_those_of_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # as R's p.adjust
    assert holm([]) == []
    assert p_value(1.96, (0, 3.92)) == pytest.approx(0.05, abs=1e-3)
    assert p_value(0, (0, 0)) == 1


# Average precision ----------------------------------------------------------------------------------------------------


def test_intervals_of_average_precision_and_its_differences_cover() -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[Estimate, Estimate]:
        targets = (rng.random((60, 2)) < 0.3).astype(int)
        common = rng.normal(size=targets.shape)
        found = [
            mean_precision(targets, gain * targets + common + 0.5 * rng.normal(size=targets.shape)) for gain in (1, 1.4)
        ]
        assert found[0]
        assert found[1]
        return found[1], found[1] - found[0]

    drawn = [draw() for _ in range(1000)]
    for figures in zip(*drawn, strict=True):
        truth = np.mean([figure.value for figure in figures])
        edges = np.array([figure.interval_95 for figure in figures])
        assert ((edges[:, 0] <= truth) & (truth <= edges[:, 1])).sum() >= 930


def test_differences_of_average_precision_raise_few_false_alarms() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(600):
        targets = (rng.random((60, 2)) < 0.3).astype(int)
        common = targets + rng.normal(size=targets.shape)
        found = [mean_precision(targets, common + 0.7 * rng.normal(size=targets.shape)) for _ in range(2)]
        assert found[0]
        assert found[1]
        p = Change.of(found[1] - found[0]).p
        alarms += p is not None and p <= 0.05
    assert 0 < alarms <= 36


def test_the_influence_of_an_image_is_what_its_weight_does_to_sklearns_average_precision() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((60, 2)) < 0.4).astype(np.int64)
    scores = np.round(rng.random(targets.shape), 1)  # many ties
    found = mean_precision(targets, scores)
    assert found
    for image in range(0, 60, 7):
        means = []
        for weight in (1 - 1e-4, 1 + 1e-4):
            weights = np.ones(60)
            weights[image] = weight
            means.append(
                np.mean(
                    [
                        average_precision_score(t, s, sample_weight=weights)
                        for t, s in zip(targets.T, scores.T, strict=True)
                    ]
                )
            )
        assert found.influence[image] == pytest.approx((means[1] - means[0]) / 2e-4, abs=1e-6)
        assert found.value == pytest.approx(np.mean(means), abs=1e-6)


def test_precision_leaves_out_unknown_labels_and_classes_without_a_positive() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 4)) < 0.3).astype(int)
    targets[::7, 0], targets[:, 3] = -1, 0
    scores = rng.random(targets.shape)
    found = mean_precision(targets, scores)
    assert found
    assert found.value == pytest.approx(np.nanmean(average_precision(targets, scores)))
    better = mean_precision(targets, scores + 0.5 * (targets > 0))
    assert better
    low, high = (better - found).interval_95 or (1, 0)
    assert 0 < low < (better - found).value < high
    assert (found - found).interval_95 == (0, 0)
    assert mean_precision(targets[:, 3:], scores[:, 3:]) is None


def test_macro_weighs_classes_alike() -> None:
    assert macro(np.array([1.0, 1, 1, 0]), np.array([4, 4, 4, 7])) == 0.5


@pytest.mark.parametrize(
    ("edges", "p_together", "sure"),
    [((0.1, 0.3), 0.01, True), ((-0.1, 0.3), 0.01, False), ((0.1, 0.3), 0.06, False), (None, 0.01, False)],
)
def test_a_difference_is_marked_only_where_its_interval_leaves_zero_out_too(
    edges: tuple[float, float] | None, p_together: float, sure: bool
) -> None:
    assert Change(0.2, edges, 0.01, p_together=p_together).sure is sure
