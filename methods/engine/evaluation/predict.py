"""Predict on a person's own images: no labels, no measures, only what a model says of each file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.atomic import replacing
from attnbias.data.reading import Json
from attnbias.data.tally import Tally
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Answers, answer_all
from attnbias.methods.engine.inspection import owner
from attnbias.methods.engine.launch import accelerate, mixed_precision, place
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, preprocessing
from attnbias.methods.engine.own_images import find_images, open_own, say_how_made, say_how_read
from attnbias.methods.engine.requests import PredictRequest
from attnbias.methods.engine.targets import PREDICTED_SCORES, PREDICTIONS, check_targets, requested
from attnbias.methods.engine.text import write_csv

TOP_K = 5
"""Classes of an image that are named in single-label work where nothing else is asked for."""


class Prediction(NamedTuple):
    """What a model says of one image."""

    path: str
    classes: dict[str, float]
    """The classes that are worth naming -> their probabilities, the highest first."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of each image that could be read, in the order asked for."""

    loaded: Loaded
    amp: str
    """The precision of the passes through the network: no = float32."""
    images: list[Prediction]
    scores: NDArray[np.float32]
    """Probabilities (N, C) of all classes."""
    skipped: list[str]
    """Why each other image could not be read; each names its path."""
    left_out: Tally
    """What else is in the folders, by reason."""
    remarks: Tally
    """How images were read that may be read in several ways."""

    def content(self) -> Json:
        """All of it but the scores of classes that are not named, as plain values for JSON."""
        named = [
            {"path": path, "classes": [{"class": name, "score": score} for name, score in classes.items()]}
            for path, classes in self.images
        ]
        return {
            "weights": self.loaded.source,
            "method": self.loaded.method.name,
            "task": self.loaded.task,
            "preprocessing": preprocessing(self.loaded.method, self.loaded.recipe),
            "amp": self.amp,
            "pictures": named,
            "skipped": self.skipped,
            "left_out": self.left_out,
            "remarks": self.remarks,
        }


def predict(request: PredictRequest) -> Predictions:
    """Score every file once; the processes share them, and each has all scores in the end. The main process writes the
    files that were asked for.

    Raises:
        UsageError: the model's task is not to name classes, or something asked for cannot be had or written.
        DataError: an image cannot be read (with "error"; it is named), or none can. WeightsError: as `load_run`.
    """
    reads: list[str | Path] = [request.load_from, *request.paths, *([request.recipe] if request.recipe else [])]
    files = requested((request.json_file, PREDICTIONS), (request.csv_file, PREDICTED_SCORES))
    check_targets(files, reads, request.overwrite)
    request = place(request)
    accelerator = accelerate(request)
    precision = mixed_precision(request.amp, accelerator.device)
    # Found once: processes that see different files would wait for each other.
    (result,) = broadcast_object_list([_find(request.paths) if accelerator.is_main_process else None])
    paths, left_out, remarks = result
    loaded = load_asked(request, owner(request), request.load_from, accelerator.device)
    check_recipe_helps(request.recipe, [loaded])
    with precision:
        answers = score_images(request, loaded, paths, accelerator)
    scores, images = answers.scores["scores"], []
    for sample, row in zip(answers.ids, scores, strict=True):
        labels = chosen(row, loaded.task == "multilabel", request.top_k, request.threshold)
        images.append(Prediction(paths[sample], {loaded.classes[n]: round(float(row[n]), 6) for n in labels}))
    predictions = Predictions(loaded, request.amp, images, scores, answers.skipped, left_out, remarks)
    if accelerator.is_main_process:
        say_how_made(loaded, request.amp)
        _write(request, predictions)
    return predictions


def score_images(
    request: PredictRequest, loaded: Loaded, images: Sequence[str | Path | Image.Image], accelerator: Accelerator
) -> Answers:
    """Score images, files or upright RGB ones in memory, once each, as a placed request says.

    Raises:
        UsageError: the model's task is not to name classes. DataError: as `predict`.
    """
    if loaded.task not in ("multilabel", "singlelabel"):
        raise UsageError(
            f"predict names the classes of images, and {loaded.source} is for {loaded.task}; use: attnbias visualize"
        )
    return answer_all(
        loaded.method,
        loaded.model,
        open_own(loaded, images, request.on_bad_image),
        loaded.recipe,
        accelerator,
        batch_size=request.eval_batch_size,
        workers=request.workers or 0,
    )


def _find(paths: Sequence[Path]) -> tuple[list[str], Tally, Tally]:
    result, left_out = find_images(paths)
    return [str(path) for _, path in result], left_out, say_how_read([path for _, path in result])


def _write(request: PredictRequest, predictions: Predictions) -> None:
    if request.csv_file:
        rows = zip(predictions.images, predictions.scores, strict=True)
        scored: Iterable[list[str]] = ([image.path, *(f"{score:.6f}" for score in row)] for image, row in rows)
        write_csv(request.csv_file, chain([["path", *predictions.loaded.classes]], scored))
    if request.json_file not in (None, "-"):
        with replacing(Path(request.json_file)) as file:
            file.write(json.dumps(predictions.content(), indent=1) + "\n")


def chosen(scores: NDArray[np.float32], multilabel: bool, top_k: int | None, threshold: float | None) -> list[int]:
    """Class numbers of one image's scores (C,) that are worth naming, the highest first.

    In multi-label work those of at least 0.5, in single-label work the best five, unless asked otherwise.
    """
    least = (0.5 if multilabel else 0.0) if threshold is None else threshold
    most = (len(scores) if multilabel else TOP_K) if top_k is None else top_k
    order = np.argsort(-scores, kind="stable")[:most]
    return [int(label) for label in order if scores[label] >= least]
