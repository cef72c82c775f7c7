"""What the best map of a grid reaches: the table in methods/engine/bias/README.md, computed again.

Objects are discs of 5 % of an image of 224 pixels, at nine places; the map of a grid is the share of each cell that is
object, which no map of that grid can better in position.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from attnbias.methods.engine.attention_measures import ATTENTION
from attnbias.methods.engine.bias.attention_bias import PixelHistogram, aggregate, measure_maps, oracle_maps
from attnbias.methods.engine.bias.box_accuracy import BoxHits

REPO = Path(__file__).parents[2]
SIDE, SHARE, GRIDS = 224, 0.05, (4, 7, 14, 28)
ROW = re.compile(r"\| `(\w+)` \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \| (.+) \|")


def discs() -> np.ndarray:
    """Masks (9, 224, 224), at places that no grid's cells are centred on."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    centres = np.linspace(41.3, SIDE - 43.1, 3)
    radius = SIDE * (SHARE / np.pi) ** 0.5
    return np.array([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y in centres for x in centres])


def ceilings(grid: int) -> dict[str, float]:
    """Each measure of the oracle's maps on a grid."""
    masks = discs()
    maps, pixels, boxes = oracle_maps(masks, grid, grid), PixelHistogram(), BoxHits()
    ignore = np.zeros_like(masks)
    pixels.add(maps, masks, ignore)
    corners = [np.array([[np.flatnonzero(m.any(0))[0], np.flatnonzero(m.any(1))[0]]]) for m in masks]
    sizes = [np.array([[np.flatnonzero(m.any(0))[-1], np.flatnonzero(m.any(1))[-1]]]) + 1 for m in masks]
    boxes.add(maps, [np.hstack(pair) for pair in zip(corners, sizes, strict=True)], SIDE, SIDE)
    means = aggregate(measure_maps(maps, masks, ignore, tolerance=np.full(len(masks), 15.0)))
    return {**means, "pxap": pixels.value(), "maxboxacc_v2": boxes.value()}


def test_the_table_says_of_each_measure_what_a_grid_allows_and_when_not_to_use_it() -> None:
    page = (REPO / "methods" / "engine" / "bias" / "README.md").read_text()
    said = {row[0]: row[1:] for row in ROW.findall(page)}
    assert [*said] == [measure.name for measure in ATTENTION if measure.better]
    for place, grid in enumerate(GRIDS):
        found = ceilings(grid)
        for name, row in said.items():
            assert float(row[place]) == pytest.approx(found[name], abs=0.006), (grid, name)
