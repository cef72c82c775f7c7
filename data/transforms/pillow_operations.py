"""Pillow's operations as (picture, value) -> picture: what the tables of the papers' RandAugments share."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from PIL import Image, ImageEnhance, ImageOps

Apply = Callable[[Image.Image, float], Image.Image]
"""(picture, value) -> picture."""


def autocontrast(picture: Image.Image, _: float) -> Image.Image:
    """Stretch each channel to the whole range."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image, _: float) -> Image.Image:
    """Make each channel's histogram even."""
    return ImageOps.equalize(picture)


def solarize(picture: Image.Image, threshold: float) -> Image.Image:
    """Invert the levels from the threshold on."""
    return ImageOps.solarize(picture, ceil(threshold))


def enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], base: float = 0.0) -> Apply:
    """Sharpness, contrast, colour or brightness by the factor `base` + value; at 1 nothing changes."""
    return lambda picture, value: kind(picture).enhance(base + value)
