"""What models say of a person's own images: no labels, no measures, each file once.

Classifiers name classes, segmenters label pixels, models that are asked in words answer questions or rank images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.atomic import replacing
from attnbias.data.questions import Question, is_questions, read_questions
from attnbias.data.reading import Json
from attnbias.data.tally import Tally
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Answers
from attnbias.methods.engine.kernels import in_precision
from attnbias.methods.engine.launch import accelerate, place
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, owner
from attnbias.methods.engine.output_files import PREDICTED_SCORES, PREDICTIONS, SUBMISSION, check_targets, requested
from attnbias.methods.engine.output_folder import output_folder
from attnbias.methods.engine.own_images import find_images, open_own, say_how_made, say_how_read
from attnbias.methods.engine.prediction.answering import (
    FOUND,
    Answered,
    FoundImages,
    answer_questions,
    answers_of,
    check_submitted,
    find_by_text,
    write_submission,
)
from attnbias.methods.engine.prediction.label_maps import LABELS, MOST_CLASSES, OVERLAYS, LabelMaps, label_images
from attnbias.methods.engine.prediction.said import Found, Said
from attnbias.methods.engine.requests import PredictRequest
from attnbias.methods.engine.text import write_csv

TOP_K = 5
"""Classes of an image that are named in single-label work where nothing else is asked for."""


class Prediction(NamedTuple):
    """What a model says of one image."""

    path: str
    classes: dict[str, float]
    """The classes that are worth naming -> their probabilities, the highest first."""


@dataclass(frozen=True)
class Predictions(Said):
    """The classes of each image that could be read."""

    found: Found
    images: list[Prediction]
    scores: NDArray[np.float32]
    """Probabilities (N, C) of all classes."""

    def items(self) -> list[Json]:
        return [
            {"path": path, "classes": [{"class": name, "score": score} for name, score in classes.items()]}
            for path, classes in self.images
        ]

    def lines(self) -> Iterator[str]:
        for (path, classes), row in zip(self.images, self.scores, strict=True):
            words = ", ".join(f"{name} {score:.3f}" for name, score in classes.items())
            best = int(row.argmax())
            yield f"{path}: {words or f'- (highest: {self.found.loaded.classes[best]} {row[best]:.3f})'}"

    def rows(self) -> Iterator[list[str]]:
        yield ["path", *self.found.loaded.classes]
        for image, row in zip(self.images, self.scores, strict=True):
            yield [image.path, *(f"{score:.6f}" for score in row)]


class _Asked(NamedTuple):
    """What a request names: images and questions, and what a person should know of how they were found."""

    paths: list[str]
    questions: list[Question]
    left_out: Tally
    remarks: Tally


def predict(request: PredictRequest) -> Said:
    """Ask about every file once; the processes share them, and each has all answers in the end. The main process writes
    the files that were asked for.

    Raises:
        UsageError: something asked for cannot be had of such a model, or cannot be written.
        DataError: an image cannot be read (with "error"; it is named), or none can. WeightsError: as `load_run`.
    """
    files = requested(
        (request.json_file, PREDICTIONS), (request.csv_file, PREDICTED_SCORES), (request.submission, SUBMISSION)
    )
    check_targets(files, request.reads, request.overwrite)
    request = place(request)
    accelerator = accelerate(request)
    method = owner(request)
    with ExitStack() as stack:
        folder = None
        if request.out is not None and accelerator.is_main_process:
            folder = stack.enter_context(output_folder(request.out, request.overwrite, (LABELS, OVERLAYS)))
        # Found once: processes that see different files would wait for each other.
        asked, folder = broadcast_object_list([_find(request) if accelerator.is_main_process else None, folder])
        loaded = load_asked(request, method, request.load_from, accelerator.device)
        check_recipe_helps(request.recipe, [loaded])
        _check_asked(request, loaded, asked)
        with in_precision(request.amp, accelerator.device), request.finite_answers():
            said = _said(request, loaded, asked, accelerator, folder)
        if accelerator.is_main_process:
            say_how_made(loaded, request.amp)
            _write(request, said)
    return said


def _check_asked(request: PredictRequest, loaded: Loaded, asked: _Asked) -> None:
    """Refuse what such a model cannot say.

    Raises:
        UsageError: see above.
    """
    method, task = loaded.method, loaded.task
    in_words = method.reads_texts
    typed = {"--question": request.questions, "--find": request.find, "--submission": request.submission}
    if not in_words and (flag := next((flag for flag, value in typed.items() if value), None)):
        raise UsageError(f"{flag} is for models that are asked in words, and {loaded.source} is for {task}")
    if not in_words and asked.questions:
        raise UsageError(
            f"a file of questions is for models that are asked in words, and {loaded.source} is for {task}"
        )
    if request.out is not None and not isinstance(method, LabelsPixels):
        raise UsageError(f"--out is for label maps, and {loaded.source} is for {task}; use --json or --csv")
    if request.out is not None and len(loaded.classes) > MOST_CLASSES:
        raise UsageError(
            f"--out draws label maps of up to {MOST_CLASSES} classes, and {loaded.source} knows {len(loaded.classes)}; "
            "leave it out: --json and --csv have each class's share"
        )
    if not in_words:
        return
    if task == "retrieval":
        if request.find is None or request.questions or asked.questions or request.submission:
            raise UsageError(f"{loaded.source} ranks images by a text, and answers no questions: add --find TEXT")
    elif request.find is not None:
        raise UsageError(f"--find is for models of retrieval, and {loaded.source} is for {task}; use --question")
    elif not asked.questions:
        raise UsageError("add --question, or a .csv or .json file of questions: what shall be asked of these images?")
    if request.submission is not None:
        check_submitted(loaded, asked.questions)


def _said(
    request: PredictRequest, loaded: Loaded, asked: _Asked, accelerator: Accelerator, folder: Path | None
) -> Said:
    """Ask the model, by its task."""

    def found(skipped: list[str]) -> Found:
        return Found(loaded, request.amp, skipped, asked.left_out, asked.remarks)

    if isinstance(loaded.method, LabelsPixels):
        images, skipped = label_images(request, loaded, asked.paths, accelerator, folder)
        return LabelMaps(found(skipped), images, request.top_k, request.threshold)
    if request.find is not None:
        ranked, skipped = find_by_text(request, loaded, asked.paths, accelerator)
        return FoundImages(found(skipped), request.find, ranked, request.top_k or FOUND)
    if asked.questions:
        questions, best, skipped = answer_questions(request, loaded, asked.questions, accelerator)
        return Answered(found(skipped), questions, best)
    answers = score_images(request, loaded, asked.paths, accelerator)
    scores, named = answers.scores["scores"], []
    for sample, row in zip(answers.ids, scores, strict=True):
        labels = chosen(row, loaded.task == "multilabel", request.top_k, request.threshold)
        named.append(Prediction(asked.paths[sample], {loaded.classes[n]: round(float(row[n]), 6) for n in labels}))
    return Predictions(found(answers.skipped), named, scores)


def score_images(
    request: PredictRequest, loaded: Loaded, images: Sequence[str | Path | Image.Image], accelerator: Accelerator
) -> Answers:
    """Score images, files or upright RGB ones in memory, once each, as a placed request says.

    Raises:
        DataError: as `predict`.
    """
    return answers_of(loaded.method, loaded, open_own(loaded, images, request.on_bad_image), accelerator, request)


def _find(request: PredictRequest) -> _Asked:
    """The images of a request, and what is asked of each: the questions of files, and those that were typed."""
    files = [path for path in request.paths if path.is_file() and is_questions(path)]
    others = [path for path in request.paths if path not in files]
    result, left_out = find_images(others) if others else ([], Tally())
    images = [path for _, path in result]
    questions = [question for file in files for question in read_questions(file, images)]
    questions += [Question(image, text) for image in images for text in request.questions]
    return _Asked([str(path) for path in images], questions, left_out, say_how_read(images))


def _write(request: PredictRequest, said: Said) -> None:
    if request.csv_file:
        write_csv(request.csv_file, said.rows())
    if request.json_file not in (None, "-"):
        with replacing(Path(request.json_file)) as file:
            file.write(json.dumps(said.content(), indent=1) + "\n")
    if request.submission is not None:
        assert isinstance(said, Answered)
        write_submission(request.submission, said)


def chosen(scores: NDArray[np.float32], multilabel: bool, top_k: int | None, threshold: float | None) -> list[int]:
    """Class numbers of one image's scores (C,) that are worth naming, the highest first.

    In multi-label work those of at least 0.5, in single-label work the best five, unless asked otherwise.
    """
    least = (0.5 if multilabel else 0.0) if threshold is None else threshold
    most = (len(scores) if multilabel else TOP_K) if top_k is None else top_k
    order = np.argsort(-scores, kind="stable")[:most]
    return [int(label) for label in order if scores[label] >= least]
