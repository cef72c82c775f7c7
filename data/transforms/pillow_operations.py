"""Pillow's operations as (image, value) -> image: what the tables of the papers' RandAugments share."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from PIL import Image, ImageEnhance, ImageOps

Apply = Callable[[Image.Image, float], Image.Image]
"""(image, value) -> image."""


def autocontrast(image: Image.Image, _: float) -> Image.Image:
    """Stretch each channel to the whole range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, _: float) -> Image.Image:
    """Make each channel's histogram even."""
    return ImageOps.equalize(image)


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Invert the levels from the threshold on."""
    return ImageOps.solarize(image, ceil(threshold))


def enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], base: float = 0.0) -> Apply:
    """Sharpness, contrast, colour or brightness by the factor `base` + value; at 1 nothing changes."""
    return lambda image, value: kind(image).enhance(base + value)
