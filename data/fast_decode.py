"""`--decode fast`: images as uint8 tensors, which torchvision resizes, and far too large JPEG files at half their size.

Files are decoded by simplejpeg (the extra `fast`), to the very pixels of Pillow, which decodes what simplejpeg is not
for: other formats, CMYK, damaged files, images that are to be turned. So what is installed decides the time, never the
pixels. Resized pixels are a level off at most, 0.05 on average; those of files decoded at 1/2, 1/4 or 1/8, 0.7 on
average and up to 64 at sharp coloured edges. `make bench` has the times (tests/benchmarks/results/speed.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from attnbias.data.images import read_header, read_image
from attnbias.data.index import Orientation
from attnbias.data.members import content_of
from attnbias.data.transforms.basic import Transform

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

JPEG = b"\xff\xd8\xff"


def read_pixels(path: Path, orientation: Orientation = "stored", at_least: int | None = None) -> Tensor:
    """What `read_image` gives, as uint8 (3, H, W) whose channels lie side by side; arguments and errors as there."""
    upright = orientation == "stored" or read_header(path).orientation == 1
    pixels = _decoded(path, at_least) if upright and simplejpeg is not None else None
    if pixels is None:
        return pil_to_tensor(read_image(path, orientation, at_least))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decoded(path: Path, at_least: int | None) -> NDArray[np.uint8] | None:
    """The pixels (H, W, 3) of a JPEG file; None of any other, which Pillow reads or says what is wrong with it."""
    try:
        content = content_of(path) or path.read_bytes()
        if not content.startswith(JPEG):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours in ("CMYK", "YCCK") or height * width > 2 * (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        # As Pillow chooses; simplejpeg by itself would also decode at 3/8, which is slower than 1/2.
        share = next((s for s in (8, 4, 2) if at_least and min(height, width) // at_least >= s), 1)
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=-(-height // share),
            min_width=-(-width // share),
        )
    except (OSError, ValueError):
        return None
    return pixels


def takes_images(transform: Transform) -> bool:
    """Whether a pipeline is better off with PIL images: colour jitter is slower on tensors, and three levels off."""
    return any(isinstance(step, v2.ColorJitter) for step in _steps(transform))


def pil_step(transform: Transform) -> str | None:
    """Name of a pipeline's first step that needs PIL images: any but torchvision's second version and ours on it."""
    return next((type(step).__name__ for step in _steps(transform) if not isinstance(step, v2.Transform)), None)


def enough_pixels(transform: Transform) -> int | None:
    """Pixels a side that are enough for a pipeline: twice what it resizes to, even from its smallest random crop.

    None where a step before its resize counts pixels (crops, borders), or nothing is resized.
    """
    for step in _steps(transform):
        if isinstance(step, v2.Resize | v2.RandomResizedCrop):
            smallest = step.scale[0] ** 0.5 if isinstance(step, v2.RandomResizedCrop) else 1  # of a side
            return round(2 * max(step.size) / smallest)
        if not isinstance(step, v2.RandomHorizontalFlip | v2.ColorJitter):
            return None
    return None


def _steps(transform: Transform) -> Iterator[object]:
    """The steps of a pipeline, and of the pipelines in it."""
    if isinstance(transform, v2.Compose | transforms.Compose):
        for step in transform.transforms:
            yield from _steps(step)
    else:
        yield transform
