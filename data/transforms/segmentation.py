"""How AbSViT's segmentation prepares an image and its label map: mmsegmentation's pipelines.

Images are (H, W, 3) uint8 RGB arrays, label maps (H, W) uint8 with 255 = ignored. The published program resizes,
crops, flips, distorts, normalises and pads, in this order; here the crop and the flip are drawn first and only the
pixels inside them are ever resized, to the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnbias.data.label_maps import IGNORE
from attnbias.data.transforms.opencv import Pixels, from_hsv, rescaled, resize_image, resize_labels, to_hsv

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet's, per RGB channel, on pixels in [0, 255]."""


# Crop -----------------------------------------------------------------------------------------------------------------


def choose_crop(
    draw: Callable[[], tuple[int, int]],
    cut: Callable[[tuple[int, int]], Pixels],
    max_share: float = 0.75,
) -> tuple[tuple[int, int], int]:
    """Draw a crop's corner until no class fills it; return the corner and how many were drawn (golden crop_rule).

    A crop is taken where it shows more than one class and none covers `max_share` of its pixels, the ignored ones not
    counted. The eleventh is taken as it is.

    Args:
        draw: a new (top, left).
        cut: the labels inside the crop at (top, left).
        max_share: 1 takes the first crop as it is.
    """
    corner, drawn = draw(), 1
    while max_share < 1 and drawn < 11:
        counts = np.bincount(cut(corner).ravel(), minlength=256)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_share:
            break
        corner, drawn = draw(), drawn + 1
    return corner, drawn


# Colours --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distortion:
    """One draw of mmsegmentation's PhotoMetricDistortion; None leaves a step out. Every step truncates to uint8."""

    brightness: float | None = None
    """Added to every channel."""
    contrast: float | None = None
    """Multiplies every channel."""
    saturation: float | None = None
    """Multiplies S of HSV."""
    hue: int | None = None
    """Added to H of HSV, in double degrees modulo 180."""
    contrast_last: bool = False
    """Contrast after the colours instead of before them."""

    @classmethod
    def draw(cls) -> Distortion:
        """Draw every step, each with probability 0.5, from torch's global generator."""
        chosen = (torch.rand(5) < 0.5).tolist()
        values = torch.rand(3).tolist()
        return cls(
            brightness=values[0] * 64 - 32 if chosen[0] else None,
            contrast=values[1] + 0.5 if chosen[1] else None,
            saturation=values[2] + 0.5 if chosen[2] else None,
            hue=int(torch.randint(-18, 18, ())) if chosen[3] else None,
            contrast_last=chosen[4],
        )

    def steps(self, image: Pixels) -> Iterator[tuple[str, Pixels]]:
        """Yield the name of each step that is done and the image after it."""
        order = ["brightness", "contrast", "saturation", "hue"]
        if self.contrast_last:
            order.append(order.pop(1))
        for name in order:
            if getattr(self, name) is not None:
                image = getattr(self, f"_{name}")(image)
                yield name, image

    def __call__(self, image: Pixels) -> Pixels:
        """Distort an image (H, W, 3)."""
        for _, distorted in self.steps(image):
            image = distorted
        return image

    def _brightness(self, image: Pixels) -> Pixels:
        return _linear(1, self.brightness or 0)[image]

    def _contrast(self, image: Pixels) -> Pixels:
        return _linear(self.contrast or 0, 0)[image]

    def _saturation(self, image: Pixels) -> Pixels:
        hue, saturation, value = to_hsv(image)
        return from_hsv(hue, _linear(self.saturation or 0, 0)[saturation], value)

    def _hue(self, image: Pixels) -> Pixels:
        hue, saturation, value = to_hsv(image)
        return from_hsv((hue + (self.hue or 0)) % 180, saturation, value)


def _linear(factor: float, shift: float) -> Pixels:
    """Table of every level times a factor plus a shift, clipped and truncated."""
    levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift)
    return np.clip(levels, 0, 255).astype(np.uint8)


