"""MaxBoxAccV2: whether the boxes around what a map shows are the boxes of objects (Choe et al., Evaluating Weakly
Supervised Object Localization Methods Right, CVPR 2020; IEEE TPAMI 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from attnbias.methods.engine.attention_measures import TIE, Floats
from attnbias.methods.engine.bias.attention_bias import TAUS, on_plane, stretched

OVERLAPS = (0.3, 0.5, 0.7)
"""Intersections over union at which a box is right."""

LARGEST = 128
"""Pixels of the longer side of the plane that boxes are found on: maps of a coarse grid hold no more."""

NEIGHBOURS = np.ones((3, 3), dtype=np.int64)
"""Pixels that touch at a corner belong together."""


class BoxHits:
    """Counts of any number of maps; those of several processes add up."""

    def __init__(self) -> None:
        self.hits = np.zeros((len(OVERLAPS), len(TAUS)), np.int64)
        """Samples with a right box, by overlap and threshold."""
        self.samples = 0

    def add(self, maps: np.ndarray, boxes: Sequence[NDArray[np.int64]], height: int, width: int) -> None:
        """Count maps (N, h, w) against each sample's boxes (K, 4) as x1, y1, x2, y2, half-open, on a plane of height x
        width pixels."""
        scale = min(1.0, LARGEST / max(height, width))
        size = round(height * scale), round(width * scale)
        for level, own in zip(stretched(on_plane(maps, *size)), boxes, strict=True):
            overlaps = np.array([best_overlap(level >= tau - TIE, own * np.float64(scale)) for tau in TAUS])
            self.hits += overlaps >= np.array(OVERLAPS)[:, None]
        self.samples += len(maps)

    def merge(self, hits: NDArray[np.int64], samples: int) -> None:
        """Add what another process has counted."""
        self.hits += hits
        self.samples += samples

    def value(self) -> float:
        """Mean over OVERLAPS of the share of right samples at each overlap's best threshold; NaN without samples."""
        return float((self.hits / self.samples).max(1).mean()) if self.samples else float("nan")


def best_overlap(shown: NDArray[np.bool_], boxes: Floats) -> float:
    """The highest intersection over union of a box around a connected part of `shown` (H, W) and one of `boxes`
    (K, 4); 0 without either."""
    found = boxes_of_parts(shown)[:, None]  # (P, 1, 4)
    if not len(found) or not len(boxes):
        return 0.0
    sides = np.minimum(found[..., 2:], boxes[:, 2:]) - np.maximum(found[..., :2], boxes[:, :2])  # (P, K, 2)
    common = sides.clip(0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (found, boxes)]
    return float((common / (areas[0] + areas[1] - common)).max())


def boxes_of_parts(shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The box around each connected part of a plane (H, W), (P, 4) as x1, y1, x2, y2, half-open."""
    parts, _ = label(shown, NEIGHBOURS)
    found = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(parts)]
    return np.array(found, dtype=np.int64).reshape(-1, 4)
