"""Faithfulness of a map to its model: deletion and insertion curves (Petsiuk et al., RISE, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


class Curves(NamedTuple):
    """Score of the class after 0, 1, 2 ... steps, (n + 1,); the first is the untouched start picture."""

    deletion: Tensor
    """Highest pixels first set to 0: a faithful map makes the score fall early."""
    insertion: Tensor
    """Highest pixels first restored in a blurred picture: a faithful map makes the score rise early."""


def faithfulness_curves(
    image: Tensor,
    saliency: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    pixels_per_step: int | None = None,
    batch_size: int = 64,
) -> Curves:
    """Delete from and insert into a normalised picture (3, H, W) in the order of its map (H, W), highest first.

    `score` takes pictures (B, 3, H, W) and gives the class's probabilities (B,). A step is a row of pixels (W) unless
    said otherwise. The start of insertion is blurred by a Gaussian (11 x 11, sigma 5, reflected borders; RISE pads with
    zeros). Equal values keep reading order.
    """
    _, height, width = image.shape
    order = saliency.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.view(height, width)
    size = pixels_per_step or width
    steps = range(0, height * width + size, size)
    blurred = gaussian_blur(image, [11, 11], [5.0, 5.0])

    def curve(start: Tensor, end: Tensor) -> Tensor:
        values = []
        for first in range(0, len(steps), batch_size):
            changed = torch.stack([rank < count for count in steps[first : first + batch_size]])  # (B, H, W)
            values.append(score(torch.where(changed[:, None], end, start)))
        return torch.cat(values)

    return Curves(deletion=curve(image, torch.zeros_like(image)), insertion=curve(blurred, image))


def area_under(curve: Tensor) -> float:
    """Area under a curve over steps scaled to [0, 1], by trapezoids."""
    return float(torch.trapezoid(curve.double()) / (len(curve) - 1))
