"""Reading one image from disk, the same way everywhere: RGB, stored or upright, with the path in every error."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from attnbias.data.errors import DataError
from attnbias.data.index import Orientation
from attnbias.data.members import opened

# Pillow warns of images from 90 megapixels on, and refuses those from 180 on, which is said as any error is.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # it then tells no orientation

Decode = Literal["exact", "fast"]
"""What pipelines get: PIL images, as in the papers' programs, or uint8 tensors (data/fast_decode.py)."""

Turn = Image.Transpose
UPRIGHT = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""EXIF orientation -> what makes the stored pixels upright; from 5 on, width and height change places."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's names of the formats that are decoded of what came over a network."""

BYTE, SHORT = 255, 65_535


class Header(NamedTuple):
    """What a file tells of its image without decoding it."""

    stored: tuple[int, int]
    """Width and height of the pixels as stored."""
    orientation: int
    """EXIF orientation: 1 where the pixels are upright as stored."""
    animated: bool
    """It holds several frames, of which the first is read."""
    format: str
    """JPEG, PNG ..."""
    camera: str
    """Model of the camera by its EXIF; empty where it tells none."""

    def size(self, orientation: Orientation) -> tuple[int, int]:
        """Width and height of what `read_image` gives."""
        width, height = self.stored
        return (height, width) if orientation == "upright" and self.orientation >= 5 else (width, height)


def read_image(path: Path, orientation: Orientation = "stored", at_least: int | None = None) -> Image.Image:
    """Decode an image to RGB.

    Grey, palette and CMYK images are converted; alpha is dropped without blending, as the papers' programs do;
    16-bit grey keeps its upper byte; see `_as_bytes` for floating point and 32 bits. Of several frames the first is
    read.

    Args:
        orientation: the rule of the image's dataset (`Index.orientation`): "stored" as the pixels lie in the file,
            which is what the papers' programs see and what the boxes of COCO and VOC are given in, or "upright" as its
            EXIF orientation says. (Pillow turns TIFF files by itself, so these are always upright.)
        at_least: decode JPEG files at 1/2, 1/4 or 1/8 of their size where no side falls below so many pixels.

    Raises:
        DataError: the file is missing, truncated, no image, or one of so many pixels that it must be an attack.
    """
    try:
        with Image.open(opened(path)) as image:
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            return upright_rgb(image, orientation)
    except FileNotFoundError:
        raise DataError(f"image {path} is missing; run: attnbias prepare-data again with the folder it is in") from None
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as error:  # damaged files make Pillow's decoders raise nearly any type
        raise DataError(f"image {path} cannot be read ({_reason(error, path)})") from None


def decode_image(content: bytes, name: str, mode: Literal["RGB", "RGBA"] = "RGB") -> Image.Image:
    """Decode the bytes of an image file from elsewhere, as `read_image` does an upright one; RGBA keeps its alpha.

    Only formats of `FORMATS`: Pillow would start other programs for some (EPS), and has rarely used decoders.

    Raises:
        DataError: it is not such an image, truncated, or of too many pixels; `name` is what it is called there.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return upright_rgb(image) if mode == "RGB" else image.convert(mode)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name} is not an image; expected one of: {', '.join(FORMATS)}") from None
    except Exception as error:  # damaged files make Pillow's decoders raise nearly any type
        raise DataError(f"{name} cannot be read ({error or type(error).__name__})") from None


def upright_rgb(image: Image.Image, orientation: Orientation = "upright") -> Image.Image:
    """An opened image as `read_image` gives it; Pillow's decoders raise nearly any type where it is damaged."""
    image.load()
    upright = turned(image, orientation)
    if upright.mode.startswith(("I", "F")):
        return Image.fromarray(_as_bytes(upright)).convert("RGB")
    if upright.mode == "P" and "transparency" in upright.info:
        return upright.convert("RGBA").convert("RGB")
    if upright.mode == "RGB":
        return upright._new(upright.im)  # what `copy` makes, on the same pixels: the file's image is not used again
    return upright.convert("RGB")


def turned(image: Image.Image, orientation: Orientation) -> Image.Image:
    """A loaded image, turned as its EXIF orientation says where its set is read so."""
    turn = UPRIGHT.get(_orientation(image)) if orientation == "upright" else None
    return image if turn is None else image.transpose(turn)


def read_header(path: Path) -> Header:
    """Read size, EXIF orientation and number of frames of an image, without decoding its pixels.

    Raises:
        DataError: the file is missing or no image.
    """
    try:
        file = opened(path)
        with Image.open(file) as image:
            if image.format == "PNG" and _metadata_after_pixels(file):
                image.load()
            animated = getattr(image, "is_animated", False)
            return Header(image.size, _orientation(image), animated, image.format or "", _camera(image))
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"image {path} cannot be read ({_reason(error, path)})") from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 (upright) where it has none, or none that makes sense."""
    if image.format == "TIFF":
        return 1  # Pillow has turned it, and its size too
    try:
        # Of the base class: a PNG's own would decode its pixels, in search of metadata behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly any type, and hides no pixel
        return 1
    return int(value) if value in UPRIGHT else 1


def _camera(image: Image.Image) -> str:
    """Model of the camera of an opened image by its EXIF, or nothing."""
    try:
        return str(Image.Image.getexif(image).get(ExifTags.Base.Model, "")).strip("\0 ")
    except Exception:  # damaged EXIF
        return ""


def _metadata_after_pixels(png: Path | io.BytesIO) -> bool:
    """Whether a PNG file has EXIF or text behind its pixels, where Pillow sees it only when these are decoded."""
    seen_pixels = False
    with io.BytesIO(png.getvalue()) if isinstance(png, io.BytesIO) else png.open("rb") as file:
        file.seek(8)
        while len(chunk := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", chunk)
            if seen_pixels and name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            seen_pixels |= name == b"IDAT"
            file.seek(length + 4, 1)
    return False


def _as_bytes(image: Image.Image) -> NDArray[np.uint8]:
    """Levels 0..255 of a grey image of 16 or 32 bits or of floating point, (H, W) uint8; Pillow would clip them.

    16 bits keep their upper byte. The others do not say what white is, so their values do: floating point within 0..1
    is scaled, within 0..255 taken as it is; 32 bits within 0..255 are taken as they are, within 0..65535 by their
    upper byte.

    Raises:
        ValueError: values beyond these ranges, or not finite.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    floating = image.mode == "F"
    if not (low >= 0 and high <= (BYTE if floating else SHORT)):  # NaN is neither
        expected = f"0..1 or 0..{BYTE}" if floating else f"0..{BYTE} or 0..{SHORT}"
        raise ValueError(f"its values go from {low:g} to {high:g}, expected {expected}; save it with 8 bits")
    if floating:
        values = np.rint(values * (BYTE if high <= 1 else 1))
    elif image.mode != "I" or high > BYTE:
        values = values // 256
    return values.astype(np.uint8)


def _reason(error: Exception, path: Path) -> str:
    """Pillow's message without the path that our own message names already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (
        str(error).replace(f"image file {str(path)!r}", "it as an image").replace(repr(str(path)), "the file")
        or type(error).__name__
    )
