"""Crops of several sizes and shapes at fixed places (Wang et al., "Temporal Segment Networks", ECCV 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

SCALES = (1.0, 0.875, 0.75, 0.66, 0.5)

MARGIN = 64
"""Pixels that IDA's program resizes images larger than the crops' target."""

PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))
"""Upper left corners of a crop, (column, row) in quarters of the free room."""


def crop_sizes(
    image: tuple[int, int], size: int, scales: Sequence[float] = SCALES, max_distort: int = 2
) -> list[tuple[int, int]]:
    """List the (width, height) pairs of pixels to choose from for an image of (width, height).

    Sides are shares of the shorter side, set to `size` where they are within 3 pixels of it; the two sides'
    positions among the scales differ by `max_distort` at most.
    """
    sides = [int(min(image) * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    return [
        (width, height) for i, height in enumerate(sides) for j, width in enumerate(sides) if abs(i - j) <= max_distort
    ]


def crop_offsets(image: tuple[int, int], crop: tuple[int, int]) -> list[tuple[int, int]]:
    """List the 13 (left, top) corners to choose from; all sizes are (width, height)."""
    steps = [(whole - part) // 4 for whole, part in zip(image, crop, strict=True)]
    return [(column * steps[0], row * steps[1]) for column, row in PLACES]


class MultiScaleCrop:
    """Crop one of `crop_sizes` at one of `crop_offsets`, both uniform, and resize to a square of `size` pixels."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the crop; draws from torch's global generator."""
        sizes = crop_sizes(image.size, self.size)
        width, height = sizes[int(torch.randint(len(sizes), ()))]
        offsets = crop_offsets(image.size, (width, height))
        left, top = offsets[int(torch.randint(len(offsets), ()))]
        return image.crop((left, top, left + width, top + height)).resize(
            (self.size, self.size), Image.Resampling.BILINEAR
        )
