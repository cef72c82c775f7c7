"""What `val --store` keeps in a run folder, and how `compare` reads it again. No torch.

RUN/evaluations/DATASET/SPLIT/
    scores.npz          path, target and scores of every sample, exact
    answers.json        instead, for questions: what the VQA evaluation server takes
    bias-MAP/           bias.json and bias_samples.csv of one kind of map
    robustness.json     rows of robustness.write_table
    evaluation.json     measures, which weights they are of, context, reliance, faithfulness; written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnbias.data.atomic import replacing
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.text import read_csv
from attnbias.weights.errors import WeightsError

EVALUATIONS = "evaluations"
CONTENT, SCORES, ROBUSTNESS, ANSWERS = "evaluation.json", "scores.npz", "robustness.json", "answers.json"
BIAS, BIAS_SAMPLES = "bias.json", "bias_samples.csv"

STORED_OF_SPLIT = re.compile(
    r"bias-[^/]+/(bias\.json|bias_samples\.csv)?"
    r"|(\.?scores\.npz|\.?(robustness|answers|evaluation)\.json)(\.\d+\.part)?"
)
"""All that is stored of one split, relative to its folder (see data/owned.py)."""

STORED = re.compile(rf"{EVALUATIONS}/([^/]+/([^/]+/({STORED_OF_SPLIT.pattern})?)?)?")
"""The same, relative to the run's folder."""


@dataclass(frozen=True)
class Scores:
    """Scores of one split, in the order of its index."""

    paths: NDArray[np.str_]
    targets: NDArray[np.int64]
    """(N, C) in {1, 0, -1}, or (N,) class numbers."""
    scores: NDArray[np.float32]
    """(N, C) probabilities."""

    def same_samples(self, other: Scores) -> bool:
        """Whether both hold the same pictures with the same labels, row by row."""
        return np.array_equal(self.paths, other.paths) and np.array_equal(self.targets, other.targets)


@dataclass(frozen=True)
class StoredEvaluation:
    """One split of one run, as it was stored."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def split(self) -> str:
        """DATASET/SPLIT."""
        return f"{self.content['dataset']}/{self.content['split']}"

    @property
    def has_scores(self) -> bool:
        """Whether a row of scores was kept of each picture."""
        return (self.folder / SCORES).is_file()

    def scores(self) -> Scores:
        """Scores of every sample."""
        try:
            with np.load(self.folder / SCORES) as file:
                return Scores(file["paths"], file["targets"], file["scores"])
        except (OSError, ValueError, KeyError):
            raise WeightsError(f"{self.folder / SCORES} is damaged; evaluate again with --store --overwrite") from None

    def bias(self, kind: str) -> dict[str, Any] | None:
        """What bias.json says of a kind of map, or None."""
        path = self.bias_folder(kind) / BIAS
        return json.loads(path.read_text()) if path.is_file() else None

    def bias_samples(self, kind: str) -> dict[str, NDArray[Any]]:
        """bias_samples.csv by column: `picture` int, `path` and `class` texts, all others float."""
        header, *rows = read_csv(self.bias_folder(kind) / BIAS_SAMPLES)
        types = {"picture": np.int64, "path": np.str_, "class": np.str_}
        return {
            name: np.array(column).astype(types.get(name, np.float64))
            for name, column in zip(header, zip(*rows, strict=True), strict=True)
        }

    def robustness(self) -> list[dict[str, Any]]:
        """Rows of the robustness table, empty where none was stored."""
        path = self.folder / ROBUSTNESS
        return json.loads(path.read_text()) if path.is_file() else []

    def bias_folder(self, kind: str) -> Path:
        """Where the bias of a kind of map lies."""
        return self.folder / f"bias-{kind}"


def folder_of(run: Path, dataset: str, split: str) -> Path:
    """Where a run keeps its evaluation of a split."""
    return run / EVALUATIONS / dataset / split


def prepare_storing(folder: Path, weights: str, kind: str | None, overwrite: bool) -> None:
    """Make room for an evaluation of the weights that `weights` describes, with the bias of a kind of map or without.

    What is stored of the same weights stays beside it; what is stored of other weights goes.

    Raises:
        UsageError: something would be replaced, and `overwrite` is not given; or it is not of an evaluation.
    """
    old = _content(folder)
    bias = f"bias-{kind}"
    if old is not None and old["weights"] != weights:
        if not overwrite:
            raise UsageError(f"{folder} holds an evaluation of other weights ({old['weights']}); add --overwrite")
        parts = None
    elif kind is not None and (folder / bias).exists():
        if not overwrite:
            raise UsageError(f"{folder / bias} exists; add --overwrite")
        parts = [bias]
    else:
        return
    if foreign := first_foreign(folder, STORED_OF_SPLIT.fullmatch, parts):
        raise UsageError(f"--overwrite replaces evaluations, and {foreign} is of none; move it away")
    remove_owned(folder, STORED_OF_SPLIT.fullmatch, parts)


def store(folder: Path, content: Mapping[str, Any], scores: Scores | None, answers: Mapping[str, str]) -> None:
    """Store an evaluation; what was stored of the same weights and is not in `content` stays.

    Scores are None where a task keeps none; `answers` are of questions, by their ids (VQA's submission format).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        part = folder / f".{SCORES}"
        with part.open("wb") as binary:
            np.savez_compressed(binary, paths=scores.paths, targets=scores.targets, scores=scores.scores)
        part.replace(folder / SCORES)
    if answers:
        with replacing(folder / ANSWERS) as file:
            json.dump([{"question_id": int(name), "answer": answer} for name, answer in answers.items()], file)
    with replacing(folder / CONTENT) as file:
        json.dump({**(_content(folder) or {}), **content}, file, indent=1)


def stored_evaluations(run: Path) -> list[StoredEvaluation]:
    """Everything that a run folder holds, by data set and split, in the order of their names."""
    folders = sorted(path.parent for path in (run / EVALUATIONS).glob(f"*/*/{CONTENT}"))
    return [StoredEvaluation(folder, _content(folder) or {}) for folder in folders]


def _content(folder: Path) -> dict[str, Any] | None:
    path = folder / CONTENT
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        _ = content["dataset"], content["split"], content["weights"], content["measures"]
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{path} is damaged; delete {folder} and evaluate again") from None
    return content
