"""Augmentation of small images in whole batches, on the device: uint8 images in, normalised float32 out.

Pure tensor functions. Every draw is a hash of (seed, epoch, sample, number of the draw), so a sample is augmented alike
whatever its batch, its process and the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.errors import DataError
from attnbias.data.transforms.basic import ToNormalizedTensor

# splitmix64 (Steele et al., OOPSLA 2014), its constants as signed 64-bit numbers: torch's int64 wraps around.
_INCREMENT, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def draw(seed: int, epoch: int | Tensor, samples: Tensor, number: int, high: int) -> Tensor:
    """Integers in [0, high), one for each sample id (B,) int64; `number` tells a sample's draws apart."""
    state = torch.full_like(samples, (seed + 2**63) % 2**64 - 2**63)  # as a signed number
    for word in (epoch, samples, number):
        state = _mix(state + _INCREMENT) ^ word
    return (_shifted(_mix(state + _INCREMENT), 32) * high) >> 32


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Unsigned right shift."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def crop_flip(images: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, size: int) -> Tensor:
    """Crop `size` x `size` at each image's own corner, mirrored where `flipped` (B,) says: (B, C, size, size)."""
    position = torch.arange(size, device=images.device)
    rows = tops[:, None] + position  # (B, size)
    columns = lefts[:, None] + torch.where(flipped[:, None], size - 1 - position, position)
    batch, channel = (torch.arange(count, device=images.device) for count in images.shape[:2])
    return images[batch[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


@dataclass(frozen=True)
class BatchedTransform:
    """The CIFAR programs' pipeline: a random crop of the image in a black border, a flip, normalisation.

    Without `size` it only normalises, which is the evaluation pipeline.
    """

    normalization: ToNormalizedTensor
    seed: int = 0
    size: int | None = None
    padding: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, samples: Tensor, epoch: int | Tensor) -> Tensor:
        """Augment images (B, 3, H, W) uint8 of sample ids (B,) int64 as in this epoch (one, or one a sample).

        Raises:
            DataError: the images are too small to be cropped.
        """
        if self.size is not None:
            padded = F.pad(images, (self.padding,) * 4)
            height, width = padded.shape[-2:]
            if min(height, width) < self.size:
                shape = f"{images.shape[-1]} x {images.shape[-2]}"
                raise DataError(
                    f"images of {shape} pixels are too small for crops of {self.size} x {self.size} with a border of "
                    f"{self.padding}; choose a pipeline that resizes, such as --pipeline square"
                )
            tops = draw(self.seed, epoch, samples, 0, height - self.size + 1)
            lefts = draw(self.seed, epoch, samples, 1, width - self.size + 1)
            flipped = draw(self.seed, epoch, samples, 2, 2 if self.flip else 1) == 1
            images = crop_flip(padded, tops, lefts, flipped, self.size)
        return self.normalization.normalize(images)
