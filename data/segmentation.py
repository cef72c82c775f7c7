"""Images with label maps as training and evaluation samples: both go through one transform together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnbias.data.datasets import ImageDataset, Sample, SampleKey, begin_batch, seeded, stack
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.label_maps import check_size, open_label_map


class LabelMapDataset(ImageDataset):
    """The samples of a segmentation split, in the order of its index.

    `dataset[SampleKey(sample, epoch)]` gives {"image": (3, h, w) float32, "target": (h', w') int64 with 255 = ignored,
    "index": int}. In training h', w' are h, w; in evaluation the target is the label map as stored, whatever size the
    image was resized to, and the image a list of tensors where it is seen at several sizes. Keys, seeds and skipped
    images are an ImageDataset's; decoding is always exact.

    Args:
        index: a split whose records have label maps.
        transform: (image (H, W, 3) uint8, labels (H, W) uint8) -> (image, target), such as those of
            data/transforms/segmentation.py.
        seed: decides the augmentation, together with epoch and index.
        on_bad_image: raise DataError naming the path of an image or label map, or skip.
    """

    def __init__(
        self,
        index: Index,
        transform: Callable[[NDArray[np.uint8], NDArray[np.uint8]], tuple[Tensor | list[Tensor], Tensor]],
        *,
        seed: int = 0,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> None:
        if index.task != "segmentation":
            raise DataError(f"{index.dataset}/{index.split} is a {index.task} set; segmentation needs label maps")
        super().__init__(index, transform, seed=seed, on_bad_image=on_bad_image)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        try:
            original, labels = self.image(index), self.label_map(index)
            check_size(self.index, index, original.size, labels)
        except DataError as error:
            if self.on_bad_image == "error":
                raise
            return {"index": index, "error": str(error)}
        with seeded(self.seed, epoch, index):
            image, target = self.transform(np.asarray(original), labels)
        return {"image": image, "target": target, "index": index}

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """The class of each pixel of one sample as stored, (H, W) with 255 = ignored."""
        return open_label_map(self.index, index)

    def collate(self, samples: Sequence[Sample] | Sample) -> Sample:
        """Gather samples into a batch: image (B, 3, h, w), target (B, h', w'), index (B,), errors: list of str.

        Images, or targets, of different sizes (in evaluation) stay a list, one entry per sample. A batch in which every
        image was skipped has neither.
        """
        assert not isinstance(samples, dict)
        good, batch = begin_batch(samples)
        if good:
            batch |= {name: _stacked([sample[name] for sample in good]) for name in ("image", "target")}
        return batch


def _stacked(values: list[Tensor]) -> Tensor | list[Tensor]:
    """Tensors of one size as one; others as they are."""
    alike = all(isinstance(value, Tensor) and value.shape == values[0].shape for value in values)
    return stack(values) if alike else values
