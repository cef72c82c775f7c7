"""Images as a Python caller has them: files and folders, PIL images, arrays, tensors, and lists of these.

All are read alike: RGB, upright as their EXIF orientation says, 8 bits a channel. What is made of them next (size,
crop, normalisation) is the recipe's evaluation pipeline, as for files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnbias.data.errors import DataError
from attnbias.data.images import read_image, upright_rgb
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.own_images import find_images

OneImage = str | os.PathLike[str] | Image.Image | NDArray[np.generic] | Tensor
"""A file (or a folder of them); a PIL image; an array (H, W), (H, W, 3) or (H, W, 4); a tensor (3, H, W), (1, H, W),
(4, H, W) or (H, W). Arrays and tensors hold RGB as uint8, or as floats within 0..1, before any normalisation."""
SeveralImages = list[Any] | tuple[OneImage, ...]
"""Some of them."""
Images = OneImage | SeveralImages
"""One of them, or several: also an array (B, H, W, 3), a tensor (B, 3, H, W)."""


class GivenImage(NamedTuple):
    """An image with a name to show: where it lies, or itself."""

    name: str
    source: Path | Image.Image
    """An image in memory is RGB and upright."""

    def read(self) -> Image.Image:
        """The image, RGB and upright.

        Raises:
            DataError: the file is missing or damaged.
        """
        return read_image(self.source, "upright") if isinstance(self.source, Path) else self.source


def is_one(images: Images) -> bool:
    """Whether a caller gave one image, and not a list, a batch or a folder."""
    if isinstance(images, str | os.PathLike):
        return not Path(images).is_dir()
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return not isinstance(images, list | tuple)


def given_images(images: Images) -> list[GivenImage]:
    """All of them in order, each file of a folder with its path.

    Raises:
        UsageError: something is not an image, a path does not exist, or there is none.
        DataError: an image in memory cannot be decoded.
    """
    found = list(_each(images))
    if not found:
        raise UsageError(
            "no image was given; give a file, a folder, a PIL image, an array, a tensor, or a list of them"
        )
    return found


def _each(images: Images) -> Iterator[GivenImage]:
    several = [images] if isinstance(images, str | os.PathLike | Image.Image) or is_one(images) else list(images)
    for position, image in enumerate(several):
        name = f"image {position}" if len(several) > 1 else "image"
        if isinstance(image, str | os.PathLike):
            yield from (GivenImage(str(path), path) for _, path in find_images([Path(image)]).images)
        elif isinstance(image, Image.Image):
            yield GivenImage(str(getattr(image, "filename", "") or name), _upright(image, name))
        elif isinstance(image, np.ndarray | Tensor):
            yield GivenImage(name, Image.fromarray(_pixels(image, name)))
        else:
            raise UsageError(
                f"{name} is of type {type(image).__name__}; expected a path, a PIL image, a NumPy array or a tensor"
            )


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly any type
        raise DataError(f"{name} cannot be read ({error or type(error).__name__})") from None


def _pixels(image: NDArray[np.generic] | Tensor, name: str) -> NDArray[np.uint8]:
    """RGB levels (H, W, 3) of an array or a tensor.

    Raises:
        UsageError: it has another shape or type, or floats outside of 0..1.
    """
    shape, kind = tuple(image.shape), "a tensor" if isinstance(image, Tensor) else "an array"
    if isinstance(image, Tensor):
        plain = image.detach().cpu()
        plain = plain.float() if plain.is_floating_point() else plain  # NumPy has no bfloat16
        values: NDArray[np.generic] = plain.numpy()
    else:
        values = image
    if values.ndim == 3 and isinstance(image, Tensor):
        values = values.transpose(1, 2, 0)
    elif values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        forms = "(3, H, W), (1, H, W) or (H, W)" if isinstance(image, Tensor) else "(H, W, 3), (H, W, 4) or (H, W)"
        raise UsageError(f"{name} is {kind} of shape {shape}; expected {forms}, channels as RGB")
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise UsageError(
                f"{name} holds floats from {low:g} to {high:g}; expected 0..1, before any normalisation, or uint8"
            )
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UsageError(f"{name} is {kind} of {values.dtype}; expected uint8, or floats within 0..1")
    return np.ascontiguousarray(np.broadcast_to(values[..., :3], (*values.shape[:2], 3)))
