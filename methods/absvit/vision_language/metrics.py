"""What the tasks are measured by: VQA's soft score, accuracy, and recall among the first of a ranking. NumPy only."""

from __future__ import annotations

import numpy as np

RANKS = (1, 5, 10)


def soft_score(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean score in [0, 1] of each question's highest answer; of equal logits the first counts. Both (N, classes)."""
    return float(targets[np.arange(len(logits)), logits.argmax(1)].mean())


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Share of right answers among those with a class number, (N,); -100 = unknown, left out."""
    known = targets != -100
    return float((logits.argmax(1) == targets)[known].mean())


def recall(scores: np.ndarray, belongs: np.ndarray) -> dict[str, float]:
    """Recall of a ranking of images x texts (N, M), as fractions; `belongs` (N, M) is True for an image's own texts.

    ir_rK: share of the texts whose image is among their K best images; tr_rK: share of the images with one of their
    texts among their K best texts. Of equal scores the first leads.
    """
    measures: dict[str, float] = {}
    for name, values, own in (("ir", scores.T, belongs.T), ("tr", scores, belongs)):
        order = np.argsort(-values, axis=1, kind="stable")[:, : max(RANKS)]
        found = np.take_along_axis(own, order, axis=1).astype(bool)
        measures |= {f"{name}_r{k}": float(found[:, :k].any(axis=1).mean()) for k in RANKS}
    return measures
