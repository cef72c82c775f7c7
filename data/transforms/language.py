"""The image pipelines of the vision-language programs (METER's, which AbSViT trains with), and their RandAugment.

All of AbSViT's runs use `clip` and `clip_randaug`: CLIP's statistics, although its encoder was trained with ImageNet's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode, v2

from attnbias.data.transforms.basic import Params, ShortSideResize, ToNormalizedTensor, Transform, normalization
from attnbias.data.transforms.pillow_operations import Apply, autocontrast, enhance, equalize, solarize

STATISTICS = {
    "clip": normalization("clip"),
    "imagenet": normalization("imagenet"),
    "vit": normalization("half"),
    "pixelbert": normalization("half"),
}
"""Mean and std of each pipeline, per RGB channel, on pixels in [0, 1]."""

RANDAUGMENT = "_randaug"
"""Ends the name of a training pipeline: RandAugment, then the pipeline of the name before it."""

PIPELINES = tuple(f"{name}{ending}" for name in STATISTICS for ending in ("", RANDAUGMENT))

DRAWN, STRENGTH, STRONGEST = 2, 9, 30
"""Operations drawn for each image, with replacement; their common magnitude, of so many."""

AFFINE = Image.Transform.AFFINE


class Operation(NamedTuple):
    """One operation: (image, value) -> image, its value at magnitudes 0 and 30, and whether the sign is drawn."""

    apply: Apply
    low: float
    high: float
    signed: bool = False

    def value(self, strength: float) -> float:
        """The value at a magnitude between 0 and 30."""
        return strength / STRONGEST * (self.high - self.low) + self.low


def _affine(b: float = 0, c: float = 0, d: float = 0, f: float = 0) -> Apply:
    """An affine operation, x + b y + c and d x + y + f, whose coefficients are multiples of the value; black beyond."""
    return lambda image, v: image.transform(image.size, AFFINE, (1, b * v, c * v, d * v, 1, f * v))


def _solarize_add(image: Image.Image, addition: float) -> Image.Image:
    added = image.point(lambda level: min(level + int(addition), 255))
    return ImageOps.solarize(added, 128)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(autocontrast, 0, 1),
    "Equalize": Operation(equalize, 0, 1),
    "Rotate": Operation(lambda image, degrees: image.rotate(degrees), 0, 30, signed=True),
    "Posterize": Operation(lambda image, bits: ImageOps.posterize(image, max(1, int(bits))), 0, 4),
    "Solarize": Operation(solarize, 0, 256),
    "SolarizeAdd": Operation(_solarize_add, 0, 110),
    "Color": Operation(enhance(ImageEnhance.Color), 0.1, 1.9),
    "Contrast": Operation(enhance(ImageEnhance.Contrast), 0.1, 1.9),
    "Brightness": Operation(enhance(ImageEnhance.Brightness), 0.1, 1.9),
    "Sharpness": Operation(enhance(ImageEnhance.Sharpness), 0.1, 1.9),
    "ShearX": Operation(_affine(b=1), 0, 0.3, signed=True),
    "ShearY": Operation(_affine(d=1), 0, 0.3, signed=True),
    "TranslateXabs": Operation(_affine(c=1), 0, 100, signed=True),
    "TranslateYabs": Operation(_affine(f=1), 0, 100, signed=True),
}


def apply_operation(image: Image.Image, name: str, strength: float = STRENGTH, sign: int = 1) -> Image.Image:
    """Apply one operation at a magnitude; `sign` (+1 or -1) counts where the operation has two senses."""
    operation = OPERATIONS[name]
    value = operation.value(strength)
    return operation.apply(image, sign * value if operation.signed else value)


class DrawnOperations:
    """METER's RandAugment: two of the 14 operations, drawn evenly, one after the other at magnitude 9.

    Not torchvision's, which has other operations and values.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the changed image; draws from torch's global generator."""
        names = tuple(OPERATIONS)
        for position, sense in zip(
            torch.randint(len(names), (DRAWN,)).tolist(), torch.rand(DRAWN).tolist(), strict=True
        ):
            image = apply_operation(image, names[position], sign=1 if sense < 0.5 else -1)
        return image


class LimitedResize(v2.Transform):
    """PixelBERT's resize: the shorter side to `shorter`, the longer one to 5/3 of it at most, both cut to a multiple
    of 32 (and kept from vanishing, where the program fails). Bicubic; boxes pass."""

    def __init__(self, shorter: int) -> None:
        super().__init__()
        self.shorter, self.longer = shorter, int(1333 / 800 * shorter)

    def make_params(self, flat_inputs: list[object]) -> Params:
        sides = v2.functional.get_size(flat_inputs[0])
        scale = self.shorter / min(sides)
        scale = min(scale, self.longer / max(sides))
        return {"size": [max(int(side * scale + 0.5) // 32, 1) * 32 for side in sides]}

    def transform(self, inpt: Image.Image, params: Params) -> Image.Image:
        return self._call_kernel(
            v2.functional.resize, inpt, params["size"], interpolation=InterpolationMode.BICUBIC, antialias=True
        )


def language_transform(name: str, image_size: int) -> v2.Compose:
    """A pipeline by its name (`PIPELINES`): shorter side to `image_size`, bicubic, centre crop, normalisation.

    `pixelbert` keeps the whole image instead. In training nothing but RandAugment is drawn: no flip, no random crop.
    """
    basic = name.removesuffix(RANDAUGMENT)
    steps: list[Transform] = [DrawnOperations()] if basic != name else []
    if basic == "pixelbert":
        steps.append(LimitedResize(image_size))
    else:
        steps.append(ShortSideResize(image_size, InterpolationMode.BICUBIC))
        steps.append(v2.CenterCrop(image_size))
    return v2.Compose([*steps, ToNormalizedTensor(*STATISTICS[basic])])
