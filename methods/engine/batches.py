"""From a split's index to batches on the device: what training and evaluation read, not what they do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from attnbias.data.datasets import PictureDataset
from attnbias.data.fast_decode import pil_step
from attnbias.data.in_memory import InMemoryPictures
from attnbias.data.index import Index
from attnbias.data.pictures import Decode
from attnbias.data.published_tests import own_transform
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import AnyMethod, Batch
from attnbias.methods.engine.recipe import Recipe

LONGEST_WAIT = 600.0
"""Seconds that a step waits for its pictures before the run ends: a worker hangs, or a disk does."""


def open_pictures(
    method: AnyMethod,
    recipe: Recipe,
    index: Index,
    *,
    train: bool = False,
    on_bad_image: Literal["error", "skip"] = "error",
    decode: Decode = "exact",
) -> PictureDataset:
    """The pictures of a split as the recipe wants them: transform, label policies, seeds; in memory where it can be.

    A published test set may bring a transform of its own (data/published_tests.py).

    Raises:
        UsageError: fast decoding, and a step of the pipeline needs PIL pictures.
    """
    own = None if train else own_transform(index, recipe.image_size, recipe.normalize)
    transform = method.transform(recipe, train) if own is None else own
    if decode == "fast" and (step := pil_step(transform)):
        what = f"the {'training' if train else 'evaluation'} pipeline of this recipe"
        raise UsageError(f"--decode fast: {what} needs PIL pictures, for its {step}; use --decode exact")
    batched = method.batched_transform(recipe, train) if own is None else None
    kind = PictureDataset if batched is None else partial(InMemoryPictures, batched=batched)
    return kind(
        index,
        transform,
        seed=recipe.seed,
        unknown=recipe.unknown_train if train else recipe.unknown_eval,
        drop_unlabelled=recipe.drop_unlabelled,
        on_bad_image=on_bad_image,
        decode=decode,
    )


class Loader(DataLoader[Any]):
    """A DataLoader that says one thing of a worker that ended, whichever way its end comes to be seen."""

    def __iter__(self) -> Any:
        return self._relayed(super().__iter__())

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
    dataset: PictureDataset, sampler: Sampler[Any] | Sequence[Any], *, workers: int, device: torch.device
) -> Loader:
    """The loader of a split; one in memory needs no worker processes."""
    workers = 0 if isinstance(dataset, InMemoryPictures) else workers
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        timeout=LONGEST_WAIT if workers else 0,
    )


def on_device(batch: Batch, dataset: PictureDataset, device: torch.device) -> Batch:
    """The batch with its tensors on the device (sample ids stay); pictures of a split in memory are augmented there."""
    moved = {name: value if name == "index" else _moved(value, device) for name, value in batch.items()}
    if isinstance(dataset, InMemoryPictures):
        moved["image"] = dataset.batched(moved["image"], _moved(batch["index"], device), moved.pop("epoch"))
    return moved


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return [_moved(part, device) for part in value] if isinstance(value, list) else value
