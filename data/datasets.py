"""An index as training and evaluation samples: label policies, reproducible augmentation, boxes on request."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info
from torchvision.transforms.v2.functional import pil_to_tensor

from attnbias.data.archived import read_archive
from attnbias.data.errors import DataError
from attnbias.data.fast_decode import enough_pixels, read_pixels, takes_images
from attnbias.data.flat import FlatTexts
from attnbias.data.images import Decode, read_image
from attnbias.data.index import Index, Record
from attnbias.data.members import check_archives
from attnbias.data.transforms.basic import ToNormalizedTensor, Transform, last_normalization, without_normalization


class SampleKey(NamedTuple):
    """What a sampler asks for: which sample, and in which epoch (which decides its augmentation)."""

    sample: int
    epoch: int = 0


Sample = dict[str, Any]
"""What a dataset gives of an image, and its batches hold of many: see `Batch` in methods/engine/types.py."""


class Policies(TypedDict, total=False):
    """How a dataset treats its samples, by the names of ImageDataset's arguments."""

    seed: int
    drop_unlabelled: bool
    unknown: Literal["negative", "ignore"]
    on_bad_image: Literal["error", "skip"]
    decode: Decode


class ImageDataset(Dataset[Sample]):
    """The samples of one split, in the order of its index.

    `dataset[SampleKey(sample, epoch)]` (or `dataset[index]`, epoch 0) gives {"image": whatever the transform returns,
    "target": (C,) float32 with -1 = ignore in multi-label work, () int64 in single-label work, "index": int}. The same
    key gives the same sample in any worker and any process: the transform draws from generators seeded by (seed, epoch,
    index), and the surrounding generators are left as they were.

    With `on_bad_image="skip"` an image that cannot be read gives {"index": int, "error": str} instead; `collate`
    leaves it out of the batch and reports it. Nothing is put in its place.

    Args:
        index: the split as `prepare-data` wrote it.
        transform: PIL image (RGB), or uint8 tensor (3, H, W) with fast decoding -> tensor (3, H, W).
        seed: decides the augmentation, together with epoch and index.
        drop_unlabelled: leave out samples without any positive label.
        unknown: unknown labels (-1 in the index) stay -1 = ignore, or become negative.
        on_bad_image: raise DataError naming the path, or skip.
        decode: what the transform gets: exact = the PIL image, as in the papers' programs; fast = a uint8 tensor
            (the image where colours are jittered), of fewer pixels where the file has far more than are asked for
            (data/fast_decode.py). `image` is always exact.
    """

    def __init__(
        self,
        index: Index,
        transform: Transform,
        *,
        seed: int = 0,
        drop_unlabelled: bool = False,
        unknown: Literal["negative", "ignore"] = "ignore",
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> None:
        self.index = index
        self.archived = index.root.is_file()
        """Whether the images are read out of an archive, into memory."""
        if self.archived:
            read_archive(index.root, index.split)  # before workers are started, which then share it
        check_archives(index.root)
        self.transform = transform
        self._left_out: ToNormalizedTensor | None = None
        self.kept: Dataset[Sample] | None = None
        """What a loader reads in this one's place: the same samples as bytes, kept in a file."""
        self.seed = seed
        self.in_memory: Mapping[str, Image.Image] = {}
        """Images that are no files, RGB and upright, by their paths from the index's root on."""
        self.on_bad_image = on_bad_image
        self.decode = decode
        targets = np.array([record.target for record in index.records], dtype=np.int64)  # (N, C) or (N,)
        records: Sequence[Record] = index.records
        if index.task == "multilabel":
            targets = targets.reshape(len(index.records), len(index.classes))
            if drop_unlabelled:
                kept = np.flatnonzero((targets == 1).any(axis=1))
                if not kept.size:
                    raise DataError(
                        f"no sample of {index.dataset}/{index.split} has a positive label, and the recipe leaves out "
                        "those without; keep them with --no-drop-unlabelled"
                    )
                targets = targets[kept]
                records = [index.records[i] for i in kept]
            if unknown == "negative":
                targets = np.maximum(targets, 0)
        self._keep(records)
        self.targets: NDArray[np.int64] = targets
        """All targets after the policies: (N, C) in {1, 0, -1} or (N,) class numbers."""

    def _keep(self, records: Sequence[Record]) -> None:
        """Take these records as the samples; what reading an image needs of them lies where workers can share it."""
        self.records = records
        self.paths = FlatTexts(record.path for record in records)  # each from the index's root on
        self._cropped = any(record.crop is not None for record in records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        try:
            original = self.image(index) if self.decode == "exact" else self._fast(index)
        except DataError as error:
            if self.on_bad_image == "error":
                raise
            return {"index": index, "error": str(error)}
        with seeded(self.seed, epoch, index):
            image = self.transform(original)
        return {"image": image, "target": self.target(index), "index": index}

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> Sequence[Sample] | Sample:
        """The samples of a batch, for a loader: generators are kept and restored once, which takes 0.3 ms."""
        with generators_kept():
            return [self[key] for key in keys]

    @property
    def normalization(self) -> ToNormalizedTensor | None:
        """The pipeline's last step where that one normalises, also in the copy that leaves it out."""
        return self._left_out or last_normalization(self.transform)

    def as_bytes(self) -> Dataset[Sample]:
        """The same samples for a loader, without the last step of their pipeline where that one normalises.

        Their images are uint8, a quarter of what would go through a worker's pipe and to the device, where
        `normalization` follows.
        """
        if self.kept is not None:
            return self.kept
        normalization = last_normalization(self.transform)
        if normalization is None:
            return self
        shorter = copy.copy(self)
        shorter.transform, shorter._left_out = without_normalization(self.transform), normalization
        return shorter

    def collate(self, samples: Sequence[Sample] | Sample) -> Sample:
        """Make a batch of samples; a loader's collate function."""
        return collate(samples)

    def file(self, index: int) -> Path:
        """The file of one sample's image; of a set in an archive it is not a file."""
        return self.index.root / self.paths[index]

    def crop(self, index: int) -> tuple[float, float, float, float] | None:
        """The part of the image that the sample is (x, y, w, h), or None."""
        return self.records[index].crop if self._cropped else None

    def target(self, index: int) -> Tensor:
        """Label of one sample after the policies: (C,) float32 or () int64."""
        target = torch.as_tensor(self.targets[index])
        return target.float() if self.index.task == "multilabel" else target

    def image(self, index: int) -> Image.Image:
        """Decode one sample: the RGB image, or its crop where the sample is a part (one person of WIDER-Attribute).

        The crop is Pillow's: float corners are rounded, and what lies outside the image is black (CSRA, section 4.4
        of its description; golden prep_wider).
        """
        if self.in_memory and (image := self.in_memory.get(self.paths[index])) is not None:
            return image
        if self.archived:
            return Image.fromarray(read_archive(self.index.root, self.index.split).pixels[int(self.paths[index])])
        image = read_image(self.file(index), self.index.orientation)
        if (crop := self.crop(index)) is not None:
            x, y, w, h = crop
            image = image.crop((x, y, x + w, y + h))
        return image

    def _fast(self, index: int) -> Tensor | Image.Image:
        """`image(index)` as uint8 (3, H, W), or the whole image of fewer pixels where more would be of no use."""
        if self.archived or self.crop(index) is not None:  # crops are given in pixels of the whole image
            image = self.image(index)
            return image if takes_images(self.transform) else pil_to_tensor(image)
        read = read_image if takes_images(self.transform) else read_pixels
        return read(self.file(index), self.index.orientation, enough_pixels(self.transform))

    def boxes(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4) float32 as x, y, w, h in pixels of `image(index)`, and their classes (K,) int64."""
        record = self.records[index]
        left, top = record.crop[:2] if record.crop is not None else (0.0, 0.0)
        boxes = [[box.x - left, box.y - top, box.w, box.h] for box in record.boxes]
        return torch.tensor(boxes).reshape(-1, 4), torch.tensor([box.label for box in record.boxes], dtype=torch.int64)


_kept: ContextVar[bool] = ContextVar("_kept", default=False)
"""Whether the generators are kept already."""


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave python's, NumPy's and torch's CPU generators as they were, whatever is drawn inside. In a loader's worker
    nothing else draws, and nothing is done."""
    if _kept.get() or get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    inside = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(inside)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed python's, NumPy's and torch's CPU generators by `key` inside; they are left as they were."""
    first, second, third = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    with generators_kept():
        random.seed(first)
        np.random.seed(second)
        torch.default_generator.manual_seed(third)
        yield


def begin_batch(samples: Sequence[Sample]) -> tuple[list[Sample], Sample]:
    """The samples that could be read, and a batch with their ids and the others' errors."""
    good = [sample for sample in samples if "error" not in sample]
    index = torch.tensor([sample["index"] for sample in good], dtype=torch.int64)
    return good, {"index": index, "errors": [sample["error"] for sample in samples if "error" in sample]}


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape, in a worker into the shared memory that they leave it in; images of bytes keep their
    channels side by side."""
    if tensors[0].dtype != torch.uint8:
        stacked: Tensor = default_collate(list(tensors))
        return stacked
    pixels: Tensor = default_collate([image.permute(1, 2, 0) for image in tensors])  # (B, H, W, 3)
    return pixels.permute(0, 3, 1, 2)


def collate(samples: Sequence[Sample] | Sample) -> Sample:
    """Stack samples into a batch: image (B, 3, H, W), target (B, C) or (B,), index (B,) int64, errors: list of str.

    Skipped images only appear in `errors`; a batch of nothing else has an empty `index` and neither image nor target.
    A whole batch, as InMemoryImages gives it, passes.
    """
    if isinstance(samples, dict):
        return samples
    good, batch = begin_batch(samples)
    if good:
        batch["image"] = stack([sample["image"] for sample in good])
        batch["target"] = stack([sample["target"] for sample in good])
    return batch
