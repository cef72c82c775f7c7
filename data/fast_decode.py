"""Which pipelines work on uint8 tensors, and how small an image is enough for them (`--decode fast`).

Fast decoding hands the pipeline a tensor in place of a PIL image, so that torchvision resizes it, and lets Pillow
decode JPEG files that are far too large at a part of their size (from the file to the tensor, on one core, `make bench`
has: COCO photographs 0.8 of the exact path's time, 12 megapixels 0.4). Resized pixels are a level off at most; those of
images decoded smaller 0.7 on average, and up to 64 at sharp coloured edges. torchvision's own JPEG decoder gives the
very pixels of Pillow's in 0.7 of its time, but is deprecated since 0.29 and is to be removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torchvision import transforms
from torchvision.transforms import v2

from attnbias.data.transforms.basic import Transform


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
