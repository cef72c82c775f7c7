"""Drawing one attention map over one image, with NumPy and Pillow alone: colour tables, blending, contour, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attnbias.data.transforms.opencv import Pixels, resize_image

Floats = NDArray[np.float32]

FOCUS = 0.5
"""Where the contour runs: the focus threshold of the attention-bias measures."""

LUMA = np.array([0.213, 0.715, 0.072], dtype=np.float32)
"""Weights of red, green and blue in CSS's `saturate`."""


class DrawnBox(NamedTuple):
    """A box to draw: corners in pixels of the image, and the words on its tab (may be empty)."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


# Colour tables --------------------------------------------------------------------------------------------------------


def jet() -> Pixels:
    """OpenCV's COLORMAP_JET as RGB (256, 3), from its piecewise-linear definition (matplotlib has another jet)."""
    level = 4 * np.arange(256)[:, None]
    rise, fall = 255 * np.array([1.5, 0.5, -0.5]), 255 * np.array([4.5, 3.5, 2.5])
    return np.rint(np.minimum(level - rise, fall - level).clip(0, 255)).astype(np.uint8)  # halves go to the even level


def inferno() -> Pixels:
    """A dark-to-bright table as RGB (256, 3), even in lightness and fit for colour-blind readers.

    Interpolated between seventeen colours of matplotlib's `inferno` (van der Walt and Smith, CC0).
    """
    anchors = (
        "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 "
        "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
    )
    colours = np.array([list(bytes.fromhex(colour)) for colour in anchors.split()])
    steps = np.linspace(0, len(colours) - 1, 256)
    channels = [np.interp(steps, np.arange(len(colours)), channel) for channel in colours.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


COLOUR_TABLES = {"inferno": inferno, "jet": jet}


SMALLEST = 224
"""Overlays of smaller images are enlarged to this shorter side, so that boxes and labels can be read."""

# Resampling -----------------------------------------------------------------------------------------------------------


def resize_bilinear(array: NDArray[np.generic], size: tuple[int, int]) -> Floats:
    """Resize (H, W) to size = (height, width), bilinear with half-pixel centres, no antialiasing.

    The rule of OpenCV's INTER_LINEAR and of torch's `interpolate` with align_corners=False.
    """
    top, bottom, down = _neighbours(array.shape[0], size[0])
    left, right, across = _neighbours(array.shape[1], size[1])
    values = array.astype(np.float32)
    values = values[:, left] * (1 - across) + values[:, right] * across
    return values[top] * (1 - down[:, None]) + values[bottom] * down[:, None]


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For each new sample: the old ones before and after it, and the share of the latter."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    before = np.floor(centre)
    first, second = (np.clip(before + step, 0, old - 1).astype(np.int64) for step in (0, 1))
    return first, second, (centre - before).astype(np.float32)


# The published drawing ------------------------------------------------------------------------------------------------


class PublishedOverlay(NamedTuple):
    """The three stages of the published drawing, each (height, width) or (height, width, 3) in RGB."""

    mask: Floats
    image: Floats
    overlay: Pixels


def published_overlay(image: Pixels, class_map: Floats, size: tuple[int, int]) -> PublishedOverlay:
    """Draw a class map the way CSRA's program does (utils/visualize.py).

    `image` is RGB (H, W, 3), `class_map` (h, w). The map is divided by its maximum, both are resized to `size`
    = (height, width), the map is coloured with JET, added to the image, and the sum divided by its maximum.
    Deviation: negative map values are drawn as 0 and a map without positive values as blank, where the program's
    conversion to 8 bits wraps around to wrong colours.
    """
    peak = class_map.max()
    mask = resize_bilinear(class_map / peak if peak > 0 else np.zeros_like(class_map), size)
    photo = resize_image(image, size).astype(np.float32) / np.float32(255)
    levels = (255 * mask.clip(0, 1)).astype(np.uint8)  # truncated, as by the program's uint8()
    total = jet()[levels] / np.float32(255) + photo
    return PublishedOverlay(mask, photo, (255 * (total / total.max())).astype(np.uint8))


# Our drawing ----------------------------------------------------------------------------------------------------------


def draw(
    image: Image.Image,
    heat: Floats,
    *,
    frame: tuple[float, float, float, float] | None = None,
    opacity: float = 0.7,
    colours: str = "inferno",
    contour: bool = False,
    boxes: Sequence[DrawnBox] = (),
) -> Image.Image:
    """Blend a normalised map (h, w) in [0, 1] over an image whose own colours fade as `opacity` grows.

    `frame` is the part of the image that the network saw, (x, y, width, height) in pixels, None = all of it; the
    rest is dimmed. The map weighs `opacity` times its value at each pixel. `contour` rings the focus, values of at
    least 0.5. The gallery page draws the same.
    """
    photo = np.array(image.convert("RGB"), dtype=np.float32)
    height, width = photo.shape[:2]
    photo += opacity * ((photo @ LUMA)[..., None] - photo)
    x, y, w, h = frame or (0.0, 0.0, float(width), float(height))
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = min(round(x + w), width), min(round(y + h), height)

    seen = photo[top:bottom, left:right]
    values = resize_bilinear(heat, (round(y + h) - round(y), round(x + w) - round(x)))
    values = values[top - round(y) :, left - round(x) :][: seen.shape[0], : seen.shape[1]].clip(0, 1)
    colour = COLOUR_TABLES[colours]()[np.rint(255 * values).astype(np.uint8)]
    weight = opacity * values[..., None]
    result = photo * 0.45
    result[top:bottom, left:right] = seen * (1 - weight) + colour * weight
    if contour:
        result[top:bottom, left:right][focus_edge(values)] = 255
    drawn = Image.fromarray(np.rint(result).astype(np.uint8))
    draw_boxes(drawn, boxes)
    return drawn


def enlarged(image: Image.Image) -> Image.Image:
    """The image in the size that it is drawn in: small ones are enlarged."""
    scale = max(1.0, SMALLEST / min(image.size))
    width, height = (round(scale * side) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC) if scale > 1 else image


def corners(shares: tuple[float, ...], image: Image.Image) -> tuple[float, float, float, float]:
    """Shares (x, y, width, height) of an image -> corners x1, y1, x2, y2 in its pixels."""
    x, y, w, h = shares
    return x * image.width, y * image.height, (x + w) * image.width, (y + h) * image.height


def seen_part(frame: tuple[float, float, float, float], image: Image.Image) -> tuple[float, float, float, float]:
    """The part of an image that a network saw, as shares (x, y, width, height), in its pixels: what `draw` takes."""
    x, y, right, bottom = corners(frame, image)
    return x, y, right - x, bottom - y


def focus_edge(values: Floats) -> NDArray[np.bool_]:
    """Mark the pixels inside the focus {values >= FOCUS} that touch its outside."""
    focus = np.pad(values >= FOCUS, 1, mode="edge")
    inner = focus[:-2, 1:-1] & focus[2:, 1:-1] & focus[1:-1, :-2] & focus[1:-1, 2:]
    return focus[1:-1, 1:-1] & ~inner


def draw_boxes(image: Image.Image, boxes: Sequence[DrawnBox]) -> None:
    """Draw boxes with their labels on an image, in place; a dark rim keeps them visible on bright ground."""
    pen = ImageDraw.Draw(image)
    side = min(image.size)
    line = max(1, round(side / 200))
    font = ImageFont.load_default(max(10, side / 28))
    for box in boxes:
        pen.rectangle(box[:4], outline=(20, 20, 20), width=line + 2)
        pen.rectangle((box.x1 + 1, box.y1 + 1, box.x2 - 1, box.y2 - 1), outline="white", width=line)
        if box.label:
            *_, right, bottom = pen.textbbox((0, 0), box.label, font=font)
            y = max(box.y1 - (bottom + 4), 0)
            pen.rectangle((box.x1, y, box.x1 + right + 8, y + bottom + 4), fill=(20, 20, 20))
            pen.text((box.x1 + 4, y + 1), box.label, font=font, fill="white")
