"""How far attention lies from the object: position bias, range bias and their kin, against boxes or masks.

The two notions are LSAS's (Zhong et al., ICME 2023): a focus wholly outside the object, and a focus that spills over
its border. The paper gives no protocol; the thresholds here, the sweep over them and the threshold-free measures make
the words measurable. NumPy, float64, vectorised over samples: a sample is one map for one class of one image, and all
maps of a call share one image plane.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

from attnbias.methods.engine import attention_measures
from attnbias.methods.engine.attention_measures import TIE, Bools, Floats, Focus, HeldMaps, flat
from attnbias.methods.engine.errors import NotFiniteError

TAUS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Thresholds of the sweep: a single one is arbitrary, and maps of a 7 x 7 grid are always soft."""

CONSTANT = 1e-12


# The plane ------------------------------------------------------------------------------------------------------------


def box_mask(boxes: np.ndarray, height: int, width: int) -> Bools:
    """Union (H, W) of boxes (K, 4) as x1, y1, x2, y2, half-open: a pixel belongs where its centre lies inside."""
    x1, y1, x2, y2 = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T)[..., None]  # (K, 1) each
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    inside_rows, inside_columns = (y1 <= rows) & (rows < y2), (x1 <= columns) & (columns < x2)
    return np.any(inside_rows[:, :, None] & inside_columns[:, None, :], axis=0)


def on_plane(maps: np.ndarray, height: int, width: int) -> Floats:
    """Non-negative part of maps (N, h, w), resized to (N, H, W): bilinear, align_corners=False.

    Raises:
        NotFiniteError: a map holds NaN or infinity.
    """
    if not np.isfinite(maps).all():
        raise NotFiniteError("an attention map holds")
    positive = torch.from_numpy(np.maximum(np.asarray(maps, dtype=np.float64), 0))
    return F.interpolate(positive[:, None], size=(height, width), mode="bilinear")[:, 0].numpy()


def stretched(energy: Floats) -> Floats:
    """Each map (N, H, W) brought to [0, 1]; a constant one becomes zeros."""
    low, high = energy.min((1, 2), keepdims=True), energy.max((1, 2), keepdims=True)
    return np.where(high - low > CONSTANT, (energy - low) / np.maximum(high - low, CONSTANT), 0)


def uniform_map() -> Floats:
    """The baseline that looks everywhere alike, (1, 1, 1)."""
    return np.ones((1, 1, 1))


def centre_map(height: int, width: int) -> Floats:
    """The baseline that always looks at the middle, (1, H, W): a Gaussian of sigma H / 4."""
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    return np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * (height / 4) ** 2))[None]


def oracle_maps(masks: Bools, height: int, width: int) -> Floats:
    """The best maps (N, h, w) of a grid: the share of each cell that is object, of masks (N, H, W)."""
    planes = torch.from_numpy(masks.astype(np.float64))[:, None]
    return F.adaptive_avg_pool2d(planes, (height, width))[:, 0].numpy()


def squared_distances(masks: Bools) -> Floats:
    """Of each pixel of masks (N, H, W) from the nearest one of its mask, Euclidean, in pixels: whole numbers, so that a
    pixel that lies a radius away is surely within it; infinite where a mask is empty."""
    found = np.full(masks.shape, np.inf)
    for own, mask in zip(found, masks, strict=True):
        if mask.any():
            own[:] = np.rint(distance_transform_edt(~mask) ** 2)
    return found


def skip_reason(mask: Bools, valid: Bools, visible: float = 1.0) -> str | None:
    """Why a sample says nothing about bias, or None: `empty` (less than 25 % of the object or 1 pixel left by the
    crop; `visible` is that share), `full` (the object covers more than 90 % of what counts)."""
    if not mask.any() or visible < 0.25:
        return "empty"
    return "full" if mask.sum() > 0.9 * valid.sum() else None


# Measures -------------------------------------------------------------------------------------------------------------


