"""From a split's index to batches on the device: what training and evaluation read, not what they do with it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.in_memory import InMemoryImages
from attnbias.methods.engine.types import Batch

S = TypeVar("S")

IMAGES: tuple[Literal["image", "image2", "false_image"], ...] = ("image", "image2", "false_image")
"""What of a batch is images, (B, 3, H, W)."""

LONGEST_WAIT = 600.0
"""Seconds that a step waits for its images before the run ends: a worker hangs, or a disk does."""


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, as far from each other as can be, the first and the last among
    them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


class EvaluationSampler(Sampler[list[int]]):
    """This rank's batches of an evaluation: batch k goes to rank k modulo processes, so that a batch holds the same
    samples whatever the number of processes."""

    def __init__(self, samples: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        starts = range(0, samples, batch_size)
        self.batches = [list(range(s, min(s + batch_size, samples))) for s in starts[rank::processes]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader(DataLoader[Any]):
    """A DataLoader that says one thing of a worker that ended, whichever way its end comes to be seen."""

    def __iter__(self) -> Any:
        """Start the workers: with all that there is out of sight of their collectors, which would write to it, and so
        make each worker a copy of what they share."""
        gc.freeze()
        try:
            return self._relayed(super().__iter__())
        finally:
            gc.unfreeze()

    def _relayed(self, read: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from read
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            # A worker that was killed is often seen first by the connection to it. What a worker itself met carries
            # its traceback.
            if not self.num_workers or "Original Traceback" in str(error):
                raise
            raise RuntimeError(f"DataLoader worker ended and left a batch unread ({type(error).__name__})") from error


def batches(
    dataset: ImageDataset, sampler: Sampler[Any] | Sequence[Any], *, workers: int, device: torch.device
) -> Loader:
    """The loader of a split; one in memory needs no worker processes. Its batches are to go through `on_device`."""
    workers = 0 if isinstance(dataset, InMemoryImages) else workers
    return loader(dataset.as_bytes(), sampler, dataset.collate, workers, pinned=device.type == "cuda")


def loader(
    dataset: Dataset[S],
    sampler: Sampler[list[int]] | Sequence[list[int]],
    collate: Callable[[list[S]], object],
    workers: int,
    *,
    pinned: bool = False,
) -> Loader:
    """What `collate` makes of the samples of each of the sampler's lists, read ahead where there are workers."""
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
        prefetch_factor=4 if workers else None,
        timeout=LONGEST_WAIT if workers else 0,
    )


class Readers(Dataset[S | DataError]):
    """Things to read, or why one cannot be: loader processes hand both on (`those_readable`)."""

    def __init__(self, readers: Sequence[Callable[[], S]]) -> None:
        self.readers = readers

    def __getitem__(self, position: int) -> S | DataError:
        try:
            return self.readers[position]()
        except DataError as error:
            return error

    def __len__(self) -> int:
        return len(self.readers)


def those_readable(
    read: Iterable[S | DataError], on_bad_image: Literal["error", "skip"], skipped: list[str]
) -> Iterator[S]:
    """What could be read; `skipped` gains why the others could not.

    Raises:
        DataError: one could not (with "error").
    """
    for each in read:
        if not isinstance(each, DataError):
            yield each
        elif on_bad_image == "error":
            raise each
        else:
            skipped.append(str(each))


def on_device(batch: Batch, dataset: ImageDataset, device: torch.device) -> Batch:
    """The batch moved; there images that came as bytes are normalised, those of a split in memory augmented too."""
    batch = moved(batch, device)
    if isinstance(dataset, InMemoryImages):
        ids = batch["index"].to(device, non_blocking=True)
        batch["image"] = dataset.batched(batch["image"], ids, batch.pop("epoch"))
    elif (normalization := dataset.normalization) is not None:
        for name in IMAGES:
            if name in batch and batch[name].dtype == torch.uint8:
                batch[name] = normalization.normalize(batch[name])
    return batch


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device; sample ids stay."""
    there: Batch = _moved(batch, device)
    return there


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: part if name == "index" else _moved(part, device) for name, part in value.items()}
    return [_moved(part, device) for part in value] if isinstance(value, list) else value
