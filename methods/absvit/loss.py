"""AbSViT's loss: the criterion on both passes, and the decoders' reconstruction error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from attnbias.data.index import Task

if TYPE_CHECKING:
    from attnbias.methods.absvit.model import Passes


def criterion(logits: Tensor, target: Tensor, task: Task, smoothing: float) -> Tensor:
    """Score logits (B, C), a mean over the batch.

    Single-label: cross-entropy, with label smoothing where the target is class numbers (B,); mixed targets (B, C) are
    already smoothed. Multi-label: mean binary cross-entropy, targets of -1 (unknown) counting as zero loss.
    """
    if task == "multilabel":
        known = (target >= 0).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target.clamp_min(0), weight=known)
    return F.cross_entropy(logits, target, label_smoothing=0.0 if target.ndim == 2 else smoothing)


def two_pass_loss(passes: Passes, target: Tensor, task: Task, smoothing: float, weight: float) -> dict[str, Tensor]:
    """Mean of the criterion over the two passes, plus `weight` x the sum over blocks of the reconstruction error.

    There is no loss on the prior: it learns through the mask alone.
    """
    first = criterion(passes.first.float(), target, task, smoothing)
    second = criterion(passes.second.float(), target, task, smoothing)
    reconstruction = weight * passes.errors.float().sum()
    return {
        "loss": (first + second) / 2 + reconstruction,
        "first": first,
        "second": second,
        "reconstruction": reconstruction,
    }
