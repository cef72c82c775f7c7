"""Texts about a person's own images: answers to questions and statements, and images found by what a text says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from attnbias.data.atomic import replacing
from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Index, Record, Text
from attnbias.data.questions import Question
from attnbias.data.reading import Json
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.abilities import FitsTexts, ReadsTexts
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Answers, CanAnswer, answer_all
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.own_images import open_own
from attnbias.methods.engine.prediction.said import Found, Said
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.requests import PredictRequest
from attnbias.methods.engine.types import Batch

ANSWERS = 5
"""Answers of a question that are named where nothing else is asked for, the best first."""

FOUND = 10
"""Images that are named of a search where nothing else is asked for."""


@dataclass(frozen=True)
class Answered(Said):
    """What a model answers to questions."""

    found: Found
    questions: list[Question]
    """Those whose images could be read."""
    best: list[dict[str, float]]
    """Of each question: its best answers -> their scores, the highest first."""

    def items(self) -> list[Json]:
        return [
            {
                "path": str(question.image),
                "second_path": None if question.second is None else str(question.second),
                "id": question.identifier,
                "question": question.text,
                "answers": [{"answer": name, "score": score} for name, score in best.items()],
            }
            for question, best in zip(self.questions, self.best, strict=True)
        ]

    def lines(self) -> Iterator[str]:
        for question, best in zip(self.questions, self.best, strict=True):
            words = ", ".join(f"{name} {score:.3f}" for name, score in best.items())
            images = " and ".join(str(image) for image in (question.image, question.second) if image)
            yield f"{images}: {question.text} {words or '-'}"

    def rows(self) -> Iterator[list[str]]:
        yield ["path", "second_path", "id", "text", "answer", "score"]
        for question, best in zip(self.questions, self.best, strict=True):
            answer, score = next(iter(best.items()), ("", 0.0))
            second = "" if question.second is None else str(question.second)
            yield [str(question.image), second, question.identifier or "", question.text, answer, f"{score:.6f}"]

    def submission(self) -> list[Json]:
        """The best answer to each question, in the form that VQA's test server takes."""
        return [
            {"question_id": int(question.identifier or ""), "answer": next(iter(best), "")}
            for question, best in zip(self.questions, self.best, strict=True)
        ]


@dataclass(frozen=True)
class FoundImages(Said):
    """The images that a text says most about."""

    found: Found
    text: str
    ranked: list[tuple[str, float]]
    """Every image and its score, the highest first."""
    top_k: int

    def items(self) -> list[Json]:
        return [
            {"path": path, "text": self.text, "rank": rank, "score": round(score, 6)}
            for rank, (path, score) in enumerate(self.ranked[: self.top_k], start=1)
        ]

    def lines(self) -> Iterator[str]:
        for path, score in self.ranked[: self.top_k]:
            yield f"{path}: {score:.3f}"

    def rows(self) -> Iterator[list[str]]:
        yield ["rank", "path", "score"]
        for rank, (path, score) in enumerate(self.ranked, start=1):
            yield [str(rank), path, f"{score:.6f}"]


class _Best:
    """Asks a method for the best answers alone: all 3129 scores of half a million questions are gigabytes."""

    def __init__(self, method: ReadsTexts[Recipe, nn.Module], task: Any, count: int) -> None:
        self.method, self.task, self.count = method, task, count

    def answer(self, model: nn.Module, batch: Batch, dataset: ImageDataset, recipe: Recipe) -> dict[str, Tensor]:
        scores = self.method.text_scores(model, batch, self.task)
        assert scores is not None
        best = scores.topk(min(self.count, scores.shape[1]))
        return {"scores": best.values, "labels": best.indices, "targets": torch.zeros(len(scores))}


class _Fit:
    """Asks a method how well each image fits one text."""

    def __init__(self, method: FitsTexts[nn.Module], text: Batch) -> None:
        self.method, self.text = method, text

    def answer(self, model: nn.Module, batch: Batch, dataset: ImageDataset, recipe: Recipe) -> dict[str, Tensor]:
        return {"scores": self.method.text_fit(model, batch["image"], self.text)}


def answer_questions(
    request: PredictRequest, loaded: Loaded, questions: Sequence[Question], accelerator: Accelerator
) -> tuple[list[Question], list[dict[str, float]], list[str]]:
    """Ask every question once; the processes share them.

    Returns:
        The questions whose images could be read, their best answers with their scores, and why others could not.

    Raises:
        UsageError: a question is about one image and the model asks about two, or the other way round.
        DataError: an image cannot be read (with "error"; it is named), or none can.
    """
    count = ANSWERS if request.top_k is None else request.top_k
    said = best_answers(request, loaded, questions, accelerator, count)
    least = request.threshold or 0.0
    best = [
        {
            loaded.classes[int(label)]: round(float(score), 6)
            for score, label in zip(*row, strict=True)
            if score >= least
        }
        for row in zip(said.scores["scores"], said.scores["labels"], strict=True)
    ]
    return [questions[sample] for sample in said.ids], best, said.skipped


