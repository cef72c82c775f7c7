"""The images of the page: what was opened, and what was made of it by painting; held in memory, a few of the last."""

from __future__ import annotations

import io
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from attnbias.data.images import decode_image
from attnbias.data.reading import Json
from attnbias.methods.engine.display.gallery import thumbnail
from attnbias.methods.engine.display.html_page import jpeg_address
from attnbias.methods.engine.errors import UsageError

HELD, HELD_PIXELS = 24, 300_000_000
"""The most images that are held, and their pixels together; the two last ones always are."""

SHOWN = 1024
"""Longest side, in pixels, of an image on the page, on which a person paints."""

PAINTED = 128
"""Opacity from which on a pixel of a mask counts as painted."""

Fill = Literal["mean", "black", "white", "blurred"]


@dataclass(frozen=True)
class HeldImage:
    """An image that a model can be asked about."""

    key: str
    image: Image.Image
    """RGB and upright, in its own size."""
    picture: Image.Image
    """As the page shows it."""
    covered: float | None = None
    """Share of its pixels that were painted over; None where nobody painted."""

    def content(self) -> Json:
        """What the page is told."""
        return {
            "key": self.key,
            "size": self.image.size,
            "width": self.picture.width,
            "height": self.picture.height,
            "picture": jpeg_address(self.picture),
            "covered": self.covered,
        }


class HeldImages:
    """The last images that were opened or painted, by a key that nobody can guess."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, HeldImage] = OrderedDict()
        self._lock = Lock()

    def add(self, image: Image.Image, covered: float | None = None) -> HeldImage:
        """Hold an image, and let go of the oldest ones that there is no more room for."""
        held = HeldImage(secrets.token_urlsafe(9), image, thumbnail(image, SHOWN), covered)
        with self._lock:
            self._images[held.key] = held
            while len(self._images) > 2 and (len(self._images) > HELD or self._pixels() > HELD_PIXELS):
                self._images.popitem(last=False)
        return held

    def __getitem__(self, key: str) -> HeldImage:
        """The image of a key, which is then held for longer.

        Raises:
            UsageError: it is not held any more.
        """
        with self._lock:
            if key not in self._images:
                raise UsageError("this image is not held any more; open it again")
            self._images.move_to_end(key)
            return self._images[key]

    def _pixels(self) -> int:
        return sum(held.image.width * held.image.height for held in self._images.values())


def paint_over(held: HeldImage, mask: bytes, fill: Fill) -> tuple[Image.Image, float]:
    """The image with what a mask covers filled, and the share that is: what models are asked about.

    Args:
        mask: an image file as large as `held.picture`, opaque where it is painted; each of its pixels stands for as
            many of the image as it is smaller.

    Raises:
        DataError: it is not an image. UsageError: it has another size.
    """
    drawn = decode_image(mask, "the painted mask", "RGBA").getchannel("A")
    if drawn.size != held.picture.size:
        raise UsageError(f"the painted mask is of {drawn.size} pixels, the image on the page of {held.picture.size}")
    covers = drawn.point([255 * (level >= PAINTED) for level in range(256)])
    covers = covers.resize(held.image.size, Image.Resampling.NEAREST)
    painted = Image.composite(FILLS[fill](held.image), held.image, covers)
    return painted, float(np.asarray(covers).mean() / 255)


def _of_one_colour(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    return Image.new("RGB", image.size, colour)


def _mean(image: Image.Image) -> Image.Image:
    return _of_one_colour(image, tuple(np.rint(np.asarray(image).mean((0, 1))).astype(int).tolist()))


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 16))


FILLS: dict[Fill, Callable[[Image.Image], Image.Image]] = {
    "mean": _mean,
    "black": lambda image: _of_one_colour(image, (0, 0, 0)),
    "white": lambda image: _of_one_colour(image, (255, 255, 255)),
    "blurred": _blurred,
}
"""What stands where something was painted over."""


def png(image: Image.Image) -> bytes:
    """The image as a file that any other command reads pixel by pixel."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
