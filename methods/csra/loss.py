"""CSRA's loss: binary cross-entropy over all labels; cross-entropy where each picture has one class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from attnbias.data.index import Task


def classification_loss(logits: Tensor, target: Tensor, task: Task) -> Tensor:
    """Mean loss of logits (B, C).

    Multi-label targets are (B, C) with -1 = unknown; unknown labels add nothing, and the mean stays over all B * C.
    Single-label targets are (B,) class numbers or (B, C) shares.
    """
    if task == "singlelabel":
        return F.cross_entropy(logits, target)
    known = (target >= 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target.clamp_min(0).to(logits.dtype), weight=known)
