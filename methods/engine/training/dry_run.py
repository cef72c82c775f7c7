"""What a run would be, computed by the run's own code: counts, batch arithmetic, learning rates. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Task
from attnbias.data.registry import DATASETS, open_split, ready
from attnbias.methods.engine.abilities import ReadsTexts
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.cost import measure_cost
from attnbias.methods.engine.kernels import refusals
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.published import check_source
from attnbias.methods.engine.recipe import OWN, Recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.training.memory import Memory, measure, normalizes
from attnbias.methods.engine.training.sampler import Plan
from attnbias.methods.engine.training.setup import checkpoint_gradients, options_first, plan_run, run_warnings
from attnbias.methods.engine.training.train import peak_of_steps
from attnbias.methods.engine.types import Schedule

LONGEST = 400
"""Rows of the learning-rate table where it has one for each epoch."""
ROWS = 21
"""Rows where it has not: where the run ends by `steps`, or lasts longer."""


@dataclass(frozen=True)
class Group:
    """One group of the optimiser."""

    tensors: int
    parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Rates:
    """The settings of one optimiser step."""

    epoch: int
    step: int
    lrs: list[float]
    """One a group."""
    beta1: float | None


@dataclass(frozen=True)
class Split:
    """A split as far as a dry run needs it: of a prepared dataset, or of one that only the catalogue knows."""

    dataset: str
    name: str
    samples: int | None
    """None where only the files tell."""
    classes: int
    task: Task
    index: Index | None
    """None where the dataset is not prepared here."""

    @classmethod
    def open(cls, recipe: Recipe, split: str, data_root: Path | None) -> Split:
        """Read a prepared split; of a set that is not prepared, take what the catalogue says.

        Raises:
            DataError: the catalogue has no such dataset or split, or what was prepared is damaged.
        """
        try:
            index = open_split(recipe.dataset, split, data_root)
            return cls(index.dataset, index.split, len(index.records), len(index.classes), index.task, index)
        except DataError:
            info = DATASETS.get(recipe.dataset)
            if info is None or ready(recipe.dataset, data_root):
                raise
            name = {"train": info.train, "val": info.val}.get(split, split)
            if name is None or name not in info.splits:
                raise
            return cls(info.name, name, info.counts.get(name), info.classes or 0, info.task, None)


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    request: TrainRequest
    parameters: int
    macs: int | None
    """Multiply-accumulates of one image in evaluation; None where a model answers to texts, too."""
    groups: list[Group]
    images: int | None
    train: Split
    evaluated: Mapping[str, Split]
    """Split as it was asked for -> what it is."""
    plan: Plan | None
    """None where the number of images is not known."""
    warnings: list[str]
    rates: list[Rates]
    normalizes: bool
    """Whether it has batch normalisation, which sees the images that a process is shown at once."""
    memory: Memory | None
    """What steps take, where `measure` asks for it."""


def dry_run(request: TrainRequest) -> DryRun:
    """Compute what `train` would do.

    Raises:
        DataError: the dataset is not prepared. UsageError: the numbers do not fit together.
        WeightsError: the weights to start from are not there.
    """
    request = place(request)
    method, recipe = get_method(request.method), request.recipe
    source = request.load_from or request.init
    if source not in (None, OWN):
        check_source(source)
    with options_first(request):
        train = Split.open(recipe, "train", request.data_root)
        evaluated = {split: Split.open(recipe, split, request.data_root) for split in request.eval_splits}
    images = train.samples
    if train.index is not None:
        images = len(method.open_dataset(recipe, train.index, train=True, decode=recipe.decode))
    with names_and_shapes():
        model = method.build_model(recipe, train.classes, train.task)
    if request.grad_checkpointing:
        checkpoint_gradients(method, model)
    groups = [
        Group(len(group["params"]), sum(p.numel() for p in group["params"]), group["lr"], group["weight_decay"])
        for group in method.param_groups(model, recipe)
    ]
    plan, warnings = None, list[str]()
    if images is not None:
        plan = plan_run(method, recipe, images, request.processes or 1, request.accumulation)
        here = {split: known.index for split, known in evaluated.items() if known.index is not None}
        warnings = run_warnings(plan, recipe, train.index, here)
    return DryRun(
        request=request,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=None if isinstance(method, ReadsTexts) else measure_cost(model, recipe.image_size).macs,
        groups=groups,
        images=images,
        train=train,
        evaluated=evaluated,
        plan=plan,
        warnings=[*warnings, *(f"warning: not on this machine: {no}" for no in refusals(request))],
        rates=[] if plan is None else _rates(plan, groups, method.schedule(recipe, plan.steps_per_epoch)),
        normalizes=normalizes(model),
        memory=_memory(request, plan, train) if request.measure else None,
    )


def _memory(request: TrainRequest, plan: Plan | None, train: Split) -> Memory:
    if plan is None or train.index is None:
        raise UsageError(f"--measure reads images of '{train.dataset}', which is not prepared here; leave it out")
    return measure(plan, torch.device(request.device or "cpu"), partial(peak_of_steps, request))


def _rates(plan: Plan, groups: list[Group], schedule: Schedule) -> list[Rates]:
    """What the optimiser is set to at the steps that are shown."""
    found = []
    for step in _steps(plan):
        settings = schedule(step)
        lrs = [group.lr * settings["lr"] for group in groups]
        found.append(Rates(plan.epoch_of(step + 1), step, lrs, settings.get("beta1")))
    return found


def is_by_epoch(plan: Plan) -> bool:
    """Whether the rates are those of each epoch's first step."""
    return plan.steps is None and plan.epochs <= LONGEST


def _steps(plan: Plan) -> list[int]:
    """The optimiser steps whose rates are shown."""
    if is_by_epoch(plan):
        return [epoch * plan.steps_per_epoch for epoch in range(plan.epochs)]
    last = plan.total_steps - 1
    return sorted({last * position // (ROWS - 1) for position in range(ROWS)})
