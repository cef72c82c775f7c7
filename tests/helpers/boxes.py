"""Where a pipeline puts the boxes that are given beside an image."""

from __future__ import annotations

from torch import Tensor
from torchvision import tv_tensors

from attnbias.data.datasets import ImageDataset


def moved_together(dataset: ImageDataset, position: int) -> tuple[Tensor, Tensor]:
    """A sample's image, transformed, and its boxes (K, 4) as x, y, w, h in pixels of that."""
    original = dataset.image(position)
    boxes = tv_tensors.BoundingBoxes(
        dataset.boxes(position)[0], format="XYWH", canvas_size=(original.height, original.width)
    )
    image, moved = dataset.transform(original, boxes)
    return image, moved.as_subclass(Tensor)
