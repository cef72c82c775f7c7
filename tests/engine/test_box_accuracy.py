"""MaxBoxAccV2 (Choe et al.): boxes around what a map shows against boxes of objects, by scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label, regionprops

from attnbias.methods.engine.bias.attention_bias import TAUS
from attnbias.methods.engine.bias.box_accuracy import LARGEST, OVERLAPS, BoxHits
from attnbias.methods.engine.bias.objects import corners_of


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (area - width * height)


def test_every_part_of_every_map_is_held_against_every_box() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((12, 24, 30)) ** 3
    boxes = [rng.integers(0, 10, (count, 4)) for count in rng.integers(1, 4, 12)]
    boxes = [np.concatenate([each[:, :2], each[:, :2] + 4 + each[:, 2:]], axis=1) for each in boxes]
    hits = BoxHits()
    hits.add(maps, boxes, 24, 30)
    expected = np.zeros((len(OVERLAPS), len(TAUS)))
    for plane, own in zip(maps, boxes, strict=True):
        level = (plane - plane.min()) / (plane.max() - plane.min())
        for number, tau in enumerate(TAUS):
            parts = regionprops(label(level >= tau - 1e-6, connectivity=2))
            found = [(part.bbox[1], part.bbox[0], part.bbox[3], part.bbox[2]) for part in parts]
            best = max((overlap(box, tuple(true)) for box in found for true in own.tolist()), default=0)
            expected[:, number] += best >= np.array(OVERLAPS)
    assert np.array_equal(hits.hits, expected)
    assert hits.value() == pytest.approx((expected / 12).max(1).mean())


def test_the_best_threshold_is_one_for_all_maps() -> None:
    """One map is right at a low threshold and one at a high one: no threshold is right for both."""
    maps = np.zeros((2, 20, 20))
    maps[:, 2:18, 2:18] = 0.4
    maps[:, 8:12, 8:12] = 1
    boxes = [np.array([[2, 2, 18, 18]]), np.array([[8, 8, 12, 12]])]
    hits = BoxHits()
    hits.add(maps, boxes, 20, 20)
    assert hits.value() == 0.5
    assert hits.hits.max(1).tolist() == [1, 1, 1]


def test_a_right_map_scores_one_on_large_planes_too_and_a_constant_one_nothing() -> None:
    side = 3 * LARGEST
    mask = np.zeros((1, side, side))
    mask[:, 30:150, 60:180] = 1
    box = [np.array([[60, 30, 180, 150]])]
    for maps, expected in ((mask, 1), (np.ones((1, side, side)), 0)):
        hits = BoxHits()
        hits.add(maps, box, side, side)
        assert hits.value() == expected
    assert np.isnan(BoxHits().value())


def test_counts_of_processes_add_up() -> None:
    rng = np.random.default_rng(1)
    maps, boxes = rng.random((6, 8, 8)), [np.array([[0, 0, 4, 4]])] * 6
    whole, first, second = BoxHits(), BoxHits(), BoxHits()
    whole.add(maps, boxes, 16, 16)
    first.add(maps[:2], boxes[:2], 16, 16)
    second.add(maps[2:], boxes[2:], 16, 16)
    first.merge(second.hits, second.samples)
    assert (np.array_equal(first.hits, whole.hits), first.samples) == (True, 6)


def test_boxes_of_objects_are_half_open_and_of_what_is_in_sight() -> None:
    planes = np.zeros((3, 10, 12), dtype=bool)
    planes[0, 2:5, 3:9] = True
    planes[2, 9, 11] = True
    assert corners_of(planes).tolist() == [[3, 2, 9, 5], [11, 9, 12, 10]]
    assert corners_of(planes[1:2]).shape == (0, 4)
