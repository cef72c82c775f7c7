"""LSAS's loss: the programs' label-smoothed cross-entropy."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Mean KL divergence from the softmax of `logits` (B, K) to smoothed targets: run_imagenet.py's SoftCE.

    `target` is (B,) class numbers or (B, K) mixed one-hot rows. The true class gets 1 - s, every other class
    s / (K - 1). torch spreads its smoothing over all K classes and leaves the targets' own entropy in: s K / (K - 1)
    gives the same targets, and the entropy, a constant, is taken off. With s = 0 this is plain cross-entropy.
    """
    classes = logits.shape[1]
    loss = F.cross_entropy(logits, target, label_smoothing=smoothing * classes / (classes - 1))
    return loss - smoothing_entropy(smoothing, classes)


def smoothing_entropy(smoothing: float, classes: int) -> float:
    """Entropy of one smoothed target, in nats."""
    if smoothing == 0:
        return 0.0
    return -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / (classes - 1))


def top_accuracies(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Top-1 and top-5 accuracy of a training batch, in per cent; a mixed target counts as its larger share's class.

    With fewer than five classes top-5 is over all of them (the programs stop).
    """
    labels = target if target.ndim == 1 else target.argmax(1)
    highest = logits.detach().topk(min(5, logits.shape[1])).indices  # (B, 5)
    hits = (highest == labels[:, None]).float()
    return {"top1": 100 * hits[:, 0].mean(), "top5": 100 * hits.sum(1).mean()}
