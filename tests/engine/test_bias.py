"""Attention-bias measures: the values that a known map must give, and what must never change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnbias.methods.engine.bias.attention_bias import (
    PixelHistogram,
    aggregate,
    box_mask,
    centre_map,
    measure_maps,
    skip_reason,
    squared_distances,
    step_average_precision,
    uniform_map,
)
from attnbias.methods.engine.bias.context import biased_pairs, pair_precision
from attnbias.methods.engine.bias.faithfulness import area_under, faithfulness_curves
from attnbias.methods.engine.errors import RunError

HEIGHT, WIDTH = 12, 16
quick = settings(max_examples=40, deadline=None)


@st.composite
def samples(draw: Any) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Three maps at the plane's resolution, an object each, and pixels to ignore."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), (3, HEIGHT, WIDTH)).astype(float)
    maps[:, 0, 0] += 1  # not all zero
    boxes = [
        [x, y, x + draw(st.integers(1, 8)), y + draw(st.integers(1, 6))]
        for x, y in draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=3, max_size=3))
    ]
    masks = np.stack([box_mask(np.array([box]), HEIGHT, WIDTH) for box in boxes])
    ignore = rng.random(masks.shape) < draw(st.sampled_from([0.0, 0.3]))
    return maps, masks, ignore


# Known maps -----------------------------------------------------------------------------------------------------------


@quick
@given(samples())
def test_a_perfect_map_is_unbiased(sample: Any) -> None:
    _, masks, ignore = sample
    columns = measure_maps(masks.astype(float), masks, ignore, tolerance=0)
    for name in ("precision", "recall", "iou", "energy", "pointing", "area_matched", "soft_iou", "iou_best"):
        np.testing.assert_allclose(columns[name], 1, err_msg=name)
    for name in ("position_biased", "range_biased", "spill", "miss", "centroid_shift", "spill_sweep", "degenerate"):
        np.testing.assert_allclose(columns[name], 0, atol=1e-12, err_msg=name)
    assert aggregate(columns)["unbiased"] == 1


@quick
@given(samples())
def test_an_inverted_map_is_position_biased(sample: Any) -> None:
    _, masks, _ = sample
    columns = measure_maps((~masks).astype(float), masks, tolerance=0)
    for name in ("position_biased", "position_biased_sweep", "spill", "miss"):
        np.testing.assert_array_equal(columns[name], 1, err_msg=name)
    for name in ("energy", "pointing", "range_biased", "area_matched"):
        np.testing.assert_array_equal(columns[name], 0, err_msg=name)


@quick
@given(samples())
def test_a_uniform_map_is_chance_and_degenerate(sample: Any) -> None:
    _, masks, ignore = sample
    columns = measure_maps(np.broadcast_to(uniform_map(), (3, 1, 1)), masks, ignore, tolerance=0)
    np.testing.assert_array_equal(columns["degenerate"], 1)
    np.testing.assert_array_equal(columns["focus_area"], 0)
    np.testing.assert_allclose(aggregate(columns)["energy_lift"], 1)
    for name in ("energy", "pointing", "area_matched"):
        np.testing.assert_allclose(columns[name], columns["area_share"], err_msg=name)
    assert aggregate(columns)["position_biased"] == 1  # it stays in the mean


def test_the_centre_baseline_points_at_the_middle() -> None:
    middle = box_mask(np.array([[6, 4, 10, 8]]), HEIGHT, WIDTH)[None]
    columns = measure_maps(centre_map(HEIGHT, WIDTH), middle, tolerance=0)
    assert columns["pointing"] == 1
    assert columns["centroid_shift"] < 1e-9


# Invariances ----------------------------------------------------------------------------------------------------------


@quick
@given(samples(), st.sampled_from([2.0**-9, 0.5, 64.0]))
def test_scale_changes_nothing(sample: Any, factor: float) -> None:
    maps, masks, ignore = sample
    first, second = (measure_maps(m, masks, ignore, tolerance=2) for m in (maps, factor * maps))
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=1e-9, err_msg=name)


@quick
@given(samples())
def test_increasing_rescaling_keeps_order_measures(sample: Any) -> None:
    maps, masks, ignore = sample
    maps = maps / maps.max()
    first, second = (measure_maps(m, masks, ignore, tolerance=2) for m in (maps, maps**2))
    for name in ("pointing", "pointing_no_tolerance"):
        np.testing.assert_allclose(second[name], first[name], err_msg=name)
    # Exact where no two different values come within the tie's width.
    coarse = np.round(maps * 4) / 4
    before, after = (measure_maps(m, masks, ignore)["area_matched"] for m in (coarse, coarse**3))
    np.testing.assert_allclose(after, before)


@quick
@given(samples())
def test_mirroring_image_and_map_changes_nothing(sample: Any) -> None:
    maps, masks, ignore = sample
    first = measure_maps(maps, masks, ignore, tolerance=2)
    second = measure_maps(maps[..., ::-1].copy(), masks[..., ::-1], ignore[..., ::-1], tolerance=2)
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, atol=1e-9, err_msg=name)


@quick
@given(samples())
def test_ignored_pixels_do_not_count(sample: Any) -> None:
    maps, masks, ignore = sample
    changed = np.where(ignore & ~masks, maps.min((1, 2), keepdims=True), maps)
    changed[:, -1, -1] = maps[:, -1, -1] = maps.max((1, 2))  # the same stretch for both
    changed[:, -1, 0] = maps[:, -1, 0] = 0
    first, second = (measure_maps(m, masks, ignore, tolerance=0) for m in (maps, changed))
    for name in ("precision", "recall", "iou", "energy", "pointing", "area_matched", "soft_iou", "centroid_shift"):
        np.testing.assert_allclose(second[name], first[name], err_msg=name)


@quick
@given(samples())
def test_the_three_kinds_sum_to_one_and_samples_are_independent(sample: Any) -> None:
    maps, masks, ignore = sample
    columns = measure_maps(maps, masks, ignore)
    means = aggregate(columns)
    assert means["position_biased"] + means["range_biased"] + means["unbiased"] == pytest.approx(1)
    alone = measure_maps(maps[1:2], masks[1:2], ignore[1:2])
    for name, values in columns.items():
        np.testing.assert_allclose(values[1], alone[name][0], err_msg=name)


@pytest.mark.parametrize("shape", [(100, 50), (50, 100)])
def test_the_scaled_pointing_game_forgives_three_per_cent_of_the_longer_side(shape: tuple[int, int]) -> None:
    masks, maps = np.zeros((3, *shape), dtype=bool), np.zeros((3, *shape))
    masks[:, 20:30, 20:30] = True
    maps[range(3), 25, [29, 32, 33]] = 1  # on the object, 3 pixels beside it, 4
    columns = measure_maps(maps, masks, tolerance=0)
    assert columns["pointing_scaled"].tolist() == [1, 1, 0]
    assert columns["pointing_no_tolerance"].tolist() == columns["pointing"].tolist() == [1, 0, 0]


@quick
@given(samples())
def test_distances_are_those_of_the_nearest_pixel_of_the_object(sample: Any) -> None:
    _, masks, _ = sample
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for mask, squared in zip(masks, squared_distances(masks), strict=True):
        every = (rows[..., None] - rows[mask]) ** 2 + (columns[..., None] - columns[mask]) ** 2
        np.testing.assert_array_equal(squared, every.min(-1))


def test_a_pixel_a_radius_away_is_within_it_and_nothing_is_near_an_empty_mask() -> None:
    """Radii as the pointing game has them: 15 pixels, and three per cent of a side."""
    masks = np.zeros((2, 40, 60), dtype=bool)
    masks[0, 20, 30] = True
    rows, columns = np.mgrid[:40, :60]
    for radius in (0.0, 15.0, *(0.03 * side for side in range(1, 700))):
        along = radius**2 - (columns - 30) ** 2  # a column's pixels, counted from the middle row
        disc = (along >= 0) & (abs(rows - 20) <= np.floor(np.sqrt(np.maximum(along, 0))))
        near = squared_distances(masks) <= radius**2
        np.testing.assert_array_equal(near[0], disc)
        assert not near[1].any()


def test_a_map_with_nan_is_an_error() -> None:
    masks = box_mask(np.array([[0, 0, 4, 4]]), HEIGHT, WIDTH)[None]
    with pytest.raises(RunError, match="NaN"):
        measure_maps(np.full((1, 3, 3), np.nan), masks)


def test_samples_that_say_nothing_are_skipped_with_a_reason() -> None:
    everything = np.ones((HEIGHT, WIDTH), bool)
    some = box_mask(np.array([[0, 0, 4, 4]]), HEIGHT, WIDTH)
    assert skip_reason(box_mask(np.array([[20, 0, 24, 4]]), HEIGHT, WIDTH), everything) == "empty"
    assert skip_reason(some, everything, visible=0.2) == "empty"
    assert skip_reason(everything, everything) == "full"
    assert skip_reason(some, everything) is None


# Pixels pooled, statistics --------------------------------------------------------------------------------------------


@quick
@given(samples())
def test_pixel_precision_in_bins_is_near_the_exact_one_and_adds_up(sample: Any) -> None:
    maps, masks, ignore = sample
    exact, whole, first, second = PixelHistogram(None), PixelHistogram(), PixelHistogram(), PixelHistogram()
    for histogram in (exact, whole):
        histogram.add(maps, masks, ignore)
    first.add(maps[:2], masks[:2], ignore[:2])
    second.add(maps[2:], masks[2:], ignore[2:])
    first.positives += second.positives
    first.totals += second.totals
    assert first.value() == whole.value() == pytest.approx(exact.value(), abs=0.02)


def test_average_precision_takes_equal_scores_together() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 200) / 9, rng.random(200) < 0.3
    expected = sklearn_metrics.average_precision_score(positive, scores)
    assert step_average_precision(scores, positive) == pytest.approx(expected)


# Context and faithfulness ---------------------------------------------------------------------------------------------


def test_a_class_scored_by_its_context_is_found() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 4)) < 0.4).astype(float)
    scores = 0.5 * labels + 0.05 * rng.random(labels.shape)
    scores[:, 2] = 0.1 + 0.6 * labels[:, 0] + 0.1 * labels[:, 2]  # class 2 follows class 0
    (pair,) = biased_pairs(labels, scores, count=1)
    assert (pair.target, pair.context) == (2, 0)
    with_context, without = pair_precision(labels, scores, pair)
    assert with_context > without + 0.2


def test_pairs_need_the_class_with_and_without_its_context() -> None:
    labels = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], float)
    assert [pair.target for pair in biased_pairs(labels, labels * 0.5)] == [1]  # class 0 never occurs alone


def test_the_map_of_a_linear_score_deletes_fastest() -> None:
    torch.manual_seed(0)
    weight, image = torch.rand(1, 3, 8, 8), torch.rand(3, 12, 12)
    weight = torch.nn.functional.pad(weight, (2,) * 4)[0]
    contribution = (weight * image).sum(0)

    def score(images: torch.Tensor) -> torch.Tensor:
        return (images * weight).sum((1, 2, 3)) / contribution.sum()

    best, worst, chance = (
        faithfulness_curves(image, saliency, score) for saliency in (contribution, -contribution, torch.rand(12, 12))
    )
    assert area_under(best.deletion) < area_under(chance.deletion) < area_under(worst.deletion)
    assert float(best.deletion[0]) == pytest.approx(1)
    assert float(best.deletion[-1]) == 0
    assert float(best.insertion[-1]) == pytest.approx(1)
    assert len(best.deletion) == 13