def measure_maps(
    maps: np.ndarray,
    masks: Bools,
    ignore: Bools | None = None,
    *,
    tau: float = 0.5,
    tolerance: float | np.ndarray = 15.0,
) -> dict[str, Floats]:
    """Measure maps (N, h, w) against the object's masks (N, H, W); one column (N,) a measure.

    `ignore` marks pixels that count neither as object nor as context (a part of the object stays object). The focus is
    where the map, stretched to [0, 1], reaches `tau`. `tolerance` of the pointing game is in pixels of the plane, one
    for all or one a sample. A constant map is degenerate: it has no focus, and stays in every mean.
    """
    count, height, width = masks.shape
    valid = np.ones_like(masks) if ignore is None else ~ignore | masks
    energy = on_plane(maps, height, width)
    level = stretched(energy)
    steps = _focus(flat(level), flat(masks), flat(valid), np.array([tau, *TAUS]))
    held = HeldMaps(
        energy,
        level,
        masks,
        valid,
        squared_distances(masks),
        np.broadcast_to(np.asarray(tolerance, dtype=np.float64), count),
        Focus(*(value[:, 0] for value in steps)),
        Focus(*(value[:, 1:] for value in steps)),
    )
    return {measure.name: measure.of_sample(held) for measure in attention_measures.ATTENTION if measure.of_sample}


def _focus(level: Floats, mask: Bools, valid: Bools, taus: Floats) -> Focus:
    """All thresholds in one pass: each pixel falls into the bin of the highest threshold it reaches."""
    order = np.argsort(taus)
    bins = np.searchsorted(taus[order] - TIE, level, side="right")  # (N, P): thresholds reached
    bins += (len(taus) + 1) * np.arange(len(level))[:, None]

    def reaching(chosen: Bools) -> NDArray[np.int64]:
        counts = np.bincount(bins[chosen], minlength=(len(taus) + 1) * len(level)).reshape(len(level), -1)
        reached = counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # (N, T), thresholds ascending
        return reached[:, np.argsort(order)]

    pixels, hits, area = reaching(valid), reaching(mask), mask.sum(1, keepdims=True)
    return Focus(pixels, hits / np.maximum(pixels, 1), hits / area, hits / (pixels + area - hits))


# Pixel average precision ----------------------------------------------------------------------------------------------


def step_average_precision(scores: np.ndarray, positive: Bools) -> float:
    """Average precision over distinct scores, equal ones together (scikit-learn's rule); NaN without positives."""
    values, inverse = np.unique(-scores, return_inverse=True)
    totals = np.bincount(inverse, minlength=len(values))
    return _average_precision(np.bincount(inverse[positive], minlength=len(values)), totals)


def _average_precision(positives: np.ndarray, totals: np.ndarray) -> float:
    """Average precision from counts at descending scores."""
    hits = positives.cumsum()
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    return float((positives * hits / np.maximum(totals.cumsum(), 1)).sum() / hits[-1])


class PixelHistogram:
    """PxAP (Choe et al., CVPR 2020) of any number of maps: pixels of the stretched maps, pooled, by score.

    `bins=None` keeps every score (exact, for small sets); else scores fall into that many bins. Histograms of several
    processes add up.
    """

    def __init__(self, bins: int | None = 1001) -> None:
        self.bins = bins
        self.positives = np.zeros(bins or 0, np.int64)
        self.totals = np.zeros(bins or 0, np.int64)
        self.kept: list[tuple[Floats, Bools]] = []

    def add(self, maps: np.ndarray, masks: Bools, ignore: Bools | None = None) -> None:
        """Count the valid pixels of maps (N, h, w) on the plane of masks (N, H, W)."""
        level = stretched(on_plane(maps, *masks.shape[1:]))
        valid = np.ones_like(masks) if ignore is None else ~ignore | masks
        scores, positive = level[valid], masks[valid]
        if self.bins is None:
            self.kept.append((scores, positive))
            return
        position = np.rint((1 - scores) * (self.bins - 1)).astype(np.int64)  # descending
        self.totals += np.bincount(position, minlength=self.bins)
        self.positives += np.bincount(position[positive], minlength=self.bins)

    def value(self) -> float:
        """The average precision; NaN without object pixels."""
        if self.bins is None:
            scores, positive = (np.concatenate(parts) for parts in zip(*self.kept, strict=True))
            return step_average_precision(scores, positive)
        return _average_precision(self.positives, self.totals)


# Aggregates -----------------------------------------------------------------------------------------------------------


def aggregate(columns: Mapping[str, Floats]) -> dict[str, float]:
    """Means of all columns, and what else the table has of the samples together."""
    means = {name: float(values.mean()) for name, values in columns.items()}
    for measure in attention_measures.ATTENTION:
        if measure.of_all:
            means[measure.name] = measure.of_all(columns)
        elif measure.ratio:
            over, under = measure.ratio
            means[measure.name] = means[over] / means[under]
    return means
