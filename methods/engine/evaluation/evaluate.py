"""The one evaluation loop: scores of every sample of a split, gathered from all processes by id, then measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.published_tests import competing_classes, competing_scores
from attnbias.methods.engine.batches import EvaluationSampler, batches, on_device
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import NotFiniteError, RunError
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.screen import counted
from attnbias.methods.engine.text import write_csv
from attnbias.methods.engine.types import Batch, Metrics

Perturbation = Callable[[nn.Module, Batch], Any]
"""(model, batch) -> what is scored in the place of `batch["image"]`, and is laid out alike, as an attack makes it."""


class CanAnswer(Protocol):
    """What is asked about batches: a method, or a part of what it can say."""

    def answer(self, model: Any, batch: Batch, dataset: ImageDataset, recipe: Any) -> dict[str, Tensor]:
        """Answers by name, one row a sample; `targets` among them stand in the place of the batch's."""


class Rows(NamedTuple):
    """One row per sample of a batch, or of all."""

    ids: NDArray[np.int64]
    targets: np.ndarray
    scores: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Answers:
    """What a model said to each sample. Rows are in the order of the index, each sample once."""

    ids: NDArray[np.int64]
    targets: np.ndarray
    scores: dict[str, NDArray[np.float32]]
    """The method's answers by name, one row per sample: of a classifier, probabilities (N, C), `scores` first."""
    skipped: list[str]
    """Images that could not be read and were left out (`--on-bad-image skip`)."""


@dataclass(frozen=True)
class Evaluation(Answers):
    """Answers of one split, and its measures."""

    measures: Metrics


class HowToAnswer(TypedDict, total=False):
    """The options of `answer_all`."""

    batch_size: int
    workers: int
    control: Control | None
    perturb: Perturbation | None
    everywhere: bool


def evaluate(
    method: AnyMethod,
    model: nn.Module,
    dataset: ImageDataset,
    recipe: Recipe,
    accelerator: Accelerator,
    **how: Unpack[HowToAnswer],
) -> Evaluation:
    """Score every sample of a split once and measure. `how` is of `answer_all`, which says what is raised."""
    (found,) = evaluate_all(method, [model], dataset, recipe, accelerator, **how)
    return found


def evaluate_all(
    method: AnyMethod,
    models: Sequence[nn.Module],
    dataset: ImageDataset,
    recipe: Recipe,
    accelerator: Accelerator,
    **how: Unpack[HowToAnswer],
) -> list[Evaluation]:
    """Score every sample of a split once by each of several models, and measure; the split is read once.

    The main process measures and tells the others. Where only some classes of a set compete, the scores of all others
    are 0.
    """
    found = answer_all(method, models, dataset, recipe, accelerator, **how)
    classes = competing_classes(dataset.index)
    if classes is not None:
        for each in found:
            each.scores.update({name: competing_scores(values, classes) for name, values in each.scores.items()})
    mine: list[Metrics] = []
    if accelerator.is_main_process:
        mine = [method.measure_all(recipe, each.targets, each.scores, dataset.index.task) for each in found]
    measures = Control().join(mine)
    return [
        Evaluation(each.ids, each.targets, each.scores, each.skipped, own)
        for each, own in zip(found, measures, strict=True)
    ]


