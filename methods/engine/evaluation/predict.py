"""Predict on a person's own pictures: no labels, no measures, only what a model says of each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from attnbias.data.datasets import PictureDataset, Sample
from attnbias.data.index import Index, Record
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import answer_all
from attnbias.methods.engine.load import Loaded

TOP_K = 5
"""Classes of a picture that are named in single-label work where nothing else is asked for."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of each picture that could be read, in the order asked for."""

    paths: tuple[str, ...]
    scores: NDArray[np.float32]
    """Probabilities (N, C)."""
    skipped: list[str]
    """Why each other picture could not be read; each names its path."""


class OwnPictures(PictureDataset):
    """Files without labels, of whatever sizes."""

    def collate(self, samples: Sequence[Sample] | Sample) -> Sample:
        good = [] if isinstance(samples, dict) else [sample for sample in samples if "image" in sample]
        if len({sample["image"].shape for sample in good}) > 1:
            raise UsageError("this recipe does not resize, and the pictures differ in size; add --eval-batch-size 1")
        return super().collate(samples)


def open_own(loaded: Loaded, paths: Sequence[str], on_bad_image: Literal["error", "skip"] = "error") -> OwnPictures:
    """Files as a model wants them, upright whatever the model's own dataset is; their labels mean nothing."""
    target = (0,) * len(loaded.classes) if loaded.task == "multilabel" else 0
    records = tuple(Record(str(Path(path).absolute()), target) for path in paths)
    index = Index("own", "pictures", loaded.task, loaded.classes, Path("/"), records, orientation="upright")
    return OwnPictures(index, loaded.method.transform(loaded.recipe, train=False), on_bad_image=on_bad_image)


def predict_pictures(
    loaded: Loaded,
    paths: Sequence[str],
    accelerator: Accelerator,
    *,
    batch_size: int = 64,
    workers: int = 0,
    on_bad_image: Literal["error", "skip"] = "error",
) -> Predictions:
    """Score every file once; the processes share them, and each has all scores in the end.

    Raises:
        UsageError: the model's task is not to name classes.
        DataError: a picture cannot be read (with "error"; it is named), or none can.
    """
    if loaded.task not in ("multilabel", "singlelabel"):
        raise UsageError(
            f"predict names the classes of pictures, and {loaded.source} is for {loaded.task}; use: attnbias visualize"
        )
    dataset = open_own(loaded, paths, on_bad_image)
    found = answer_all(
        loaded.method, loaded.model, dataset, loaded.recipe, accelerator, batch_size=batch_size, workers=workers
    )
    return Predictions(tuple(paths[sample] for sample in found.ids), found.scores["scores"], found.skipped)


def chosen(scores: NDArray[np.float32], multilabel: bool, top_k: int | None, threshold: float | None) -> list[int]:
    """Class numbers of one picture's scores (C,) that are worth naming, the highest first.

    In multi-label work those of at least 0.5, in single-label work the best five, unless asked otherwise.
    """
    least = (0.5 if multilabel else 0.0) if threshold is None else threshold
    most = (len(scores) if multilabel else TOP_K) if top_k is None else top_k
    order = np.argsort(-scores, kind="stable")[:most]
    return [int(label) for label in order if scores[label] >= least]