# Pipelines ------------------------------------------------------------------------------------------------------------


def normalized(image: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32: (x - mean) / std."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    return pixels.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def padded(image: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pad a normalised image (3, h, w) with 0, the mean colour, and its labels (h, w) with 255, below and right."""
    below, right = (max(side - now, 0) for side, now in zip(size, labels.shape, strict=True))
    pad = torch.nn.functional.pad
    return pad(image, (0, right, 0, below)), pad(labels, (0, right, 0, below), value=IGNORE)


@dataclass(frozen=True)
class Draw:
    """Everything random about one training sample."""

    size: tuple[int, int]
    """(height, width) that the image is resized to."""
    corner: tuple[int, int]
    """(top, left) of the crop in the resized image."""
    flip: bool
    distortion: Distortion


@dataclass(frozen=True)
class TrainTransform:
    """Image and label map -> image (3, *crop) float32 and labels (*crop) int64, augmented.

    Draws from torch's global generator.
    """

    scale: tuple[int, int] = (2048, 512)
    """What the longer and the shorter side may measure at ratio 1."""
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    """(height, width)."""
    max_share: float = 0.75
    """Share of a crop that one class may not reach."""
    flip: float = 0.5
    """Probability of mirroring."""
    distort: bool = True
    """Whether colours are distorted."""

    def __call__(self, image: Pixels, labels: Pixels) -> tuple[Tensor, Tensor]:
        return self.apply(image, labels, self.draw(labels))

    def draw(self, labels: Pixels) -> Draw:
        """Draw size, crop, flip and colours for one sample (its labels decide which crops are taken)."""
        low, high = self.ratio
        ratio = low + (high - low) * float(torch.rand(()))
        scale = int(self.scale[0] * ratio), int(self.scale[1] * ratio)
        height, width = size = rescaled((labels.shape[0], labels.shape[1]), scale)
        room = max(height - self.crop[0], 0), max(width - self.crop[1], 0)
        corner, _ = choose_crop(
            lambda: (int(torch.randint(room[0] + 1, ())), int(torch.randint(room[1] + 1, ()))),
            lambda corner: resize_labels(labels, size, *self.window(corner)),
            self.max_share,
        )
        return Draw(size, corner, bool(torch.rand(()) < self.flip), Distortion.draw() if self.distort else Distortion())

    def apply(self, image: Pixels, labels: Pixels, draw: Draw) -> tuple[Tensor, Tensor]:
        """Do what was drawn (goldens prep_train_*)."""
        window = self.window(draw.corner)
        pixels = draw.distortion(resize_image(image, draw.size, *window, draw.flip))
        target = torch.from_numpy(resize_labels(labels, draw.size, *window, draw.flip)).long()
        return padded(normalized(pixels), target, self.crop)

    def window(self, corner: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the resized image that a crop takes."""
        top, left = corner
        return slice(top, top + self.crop[0]), slice(left, left + self.crop[1])


@dataclass(frozen=True)
class EvalTransform:
    """Image -> resized image (3, h, w) float32, without padding; its labels stay as they are stored, as int64.

    Several ratios give a list of images, one a ratio.
    """

    scale: tuple[int, int] = (2048, 512)
    ratios: tuple[float, ...] = (1.0,)
    """The scale's multiples that the image is seen at."""

    def __call__(self, image: Pixels, labels: Pixels) -> tuple[Tensor | list[Tensor], Tensor]:
        images = self.images(image)
        return images if len(images) > 1 else images[0], torch.from_numpy(labels).long()

    def images(self, image: Pixels) -> list[Tensor]:
        """The network's inputs for an image alone (goldens prep_eval_*)."""
        size = image.shape[0], image.shape[1]
        scales = [(int(self.scale[0] * ratio), int(self.scale[1] * ratio)) for ratio in self.ratios]
        return [normalized(resize_image(image, rescaled(size, scale))) for scale in scales]
