"""The pictures beside the measures: all of them, drawn as the program is now, and they show what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from attnbias.methods.engine.attention_measures import ATTENTION, BACKGROUNDS, FAITHFULNESS
from attnbias.methods.engine.bias.attention_bias import measure_maps
from tests.helpers.measure_pictures import FOLDER, MAPS, OBJECT, SEEN, STORED, Example, pictures

ON_THE_OBJECT = ("precision", "recall", "iou", "energy", "area_matched", "soft_iou", "iou_best")
"""What counts for a map, of all that counts."""
OFF_THE_OBJECT = ("spill", "miss")
"""What counts against it, of the same."""


def test_every_measure_has_its_picture_drawn_as_it_is_now() -> None:
    drawn = pictures()
    assert {each.name for table in (ATTENTION, FAITHFULNESS, BACKGROUNDS) for each in table} <= drawn.keys()
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(drawn)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000
    for name, pixels in drawn.items():
        kept = np.asarray(Image.open(FOLDER / f"{name}.png")).astype(int)
        assert kept.shape == pixels.shape
        assert np.abs(kept - pixels).mean() < 0.5, f"{name}: python -m tests.helpers.measure_pictures draws it again"


@pytest.mark.parametrize("energy", MAPS[:2], ids=["on the object", "beside it"])
def test_what_is_green_and_red_is_what_the_measure_counts(energy: np.ndarray) -> None:
    found = measure_maps(energy[None], OBJECT[None], tolerance=15 * OBJECT.shape[0] / STORED)

    def weight(name: str) -> tuple[float, float]:
        counted, against = SEEN[name](Example(energy))
        return float(np.sum(counted)), float(np.sum(against))

    for name in (*ON_THE_OBJECT, *OFF_THE_OBJECT):
        counted, against = weight(name)
        share = (counted if name in ON_THE_OBJECT else against) / (counted + against)
        assert share == pytest.approx(found[name][0], abs=1e-6), name
    for name in ("area_share", "focus_area"):
        assert weight(name)[0] / OBJECT.size == pytest.approx(found[name][0]), name
    for name in ("position_biased", "range_biased", "range_biased_given_not_position"):
        of = name.removesuffix("_given_not_position")
        assert bool(weight(name)[1]) == bool(found[of][0]), name
    for name in ("pointing", "pointing_scaled", "pointing_no_tolerance"):
        assert bool(weight(name)[1]) == (found[name][0] == 0), name