@torch.no_grad()
def answer_all(
    method: CanAnswer,
    models: Sequence[nn.Module],
    dataset: ImageDataset,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    batch_size: int = 64,
    workers: int = 0,
    control: Control | None = None,
    perturb: Perturbation | None = None,
    everywhere: bool = True,
) -> list[Answers]:
    """Show every sample of a split once to each of some models, in the precision of the weights: mixed precision is for
    training steps. In bfloat16 close scores become equal (22 distinct ones of 238 were left), and a run would pick its
    best checkpoint by other figures than `val` reports.

    Batch k holds the same samples whatever the number of processes (rank k modulo processes computes it), so the
    figures do not depend on it. Where not `everywhere`, only the main process gets all answers, the others their own.

    Raises:
        Stopped: a signal asked to stop (where `control` is given). DataError: no sample could be read.
            NotFiniteError: a score is not finite.
    """
    processes, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    sampler = EvaluationSampler(len(dataset), batch_size, rank, processes)
    mine_of = iter(batches(dataset, sampler, workers=workers, device=device))
    for model in models:
        model.eval()
    mine: list[list[Rows]] = []
    skipped: list[str] = []
    together = control or Control()  # over the CPUs: of a large split, the scores of all processes would fill a GPU
    rounds = range(-(-len(dataset) // (batch_size * processes)))  # the same number in every process
    with counted(rounds, f"scoring {dataset.index.split}", of=len(dataset), shown=rank == 0) as each_round:
        for _ in each_round:
            if control is not None:
                control.raise_if_stopped()
            batch = next(mine_of, None)
            if batch is None:
                continue
            skipped += batch["errors"]
            if not len(batch["index"]):
                continue
            batch = on_device(batch, dataset, device)
            mine.append([_rows(method, model, batch, dataset, recipe, perturb) for model in models])
    skipped = together.join(skipped)
    if len(skipped) == len(dataset):
        raise DataError(f"no image of {dataset.index.dataset}/{dataset.index.split} could be read")
    parts = together.join(mine, everywhere=everywhere) or mine
    return [Answers(*_in_order([part[number] for part in parts]), skipped) for number in range(len(models))]


def _rows(
    method: CanAnswer,
    model: nn.Module,
    batch: Batch,
    dataset: ImageDataset,
    recipe: Recipe,
    perturb: Perturbation | None,
) -> Rows:
    """One batch, as the method answers it."""
    if perturb is not None:
        batch = {**batch, "image": perturb(model, batch)}
    rows = method.answer(model, batch, dataset, recipe)
    targets = rows.pop("targets") if "targets" in rows else batch["target"]
    scores = {name: value.float().cpu().numpy() for name, value in rows.items()}
    if wrong := next((name for name, values in scores.items() if len(values) != len(batch["index"])), None):
        raise RunError(f"the model gives {len(scores[wrong])} {wrong} for {len(batch['index'])} images")
    _check_finite(scores, batch["index"], dataset)
    return Rows(batch["index"].numpy(), targets.cpu().numpy(), scores)


def _in_order(parts: Sequence[Rows]) -> Rows:
    """Batches as one table by ascending id."""
    if not parts:  # fewer batches than processes
        return Rows(np.empty(0, np.int64), np.empty(0), {})
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    targets = np.concatenate([part.targets for part in parts])[order]
    scores = {name: np.concatenate([part.scores[name] for part in parts])[order] for name in parts[0].scores}
    return Rows(ids[order], targets, scores)


def _check_finite(scores: dict[str, NDArray[np.float32]], samples: Tensor, dataset: ImageDataset) -> None:
    """Refuse NaN and infinity before anything is measured by them or written."""
    for values in scores.values():
        broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if broken.any():
            first = dataset.records[int(samples[int(broken.argmax())])].path
            raise NotFiniteError(f"scores of {first} hold")


def answers(evaluation: Evaluation, dataset: ImageDataset) -> Iterator[tuple[str, str]]:
    """The id of each sample's text in the set's own files, and the answer in words, where one was chosen."""
    for sample, chosen in zip(evaluation.ids, evaluation.scores["answer"], strict=True):
        text = dataset.records[sample].text
        yield (text.identifier or "") if text else "", dataset.index.classes[int(chosen)]


def write_scores(path: Path, evaluation: Evaluation, dataset: ImageDataset) -> None:
    """Write one row per sample as CSV: its path, its targets, its scores; or its text and the answer to it."""
    write_csv(path, _score_rows(evaluation, dataset))


def _score_rows(evaluation: Evaluation, dataset: ImageDataset) -> Iterator[list[object]]:
    names = dataset.index.classes
    if "scores" not in evaluation.scores:
        yield ["path", "id", "text", "answer"]
        for sample, (identifier, answer) in zip(evaluation.ids, answers(evaluation, dataset), strict=True):
            record = dataset.records[sample]
            yield [record.path, identifier, record.text.sentence if record.text else "", answer]
        return
    yield ["path", *(f"target:{n}" for n in names), *(f"score:{n}" for n in names)]
    for sample, target, score in zip(evaluation.ids, evaluation.targets, evaluation.scores["scores"], strict=True):
        row = target if target.ndim else (np.arange(len(names)) == target)
        yield [dataset.records[sample].path, *map(int, row), *(f"{value:.6f}" for value in score)]
