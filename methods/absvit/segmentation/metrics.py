"""What segmentation is measured by: intersection over union and its kin, from pixels counted image by image.

Counts are sums over a whole split, so the figures do not depend on batches or processes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnbias.data.label_maps import IGNORE
from attnbias.methods.engine.types import Metrics

LEVELS = 256
"""Values that a label map's pixels can have."""


class Areas(NamedTuple):
    """Pixels of each class, (K,) each, among those that are labelled."""

    intersect: Tensor
    """Predicted as the class and labelled so."""
    predicted: Tensor
    labelled: Tensor


def count_areas(prediction: Tensor, target: Tensor, classes: int) -> Areas:
    """Count the pixels of each class in a prediction and a label map of one size; where the label is 255, neither."""
    pairs = torch.bincount((target * classes + prediction).flatten(), minlength=LEVELS * classes)
    counts = pairs.unflatten(0, (LEVELS, classes))[:IGNORE]  # label x prediction
    return Areas(counts.diagonal(), counts.sum(0), counts[:classes].sum(1))


def class_measures(
    intersect: np.ndarray, predicted: np.ndarray, labelled: np.ndarray
) -> dict[str, NDArray[np.float64]]:
    """Measure each class by the pixels of a whole split, (K,) each: fractions, NaN where one is 0 / 0.

    A class that is there and never predicted has an IoU, Acc and Dice of 0, and neither precision nor F-score; one
    that is in neither labels nor predictions has nothing.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = intersect / predicted, intersect / labelled
        return {
            "IoU": intersect / (predicted + labelled - intersect),
            "Acc": recall,
            "Dice": 2 * intersect / (predicted + labelled),
            "Fscore": 2 * precision * recall / (precision + recall),
            "Precision": precision,
            "Recall": recall,
        }


def area_measures(intersect: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> Metrics:
    """Measure a split by its pixels, one row per image and one column per class, (N, K) each; all figures in per cent.

    Returns mIoU; aAcc, the share of pixels that are right; mAcc, mDice, mFscore, mPrecision and mRecall; and the IoU
    and Acc of each class. Classes without a value (None) are left out of the means.
    """
    areas = [area.sum(axis=0, dtype=np.float64) for area in (intersect, predicted, labelled)]  # (K,) each
    found = class_measures(*areas)
    means = {f"m{name}": _mean(values) for name, values in found.items()}
    return {
        "mIoU": means.pop("mIoU"),
        "aAcc": 100 * float(areas[0].sum() / max(areas[2].sum(), 1)),
        **means,
        **{name: [None if np.isnan(x) else 100 * x for x in found[name].tolist()] for name in ("IoU", "Acc")},
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else None
