"""Mixing within training batches: mixup, CutMix and cutout, as LSAS's ImageNet program applies them.

Each takes (images (B, 3, H, W), targets, NumPy generator) and returns the pair mixed. Class numbers become one-hot rows
mixed by the share of each image; multi-label targets are mixed as they are, and a label that is unknown (-1) in
either image stays unknown. torchvision's own MixUp and CutMix draw from the global generator and always pair
neighbours; here the draws are the caller's and the partner is a random one, as in the program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.to_device import to_device


def mix_images(images: Tensor, permutation: Tensor, lam: float) -> Tensor:
    """Blend each image with its partner: lam * x + (1 - lam) * x[permutation]."""
    return lam * images + (1 - lam) * images[permutation]


def mix_targets(targets: Tensor, permutation: Tensor, lam: float, num_classes: int) -> Tensor:
    """Blend class numbers (B,) or rows (B, C) with their partner's, into rows (B, C) float32."""
    rows = F.one_hot(targets, num_classes).float() if targets.ndim == 1 else targets
    partners = rows[permutation]
    known = (rows >= 0) & (partners >= 0)
    return torch.where(known, lam * rows + (1 - lam) * partners, -1.0)


def cutmix_box(height: int, width: int, lam: float, row: int, column: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, left, bottom, right; half-open) of a box around (row, column), clipped at the borders.

    Before clipping it covers about 1 - lam of the image.
    """
    share = math.sqrt(1 - lam)
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    return (
        max(row - half_height, 0),
        max(column - half_width, 0),
        min(row + half_height, height),
        min(column + half_width, width),
    )


def kept_share(box: tuple[int, int, int, int], height: int, width: int) -> float:
    """Share of an image outside the box: lambda after clipping."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / (height * width)


@dataclass(frozen=True)
class Mixup:
    """Mixup (Zhang et al., ICLR 2018): one lambda ~ Beta(alpha, alpha) a batch."""

    alpha: float
    num_classes: int

    def __call__(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        lam = generator.beta(self.alpha, self.alpha)
        permutation = _permutation(images, generator)
        return mix_images(images, permutation, lam), mix_targets(targets, permutation, lam, self.num_classes)


@dataclass(frozen=True)
class CutMix:
    """CutMix (Yun et al., ICCV 2019): one box a batch, at the same place of all images.

    `probability` is the share of the batches that are cut. A batch that is not has no draws but that one; where all
    are, there is none for it.
    """

    alpha: float
    num_classes: int
    probability: float = 1.0

    def __call__(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        if self.probability < 1 and generator.random() >= self.probability:
            return images, targets
        height, width = images.shape[-2:]
        lam = generator.beta(self.alpha, self.alpha)
        permutation = _permutation(images, generator)
        box = cutmix_box(height, width, lam, int(generator.integers(height)), int(generator.integers(width)))
        top, left, bottom, right = box
        images = images.clone()
        images[..., top:bottom, left:right] = images[permutation][..., top:bottom, left:right]
        return images, mix_targets(targets, permutation, kept_share(box, height, width), self.num_classes)


@dataclass(frozen=True)
class Cutout:
    """Cutout (DeVries & Taylor 2017) as the program draws it: one square a batch, filled with 0 after normalisation."""

    side: int

    def __call__(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        row, column = (int(generator.integers(size)) for size in (height, width))
        half = self.side // 2
        images = images.clone()
        images[..., max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
        return images, targets


def _permutation(images: Tensor, generator: np.random.Generator) -> Tensor:
    return to_device(torch.from_numpy(generator.permutation(len(images))), images.device)
