"""The segmentation loss: cross-entropy of both heads' logits, brought to the size of the labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.label_maps import IGNORE
from attnbias.methods.absvit.segmentation.heads import resize


def pixel_loss(logits: Tensor, target: Tensor, avg_non_ignore: bool = False) -> tuple[Tensor, Tensor]:
    """Score logits (B, K, h, w) against class numbers (B, H, W), 255 = ignore: cross-entropy and accuracy in per cent.

    The cross-entropy is divided by the number of all pixels, ignored ones included (MMSegmentation's default, so a mean
    over samples), or by the labelled ones alone. Without any labelled pixel it is 0, and the accuracy 100.
    """
    logits = resize(logits.float(), target.shape[-2:])
    known = target != IGNORE
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    with torch.no_grad():
        epsilon = torch.finfo(torch.float32).eps
        right = ((logits.max(dim=1).indices == target) & known).sum()
        accuracy = 100 * (right + epsilon) / (known.sum() + epsilon)
    return total / (known.sum().clamp_min(1) if avg_non_ignore else target.numel()), accuracy


def segmentation_loss(
    logits: Tensor, auxiliary: Tensor, target: Tensor, weights: tuple[float, float], avg_non_ignore: bool
) -> dict[str, Tensor]:
    """Losses of UperNet's and of the auxiliary head, each times its weight, their sum, and the accuracy of both."""
    decode, accuracy = pixel_loss(logits, target, avg_non_ignore)
    aux, aux_accuracy = pixel_loss(auxiliary, target, avg_non_ignore)
    decode, aux = weights[0] * decode, weights[1] * aux
    return {"loss": decode + aux, "decode": decode, "aux": aux, "accuracy": accuracy, "aux_accuracy": aux_accuracy}
