"""Cutout as IDA's published program draws it: a square of one random colour, anywhere on the image."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw


def cut_out(image: Image.Image, row: int, column: int, length: int, colour: tuple[int, int, int]) -> Image.Image:
    """Return a copy with a filled square around (row, column), clipped at the borders.

    The rectangle includes both its ends, as the published program's does, so an inner hole is `length + 1` pixels wide
    (one less for an odd `length`).
    """
    width, height = image.size
    half = length // 2
    corners = (
        max(column - half, 0),
        max(row - half, 0),
        min(column + half, width),
        min(row + half, height),
    )
    image = image.copy()
    ImageDraw.Draw(image).rectangle(corners, fill=colour)
    return image


class RandomCutout:
    """Cut one hole of about `length` pixels a side, its centre uniform over the image, its colour uniform."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image with a hole; draws from torch's global generator."""
        row, column = (int(torch.randint(side, ())) for side in (image.height, image.width))
        red, green, blue = torch.randint(256, (3,)).tolist()
        return cut_out(image, row, column, self.length, (red, green, blue))
