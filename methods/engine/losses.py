"""The classification losses that several papers share; what a paper adds to them stands in its own loss.py."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from attnbias.data.index import Task


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over samples and classes of (B, C); targets below 0 (unknown) add nothing, and the mean stays over all."""
    known = (target >= 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target.clamp_min(0).to(logits.dtype), weight=known)


def classification_loss(logits: Tensor, target: Tensor, task: Task, label_smoothing: float = 0.0) -> Tensor:
    """Mean loss of logits (B, C) over the batch: binary cross-entropy over all labels in multi-label work, with
    targets (B, C) in {1, 0, -1 = unknown}; else cross-entropy with class numbers (B,), or with shares (B, C), which
    whoever mixed them has smoothed already."""
    if task == "multilabel":
        return binary_cross_entropy(logits, target)
    return F.cross_entropy(logits, target, label_smoothing=0.0 if target.ndim == 2 else label_smoothing)
