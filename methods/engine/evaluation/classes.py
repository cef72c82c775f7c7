"""`val --per-class` of single-label sets, and `val --calibration`: figures of each class, what is taken for what, and
whether a score of 0.8 is right in 80 of 100 cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from attnbias.data.datasets import ImageDataset
from attnbias.data.reading import Json
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.metrics import average_precision
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.types import LABELLED

BINS = 15
"""Of equal width between 0 and 1 (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""

CONFUSED = 5
"""Pairs of classes that are shown."""


def confusion_matrix(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many images of each class (rows) are taken for each class (columns): (C, C). Of equal scores the first class
    leads."""
    classes = scores.shape[1]
    pairs = targets * classes + scores.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_figures(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> Json:
    """Images, precision, recall (the accuracy within a class), F1 and average precision against all others, of each
    class, in per cent; None where there is none. And the confusion matrix."""
    counts = confusion_matrix(targets, scores)
    right, images, claims = counts.diagonal(), counts.sum(1), counts.sum(0)
    one_by_one = (targets[:, None] == np.arange(len(counts))).astype(np.int64)
    return {
        "images": images.tolist(),
        "precision": _shares(right, claims),
        "recall": _shares(right, images),
        "F1": _shares(2 * right, np.where(images > 0, images + claims, 0)),
        "AP": [100 * value if images[k] else None for k, value in enumerate(average_precision(one_by_one, scores))],
        "confusion": counts.tolist(),
    }


def calibration(targets: np.ndarray, scores: NDArray[np.float32]) -> Json:
    """Whether scores are probabilities: expected calibration error and its bins, Brier score, mean score and accuracy.

    Of classes (N,), an image's score is its highest and it is right or wrong; the Brier score is the sum over classes
    of squared differences (0 to 2). Of labels (N, C), every known label is a sample, its score that of the label, and
    right is positive; the Brier score is the mean squared difference (0 to 1). A bin holds scores above its lower edge
    and up to its upper one; the first holds 0 too.
    """
    values = scores.astype(np.float64)
    if targets.ndim == 1:
        score, right = values.max(1), values.argmax(1) == targets
        brier = ((values - (targets[:, None] == np.arange(values.shape[1]))) ** 2).sum(1).mean()
    else:
        known = targets >= 0
        score, right = values[known], targets[known] == 1
        brier = ((score - right) ** 2).mean()
    number = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
    sizes = np.bincount(number, minlength=BINS)
    scored, hits = (np.bincount(number, weights, minlength=BINS) for weights in (score, right.astype(np.float64)))
    return {
        "samples": len(score),
        "ece": float(np.abs(scored - hits).sum() / len(score)),
        "brier": float(brier),
        "mean_score": float(score.mean()),
        "share_right": float(right.mean()),
        "bins": [
            {
                "from": position / BINS,
                "to": (position + 1) / BINS,
                "samples": int(size),
                "mean_score": float(scored[position] / size) if size else None,
                "share_right": float(hits[position] / size) if size else None,
            }
            for position, size in enumerate(sizes)
        ],
    }


def _shares(hits: NDArray[np.int64], of: NDArray[np.int64]) -> list[float | None]:
    return [100 * float(one / whole) if whole else None for one, whole in zip(hits, of, strict=True)]


class PerClassProbe(Probe):
    """Single-label sets; of other sets the metrics themselves hold a figure for each class."""

    name = "per_class"

    def wanted(self, request: ValRequest) -> bool:
        return request.per_class

    def measure(self, measured: Measured) -> Content | None:
        if measured.dataset.index.task != "singlelabel":
            return None
        return class_figures(measured.evaluation.targets, measured.evaluation.scores["scores"])


def most_confused(content: Content, classes: Sequence[str]) -> list[str]:
    """The pairs of classes that are confused most often, in words."""
    counts = np.array(content["confusion"])
    others = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-others, axis=None, kind="stable")[:CONFUSED]
    pairs = [(int(true), int(taken)) for true, taken in zip(*np.unravel_index(order, others.shape), strict=True)]
    return [
        f"{classes[true]} taken for {classes[taken]}: {others[true, taken]:,} of {counts[true].sum():,}"
        for true, taken in pairs
        if others[true, taken]
    ]


class CalibrationProbe(Probe):
    """Sets whose classes have scores."""

    name = "calibration"

    def wanted(self, request: ValRequest) -> bool:
        return request.calibration

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        if (task := dataset.index.task) not in LABELLED:
            raise UsageError(f"--calibration is of scores of classes, and '{dataset.index.dataset}' is for {task}")

    def measure(self, measured: Measured) -> Content:
        return calibration(measured.evaluation.targets, measured.evaluation.scores["scores"])

    def figures(self, content: Content) -> Mapping[str, float]:
        return {name: content[name] for name in ("ece", "brier", "mean_score", "share_right")}
