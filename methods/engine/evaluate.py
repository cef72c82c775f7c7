"""The one evaluation loop: scores of every sample of a split, gathered from all processes by id, then measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbias.data.atomic import replacing
from attnbias.data.datasets import PictureDataset, collate
from attnbias.data.errors import DataError
from attnbias.data.fast_decode import pil_step
from attnbias.data.in_memory import InMemoryPictures
from attnbias.data.index import Index
from attnbias.data.pictures import Decode
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Batch, Method
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.sampler import EvaluationSampler

Perturbation = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, images, targets, sample ids) -> the images that are scored in their place, as an attack makes them."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and measures of one split. Rows are in the order of the index, each sample once."""

    ids: NDArray[np.int64]
    targets: NDArray[Any]
    scores: dict[str, NDArray[np.float32]]
    """Probabilities (N, C) by name, `scores` first."""
    measures: dict[str, Any]
    skipped: list[str]
    """Pictures that could not be read and were left out (`--on-bad-image skip`)."""


def open_dataset(
    method: Method,
    recipe: Recipe,
    index: Index,
    *,
    train: bool = False,
    on_bad_image: Literal["error", "skip"] = "error",
    decode: Decode = "exact",
) -> PictureDataset:
    """The pictures of a split as the recipe wants them: transform, label policies, seeds; in memory where it can be.

    Raises:
        UsageError: fast decoding, and a step of the pipeline needs PIL pictures.
    """
    transform = method.transform(recipe, train)
    if decode == "fast" and (step := pil_step(transform)):
        what = f"the {'training' if train else 'evaluation'} pipeline of this recipe"
        raise UsageError(f"--decode fast: {what} needs PIL pictures, for its {step}; use --decode exact")
    batched = method.batched_transform(recipe, train)
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


def images_on(device: torch.device, batch: Batch, dataset: PictureDataset) -> Tensor:
    """The batch's pictures on the device; those of a split in memory are augmented there."""
    images: Tensor = batch["image"].to(device, non_blocking=True)
    if not isinstance(dataset, InMemoryPictures):
        return images
    index, epoch = (batch[name].to(device, non_blocking=True) for name in ("index", "epoch"))
    return dataset.batched(images, index, epoch)


@torch.no_grad()
def evaluate(
    method: Method,
    model: nn.Module,
    dataset: PictureDataset,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    batch_size: int = 64,
    workers: int = 0,
    control: Control | None = None,
    perturb: Perturbation | None = None,
) -> Evaluation:
    """Score every sample of a split once and measure.

    Batch k holds the same samples whatever the number of processes (rank k modulo processes computes it), so the
    figures do not depend on it.

    Raises:
        Stopped: a signal asked to stop (where `control` is given).
    """
    processes, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    loader = DataLoader(
        dataset,
        batch_sampler=EvaluationSampler(len(dataset), batch_size, rank, processes),
        num_workers=0 if isinstance(dataset, InMemoryPictures) else workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    model.eval()
    task = dataset.index.task
    mine: list[tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[np.float32]]]] = []
    skipped: list[str] = []
    batches = iter(loader)
    for _ in range(-(-len(dataset) // (batch_size * processes))):  # the same number of rounds in every process
        if control is not None:
            control.raise_if_stopped()
        batch = next(batches, None)
        if batch is None:
            continue
        skipped += batch["errors"]
        if not len(batch["index"]):
            continue
        images = images_on(device, batch, dataset)
        if perturb is not None:
            images = perturb(model, images, batch["target"].to(device), batch["index"])
        with accelerator.autocast():
            named = method.predict(model, images, task)
        scores = {name: value.float().cpu().numpy() for name, value in named.items()}
        mine.append((batch["index"].numpy(), batch["target"].numpy(), scores))
    parts = gather_object(mine) if processes > 1 else mine
    skipped = gather_object(skipped) if processes > 1 else skipped
    if not parts:
        raise DataError(f"no picture of {dataset.index.dataset}/{dataset.index.split} could be read")
    ids = np.concatenate([part[0] for part in parts])
    order = np.argsort(ids)
    targets = np.concatenate([part[1] for part in parts])[order]
    scores = {name: np.concatenate([part[2][name] for part in parts])[order] for name in parts[0][2]}
    measures = method.measure_all(recipe, targets, scores, task)
    return Evaluation(ids[order], targets, scores, measures, skipped)


def write_scores(path: Path, evaluation: Evaluation, dataset: PictureDataset) -> None:
    """Write one row a sample (its path, its targets, its scores) as CSV."""
    names = dataset.index.classes
    with replacing(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", *(f"target:{n}" for n in names), *(f"score:{n}" for n in names)])
        for sample, target, score in zip(evaluation.ids, evaluation.targets, evaluation.scores["scores"], strict=True):
            row = target if target.ndim else (np.arange(len(names)) == target)
            table.writerow([dataset.records[sample].path, *map(int, row), *(f"{value:.6f}" for value in score)])
