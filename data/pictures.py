"""Reading one picture from disk, the same way everywhere: RGB, as stored, with the path in every error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PIL import Image

from attnbias.data.errors import DataError

Decode = Literal["exact", "fast"]
"""What pipelines get: PIL pictures, as in the papers' programs, or uint8 tensors (data/fast_decode.py)."""


def read_picture(path: Path, at_least: int | None = None) -> Image.Image:
    """Decode a picture to RGB, as its pixels are stored.

    Grey, palette and CMYK pictures are converted; alpha is dropped without blending, as the papers' programs do;
    16-bit grey keeps its upper byte. The EXIF orientation is NOT applied: none of the papers' programs applies it, and
    the boxes of COCO and VOC are given in stored pixels.

    Args:
        at_least: decode JPEG files at 1/2, 1/4 or 1/8 of their size where no side falls below so many pixels.

    Raises:
        DataError: the file is missing, truncated, no picture, or one of so many pixels that it must be an attack.
    """
    try:
        with Image.open(path) as picture:
            if at_least is not None:
                picture.draft("RGB", (at_least, at_least))
            picture.load()
            if picture.mode.startswith("I"):  # Pillow would clip 16-bit values to 255
                return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
            if picture.mode == "P" and "transparency" in picture.info:
                return picture.convert("RGBA").convert("RGB")
            return picture.convert("RGB")
    except FileNotFoundError:
        raise DataError(
            f"picture {path} is missing; run: attnbias prepare-data again with the folder it is in"
        ) from None
    except MemoryError:
        raise  # the machine's fault, not the picture's
    except Exception as error:  # damaged files make Pillow's decoders raise nearly any type
        raise DataError(f"picture {path} cannot be read ({_reason(error, path)})") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as stored, from its header alone.

    Raises:
        DataError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"picture {path} cannot be read ({_reason(error, path)})") from None


def _reason(error: Exception, path: Path) -> str:
    """Pillow's message without the path that our own message names already."""
    return str(error).replace(repr(str(path)), "the file") or type(error).__name__
