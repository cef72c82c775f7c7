"""AbSViT's loss: the classification loss of both passes, and the decoders' reconstruction error.

Shapes: B images, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.index import Task
from attnbias.methods.engine.losses import classification_loss

if TYPE_CHECKING:
    from attnbias.methods.absvit.model import Passes


def two_pass_loss(
    passes: Passes, target: Tensor, task: Task, smoothing: float, weight: float, asked: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean of the two passes' classification loss, plus `weight` x the sum over blocks of the reconstruction error.

    There is no loss on the prior: it learns through the mask alone. The mask's mean is not a part of the loss but is
    logged: near 0, nothing is fed back, and the model is a plain ViT. `asked` (B,) is what `drawn_classes` gives.
    """
    first = classification_loss(passes.first.float(), target, task, smoothing)
    second = (
        classification_loss(passes.second.float(), target, task, smoothing)
        if asked is None
        else steered_loss(passes.second.float(), target, task, smoothing, asked)
    )
    reconstruction = weight * passes.errors.float().sum()
    return {
        "loss": (first + second) / 2 + reconstruction,
        "first": first,
        "second": second,
        "reconstruction": reconstruction,
        "mask": passes.mask.detach().float().mean(),
    }


def drawn_classes(target: Tensor, share: float) -> Tensor:
    """What the second pass is asked for in each image: (B,) int64, -1 = nothing, which leaves it to the prompt.

    A `share` of the images is asked for a class: half of them for one of their own, half for one of any image of the
    batch, which they may not show. Targets are (B,) class numbers or (B, C). Ours, not the paper's.
    """
    count, device = len(target), target.device
    own = torch.rand(count, device=device) < 0.5
    owners = torch.where(own, torch.arange(count, device=device), torch.randint(count, (count,), device=device))
    drawn = target[owners]
    if drawn.ndim == 2:
        drawn = torch.multinomial(drawn.float().clamp_min(0) + 1e-6, 1)[:, 0]  # of an image without labels: any class
    return torch.where(torch.rand(count, device=device) < share, drawn, -1)


def steered_loss(logits: Tensor, target: Tensor, task: Task, smoothing: float, asked: Tensor) -> Tensor:
    """Mean over the batch of each image's loss: binary cross-entropy of the class that it was asked for (B,), and the
    classification loss where that is -1. Logits are (B, C)."""
    if task == "multilabel":
        known = (target >= 0).to(logits.dtype)
        usual = F.binary_cross_entropy_with_logits(
            logits, target.clamp_min(0).to(logits.dtype), weight=known, reduction="none"
        ).mean(1)
    else:
        usual = F.cross_entropy(
            logits, target, label_smoothing=0.0 if target.ndim == 2 else smoothing, reduction="none"
        )
    classes = asked.clamp_min(0)[:, None]  # (B, 1)
    there = (classes == target[:, None] if target.ndim == 1 else target.gather(1, classes))[:, 0].to(logits.dtype)
    alone = F.binary_cross_entropy_with_logits(
        logits.gather(1, classes)[:, 0], there.clamp_min(0), weight=(there >= 0).to(logits.dtype), reduction="none"
    )
    return torch.where(asked < 0, usual, alone).mean()
