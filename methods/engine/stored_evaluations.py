"""What `val --store` keeps in a run folder, and how `compare` reads it again. No torch.

RUN/evaluations/DATASET/SPLIT/
    scores.npz          path, target and scores of every sample, exact; its attribute, where each has one
    answers.json        instead, for questions: what the VQA evaluation server takes
    bias-MAP/           bias.json and bias_samples.csv of one kind of map
    robustness.json     rows of robustness.write_table
    reliance_samples.csv  each sample with its object or its context taken away
    backgrounds_samples.csv  whether each sample is named on other contexts
    evaluation.json     measures, which weights they are of, and what each other probe of `val` found; written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter

from attnbias.data.arrays import read_arrays
from attnbias.data.atomic import replacing
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.data.reading import Json, StoredModel, Unfit, read_json, reading
from attnbias.methods.engine.attention_measures import BACKGROUND_FLAGS, compared_measures
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.text import read_csv
from attnbias.weights.errors import WeightsError

M = TypeVar("M")
Samples = dict[str, NDArray[Any]]
"""A table of samples by column."""

EVALUATIONS = "evaluations"
CONTENT, SCORES, ROBUSTNESS, ANSWERS = "evaluation.json", "scores.npz", "robustness.json", "answers.json"
BIAS_FILE, BIAS_SAMPLES = "bias.json", "bias_samples.csv"
RELIANCE_SAMPLES, BACKGROUNDS_SAMPLES = "reliance_samples.csv", "backgrounds_samples.csv"

RELIANCE_SHARES = {"object_share": "object_only", "context_share": "context_only"}
"""What of the mean probability the object alone, or the context alone, leaves: ratios of means of these columns."""

MEND = "evaluate again with --store --overwrite"
LARGEST_SCORES = 4 << 30
"""Bytes of the largest arrays of scores; those of ImageNet's 50,000 images have 0.6 GB."""


