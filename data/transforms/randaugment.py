"""The RandAugment policy of IDA's published program (the package `randaugment` 1.0.2), written anew on Pillow.

It is not torchvision's: a policy is two (operation, magnitude) pairs, each applied with probability 0.5; rotations are
always counter-clockwise; inversion and a small cutout are among the operations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from attnbias.data.transforms.pillow_operations import Apply, autocontrast, enhance, equalize, solarize

GREY = (128, 128, 128)
"""Fills what an affine operation uncovers."""
HOLE = (125, 122, 113)
"""Fills the policy's own cutout."""

AFFINE = Image.Transform.AFFINE
BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST


class Operation(NamedTuple):
    """One operation: (image, magnitude) -> image, its ten magnitudes, and whether their sign is drawn."""

    apply: Apply
    magnitudes: tuple[float, ...]
    signed: bool = False


def _shear_x(image: Image.Image, factor: float) -> Image.Image:
    return image.transform(image.size, AFFINE, (1, factor, 0, 0, 1, 0), BICUBIC, fillcolor=GREY)


def _shear_y(image: Image.Image, factor: float) -> Image.Image:
    return image.transform(image.size, AFFINE, (1, 0, 0, factor, 1, 0), BICUBIC, fillcolor=GREY)


def _translate_x(image: Image.Image, share: float) -> Image.Image:
    return image.transform(image.size, AFFINE, (1, 0, share * image.width, 0, 1, 0), NEAREST, fillcolor=GREY)


def _translate_y(image: Image.Image, share: float) -> Image.Image:
    return image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, share * image.height), NEAREST, fillcolor=GREY)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, NEAREST, fillcolor=GREY)


def _cutout(image: Image.Image, side: float) -> Image.Image:
    half = side / 2
    row, column = (float(torch.rand(())) * length for length in (image.height, image.width))
    left, top = int(max(column - half, 0)), int(max(row - half, 0))
    image = image.copy()
    image.paste(HOLE, (left, top, min(left + int(side), image.width), min(top + int(side), image.height)))
    return image


def _points(first: float, last: float, *, whole: bool = False) -> tuple[float, ...]:
    values = np.linspace(first, last, 10)
    return tuple((values.round() if whole else values).tolist())


OPERATIONS: dict[str, Operation] = {
    "Invert": Operation(lambda image, _: ImageOps.invert(image), _points(0, 0)),
    "Cutout": Operation(_cutout, _points(0, 20, whole=True)),
    "Sharpness": Operation(enhance(ImageEnhance.Sharpness, 1), _points(0, 0.9), signed=True),
    "AutoContrast": Operation(autocontrast, _points(0, 0)),
    "Posterize": Operation(lambda image, bits: ImageOps.posterize(image, int(bits)), _points(8, 4, whole=True)),
    "ShearX": Operation(_shear_x, _points(0, 0.3), signed=True),
    "TranslateX": Operation(_translate_x, _points(0, 150 / 331), signed=True),
    "TranslateY": Operation(_translate_y, _points(0, 150 / 331), signed=True),
    "ShearY": Operation(_shear_y, _points(0, 0.3), signed=True),
    "Rotate": Operation(_rotate, _points(0, 30)),
    "Equalize": Operation(equalize, _points(0, 0)),
    "Contrast": Operation(enhance(ImageEnhance.Contrast, 1), _points(0, 0.9), signed=True),
    "Color": Operation(enhance(ImageEnhance.Color, 1), _points(0, 0.9), signed=True),
    "Solarize": Operation(solarize, _points(256, 0)),
    "Brightness": Operation(enhance(ImageEnhance.Brightness, 1), _points(0, 0.9), signed=True),
}

STEPS: tuple[tuple[str, int], ...] = tuple((name, position) for name in OPERATIONS for position in range(1, 10))
"""The 135 (operation, magnitude's position) pairs; a policy is any two of them, so there are 18,225."""


def apply_operation(image: Image.Image, name: str, position: int, sign: int = 1) -> Image.Image:
    """Apply one operation at one of its ten magnitudes; `sign` (+1 or -1) counts where the operation has two senses."""
    operation = OPERATIONS[name]
    magnitude = operation.magnitudes[position]
    return operation.apply(image, sign * magnitude if operation.signed else magnitude)


class RandAugmentPolicy:
    """Draw a policy for each image, and apply each of its two steps with probability 0.5, in order."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the changed image; draws from torch's global generator."""
        for step in torch.randint(len(STEPS), (2,)).tolist():
            chance, sense = torch.rand(2).tolist()
            if chance < 0.5:
                name, position = STEPS[step]
                image = apply_operation(image, name, position, 1 if sense < 0.5 else -1)
        return image
