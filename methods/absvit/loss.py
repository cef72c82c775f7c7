"""AbSViT's loss: the classification loss of both passes, and the decoders' reconstruction error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from attnbias.data.index import Task
from attnbias.methods.engine.losses import classification_loss

if TYPE_CHECKING:
    from attnbias.methods.absvit.model import Passes


def two_pass_loss(passes: Passes, target: Tensor, task: Task, smoothing: float, weight: float) -> dict[str, Tensor]:
    """Mean of the two passes' classification loss, plus `weight` x the sum over blocks of the reconstruction error.

    There is no loss on the prior: it learns through the mask alone. The mask's mean is no part of the loss but is
    logged: near 0, nothing is fed back, and the model is a plain ViT.
    """
    first = classification_loss(passes.first.float(), target, task, smoothing)
    second = classification_loss(passes.second.float(), target, task, smoothing)
    reconstruction = weight * passes.errors.float().sum()
    return {
        "loss": (first + second) / 2 + reconstruction,
        "first": first,
        "second": second,
        "reconstruction": reconstruction,
        "mask": passes.mask.detach().float().mean(),
    }
