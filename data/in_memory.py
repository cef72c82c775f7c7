"""A split of small images of one size, decoded once and kept as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from attnbias.data.datasets import ImageDataset, Policies, Sample, SampleKey
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.transforms.basic import Transform


class InMemoryImages(ImageDataset):
    """An ImageDataset that hands out whole batches of pixels; they are augmented and normalised on the device.

    `dataset.__getitems__(keys)`, which a DataLoader calls once a batch, gives the batch that `collate` would make of
    its samples, with "image" (B, 3, H, W) uint8 as decoded and "epoch" (B,) int64 beside it. Single samples
    are those of an ImageDataset.
    """

    def __init__(
        self, index: Index, transform: Transform, *, batched: Callable[..., Tensor], **policies: Unpack[Policies]
    ) -> None:
        super().__init__(index, transform, **policies)
        self.batched = batched
        """(pixels, sample ids, epochs) -> what `transform` makes of each, for a whole batch on any device."""
        self._pixels: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """All images, (N, 3, H, W) uint8, decoded when first asked for.

        Raises:
            DataError: images of different sizes, or one that cannot be read (a gap in a tensor cannot be skipped).
        """
        if self._pixels is None:
            width, height = self.image(0).size
            pixels = np.empty((len(self), height, width, 3), np.uint8)
            for index in range(len(self)):
                image = self.image(index)
                if image.size != (width, height):
                    raise DataError(
                        f"{self.index.root / self.records[index].path} is {image.width} x {image.height} pixels, "
                        f"expected {width} x {height} like the rest of {self.index.dataset}/{self.index.split}; "
                        "choose a pipeline that resizes, such as --pipeline square"
                    )
                pixels[index] = np.asarray(image)
            self._pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return self._pixels

    def as_bytes(self) -> InMemoryImages:
        """Itself: its batches are bytes."""
        return self

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> Sample:
        """A whole batch of samples, each as in its epoch."""
        pairs = [key if isinstance(key, tuple) else (key, 0) for key in keys]
        index, epoch = torch.tensor(pairs, dtype=torch.int64).unbind(1)
        targets = torch.from_numpy(self.targets[index.numpy()])
        return {
            "image": self.pixels[index],
            "target": targets.float() if self.index.task == "multilabel" else targets,
            "index": index,
            "epoch": epoch,
            "errors": [],
        }