def best_answers(
    request: PredictRequest,
    loaded: Loaded,
    questions: Sequence[Question],
    accelerator: Accelerator,
    count: int,
    in_memory: Mapping[str, Image.Image] | None = None,
) -> Answers:
    """Ask every question once: of each the `count` best `scores`, the highest first, and whose they are, `labels`.

    `in_memory` are images that are no files, RGB and upright, by the paths that questions name. Raises as
    `answer_questions`.
    """
    two = loaded.task == "nlvr2"
    if wrong := next((question for question in questions if (question.second is not None) != two), None):
        raise UsageError(
            f"'{wrong.text}' is about {'one image' if two else 'two images'}, and {loaded.source} is asked about "
            f"{'two: name them in the columns image and second_image of a .csv or .json' if two else 'one'}"
        )
    dataset = open_questions(loaded, questions, request.data_root, request.on_bad_image)
    dataset.in_memory = {str(Path(name).absolute()): image for name, image in (in_memory or {}).items()}
    assert isinstance(loaded.method, ReadsTexts)
    return answers_of(_Best(loaded.method, loaded.task, count), loaded, dataset, accelerator, request)


def open_questions(
    loaded: Loaded,
    questions: Sequence[Question],
    data_root: Path | None,
    on_bad_image: Literal["error", "skip"] = "error",
) -> ImageDataset:
    """Questions with their images, upright, as a model wants them; their answers mean nothing."""
    records = tuple(_record(question) for question in questions)
    index = Index(
        *("own", "questions", loaded.task, loaded.classes, Path("/"), records),
        orientation="upright",
        dataset_dir=dataset_folder(loaded.recipe.dataset, data_root),
    )
    return loaded.method.open_dataset(loaded.recipe, index, on_bad_image=on_bad_image)


def find_by_text(
    request: PredictRequest, loaded: Loaded, paths: Sequence[str], accelerator: Accelerator
) -> tuple[list[tuple[str, float]], list[str]]:
    """Score every image with the text that is looked for: the images with their scores, the highest first, and why
    others could not be read.

    Raises:
        DataError: an image cannot be read (with "error"; it is named), or none can.
    """
    assert request.find is not None
    said = fit_of_text(request, loaded, paths, request.find, accelerator)
    scores = said.scores["scores"][:, 0]
    order = np.argsort(-scores, kind="stable")
    return [(paths[said.ids[place]], float(scores[place])) for place in order], said.skipped


def fit_of_text(
    request: PredictRequest,
    loaded: Loaded,
    images: Sequence[str | Path | Image.Image],
    text: str,
    accelerator: Accelerator,
) -> Answers:
    """How well each image, of a file or upright and RGB in memory, fits a text: `scores` (N, 1), higher is better.

    Raises:
        DataError: an image cannot be read (with "error"; it is named), or none can.
    """
    assert isinstance(loaded.method, FitsTexts)
    assert isinstance(loaded.method, ReadsTexts)
    folder = dataset_folder(loaded.recipe.dataset, request.data_root)
    encoded = loaded.method.read_texts(loaded.recipe, [text], folder)
    dataset = open_own(loaded, images, request.on_bad_image)
    return answers_of(_Fit(loaded.method, encoded), loaded, dataset, accelerator, request)


def write_submission(path: Path, answered: Answered) -> None:
    """Write what VQA's test server takes."""
    with replacing(path) as file:
        json.dump(answered.submission(), file)


def check_submitted(loaded: Loaded, questions: Sequence[Question]) -> None:
    """Refuse answers that VQA's test server could not read.

    Raises:
        UsageError: the model answers no questions, a question has no whole number as its id, or two have the same.
    """
    if loaded.task != "vqa":
        raise UsageError(f"--submission is of answers to VQA's questions, and {loaded.source} is for {loaded.task}")
    known: set[int] = set()
    for question in questions:
        if question.identifier is None or not re.fullmatch(r"[0-9]{1,18}", question.identifier):
            raise UsageError(
                f"--submission: '{question.text}' has no question_id that is a whole number; "
                "give VQA's own questions, or a column question_id"
            )
        if int(question.identifier) in known:
            raise UsageError(f"--submission: two questions have the question_id {question.identifier}")
        known.add(int(question.identifier))


def _record(question: Question) -> Record:
    second = None if question.second is None else str(question.second.absolute())
    text = Text(question.text, second_path=second, identifier=question.identifier)
    return Record(str(question.image.absolute()), 0, text=text)


def answers_of(
    asks: CanAnswer, loaded: Loaded, dataset: ImageDataset, accelerator: Accelerator, request: PredictRequest
) -> Answers:
    """What a model says to each sample, asked once, as a placed request says."""
    (answers,) = answer_all(
        asks,
        [loaded.model],
        dataset,
        loaded.recipe,
        accelerator,
        batch_size=request.eval_batch_size,
        workers=request.workers or 0,
    )
    return answers