STORED_OF_SPLIT = re.compile(
    r"bias-[^/]+/(bias\.json|bias_samples\.csv)?"
    r"|(reliance|backgrounds)_samples\.csv"
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
    attributes: NDArray[np.str_] | None = None
    """(N,) the attribute beside the labels, where every sample has one."""

    def differs(self, other: Scores) -> Literal["images", "labels"] | None:
        """What is not the same in both, row by row; None where they can be paired."""
        if not np.array_equal(self.paths, other.paths):
            return "images"
        return None if np.array_equal(self.targets, other.targets) else "labels"


@dataclass(frozen=True)
class StoredEvaluation:
    """One split of one run, as it was stored."""

    folder: Path
    content: Json

    @property
    def split(self) -> str:
        """DATASET/SPLIT."""
        return f"{self.content['dataset']}/{self.content['split']}"

    @property
    def has_scores(self) -> bool:
        """Whether a row of scores was kept of each image."""
        return (self.folder / SCORES).is_file()

    def scores(self) -> Scores:
        """Scores of every sample."""
        path = self.folder / SCORES
        with reading(path, MEND, WeightsError):
            return _checked(path)

    def bias(self, kind: str) -> Json | None:
        """What bias.json says of a kind of map, or None."""
        stored = _stored(self.bias_folder(kind) / BIAS_FILE, TypeAdapter(Bias))
        return stored.model_dump() if stored else None

    def bias_samples(self, kind: str) -> Samples:
        """bias_samples.csv by column."""
        said = (self.bias(kind) or {"means": {}})["means"]
        paired = [measure for measure in compared_measures() if measure.compared == "paired" and measure.name in said]
        needed = {column for measure in paired for column in measure.ratio or [measure.name]}
        return _samples(self.bias_folder(kind) / BIAS_SAMPLES, needed)

    def reliance_samples(self) -> Samples | None:
        """reliance_samples.csv by column; None where reliance was stored without it, or not at all."""
        path = self.folder / RELIANCE_SAMPLES
        if "context_share" not in ((self.content.get("reliance") or {}).get("means") or {}):
            return None
        return _samples(path, {"probability", *RELIANCE_SHARES.values()})

    def backgrounds_samples(self) -> Samples | None:
        """backgrounds_samples.csv by column; None where backgrounds were stored without it, or not at all."""
        if "rfs" not in ((self.content.get("backgrounds") or {}).get("intervals_95") or {}):
            return None
        return _samples(self.folder / BACKGROUNDS_SAMPLES, {*BACKGROUND_FLAGS})

    def robustness(self) -> list[Json]:
        """Rows of the robustness table, empty where none was stored."""
        rows = _stored(self.folder / ROBUSTNESS, TypeAdapter(list[Row])) or []
        return [row.model_dump(exclude_unset=True) for row in rows]

    def bias_folder(self, kind: str) -> Path:
        """Where the bias of a kind of map lies."""
        return self.folder / f"bias-{kind}"


def folder_of(run: Path, dataset: str, split: str) -> Path:
    """Where a run keeps its evaluation of a split."""
    return run / EVALUATIONS / dataset / split


def check_storing(folder: Path, weights: str, kind: str | None, overwrite: bool) -> None:
    """Look whether an evaluation of the weights that `weights` describes can be stored, with the bias of a kind of map.

    Raises:
        UsageError: something would be replaced, and `overwrite` is not given; or it is not of an evaluation.
    """
    parts = _replaced(folder, weights, kind)
    if parts == []:
        return
    if not overwrite:
        if parts is None:
            raise UsageError(f"{folder} holds an evaluation of other weights; add --overwrite")
        raise UsageError(f"{folder / parts[0]} exists; add --overwrite")
    if foreign := first_foreign(folder, STORED_OF_SPLIT.fullmatch, parts):
        raise UsageError(f"--overwrite replaces evaluations, and {foreign} is of none; move it away")


def make_room(folder: Path, weights: str, kind: str | None) -> None:
    """Remove what an evaluation replaces; what is stored of the same weights stays beside it."""
    parts = _replaced(folder, weights, kind)
    if parts != []:
        remove_owned(folder, STORED_OF_SPLIT.fullmatch, parts)


def _replaced(folder: Path, weights: str, kind: str | None) -> list[str] | None:
    """The parts of a split's folder that go: all of it (None) where other weights were evaluated, else the bias of the
    same kind of map."""
    old = _content(folder)
    if old is not None and old["weights"] != weights:
        return None
    return [f"bias-{kind}"] if kind is not None and (folder / f"bias-{kind}").exists() else []


def store(folder: Path, content: Mapping[str, object], scores: Scores | None, answers: Mapping[str, str]) -> None:
    """Store an evaluation; what was stored of the same weights and is not in `content` stays.

    Scores are None where a task keeps none; `answers` are of questions, by their ids (VQA's submission format).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        part = folder / f".{SCORES}"
        with part.open("wb") as binary:
            save = partial(
                np.savez_compressed, binary, paths=scores.paths, targets=scores.targets, scores=scores.scores
            )
            save() if scores.attributes is None else save(attributes=scores.attributes)
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


def _content(folder: Path) -> Json | None:
    stored = _stored(folder / CONTENT, TypeAdapter(Content))
    return stored.model_dump(exclude_unset=True) if stored else None


# What files hold ------------------------------------------------------------------------------------------------------


class _Open(StoredModel):
    """A file of which only a part is read again; figures may be NaN, where a measure is not defined."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)


class Group(_Open):
    """Of evaluation.json: one group of a split."""

    samples: int = Field(ge=1)
    accuracy: float = 0
    top1: float = 0
    """In files of before, where a group was an attribute alone."""


class Groups(_Open):
    """Of evaluation.json: groups of a split."""

    worst_group: str | None
    groups: dict[str, Group]
    whole: Group | None = None


class Pairs(_Open):
    """Of evaluation.json: pairs of a class and a co-occurring class."""

    pairs: list[dict[str, str | float | None]]


class Means(_Open):
    """Of evaluation.json: figures with their intervals."""

    means: dict[str, float | None]
    intervals_95: dict[str, Annotated[list[float], Len(2, 2)] | None] = Field(default_factory=dict)


class Content(_Open):
    """evaluation.json."""

    dataset: str
    split: str
    weights: str
    measures: Json
    classes: list[str] = Field(default_factory=list)
    groups: Groups | None = None
    context: Pairs | None = None
    reliance: Means | None = None
    backgrounds: Means | None = None
    faithfulness: Means | None = None


class Bias(_Open):
    """bias.json."""

    truth: str
    tau: float
    means: dict[str, float | None]
    between: dict[str, float | None] = Field(default_factory=dict)
    steered_by: str | None = None
    """All that was typed of a prior; `prior` is what two runs may share."""
    prior: str | None = None
    gain: float | None = None


class Row(_Open):
    """One row of robustness.json."""

    test: str
    mAP: float | None = None
    top1: float | None = None
    CE: float | None = None
    mCE: float | None = None
    low_95: float | None = None
    high_95: float | None = None


def _samples(path: Path, needed: set[str]) -> Samples:
    """A table of samples by column: `picture` int, `path` and `class` texts, all others float."""
    types = {"picture": np.int64, "path": np.str_, "class": np.str_}
    try:
        with reading(path, MEND, WeightsError):
            header, *rows = read_csv(path)
            if not {*types, *needed} <= {*header} or len({*header}) < len(header):
                raise Unfit("its header is another")
            return {
                name: np.array(column).astype(types.get(name, np.float64))
                for name, column in zip(header, zip(*rows, strict=True), strict=True)
            }
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; {MEND}") from None


def _stored(path: Path, kind: TypeAdapter[M]) -> M | None:
    """What a JSON file holds; None where there is none."""
    try:
        with reading(path, MEND, WeightsError):
            return kind.validate_python(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _checked(path: Path) -> Scores:
    """Scores whose arrays fit together.

    Raises:
        ValueError: they do not, or hold something else.
    """
    with path.open("rb") as opened:
        stored = read_arrays(opened, LARGEST_SCORES)
    if not {"paths", "targets", "scores"} <= {*stored}:
        raise Unfit("its arrays are not those of scores")
    scores = Scores(stored["paths"], stored["targets"], stored["scores"], stored.get("attributes"))
    kinds = (scores.paths.dtype.kind, scores.scores.dtype.kind, scores.targets.dtype.kind)
    shape = scores.scores.shape
    if (
        kinds not in (("U", "f", "i"), ("U", "f", "f"))
        or len(shape) != 2
        or scores.paths.shape != shape[:1]
        or not scores.paths.size
    ):
        raise Unfit("its arrays are not those of scores")
    single = scores.targets.ndim == 1
    if scores.targets.shape != (shape[:1] if single else shape):
        raise Unfit("its targets and scores differ in shape")
    low, high = (0, shape[1] - 1) if single else (-1, 1)
    if not (scores.targets.min() >= low and scores.targets.max() <= high):  # nor what is not a number
        raise Unfit("its targets are not labels")
    if (beside := scores.attributes) is not None and (beside.dtype.kind != "U" or beside.shape != scores.paths.shape):
        raise Unfit("its attributes are not a word for each sample")
    if not np.isfinite(scores.scores).all():
        raise Unfit("it holds scores that are not finite")
    return scores
