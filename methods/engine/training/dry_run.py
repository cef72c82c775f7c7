"""What a run would be, computed by the run's own code: counts, batch arithmetic, learning rates. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attnbias.data.index import Index, Task
from attnbias.data.registry import open_split
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.published import ADDRESS, locate
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.training.sampler import Plan
from attnbias.methods.engine.training.setup import plan_run, run_warnings
from attnbias.weights.manifest import PUBLISHED

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
class DryRun:
    """What a run would be."""

    request: TrainRequest
    parameters: int
    groups: list[Group]
    classes: int
    task: Task
    images: int
    train: Index
    evaluated: Mapping[str, Index]
    """Split as it was asked for -> its index."""
    plan: Plan
    warnings: list[str]
    rates: list[Rates]

    @property
    def by_epoch(self) -> bool:
        """Whether the rates are those of each epoch's first step."""
        return _by_epoch(self.plan)


def dry_run(request: TrainRequest) -> DryRun:
    """Compute what `train` would do.

    Raises:
        DataError: the dataset is not prepared. UsageError: the numbers do not fit together.
        WeightsError: the weights to start from are not there.
    """
    request = place(request)
    method, recipe = get_method(request.method), request.recipe
    source = request.load_from or request.backbone_weights
    if source is not None and source not in PUBLISHED and not ADDRESS.fullmatch(source):  # else it would be fetched
        locate(source)
    index = open_split(recipe.dataset, "train", request.data_root)
    dataset = method.open_dataset(recipe, index, train=True, decode=recipe.decode)
    plan = plan_run(method, recipe, len(dataset), request.processes or 1, request.accumulation)
    with torch.device("meta"):
        model = method.build_model(recipe, len(index.classes), index.task)
    groups = [
        Group(len(group["params"]), sum(p.numel() for p in group["params"]), group["lr"], group["weight_decay"])
        for group in method.param_groups(model, recipe)
    ]
    evaluated = {split: open_split(recipe.dataset, split, request.data_root) for split in request.eval_splits}
    schedule = method.schedule(recipe, plan.steps_per_epoch)
    rates = []
    for step in _steps(plan):
        settings = schedule(step)
        lrs = [group.lr * settings["lr"] for group in groups]
        rates.append(Rates(plan.epoch_of(step + 1), step, lrs, settings.get("beta1")))
    return DryRun(
        request=request,
        parameters=sum(p.numel() for p in model.parameters()),
        groups=groups,
        classes=len(index.classes),
        task=index.task,
        images=len(dataset),
        train=index,
        evaluated=evaluated,
        plan=plan,
        warnings=run_warnings(plan, index, evaluated),
        rates=rates,
    )


def _by_epoch(plan: Plan) -> bool:
    return plan.steps is None and plan.epochs <= LONGEST


def _steps(plan: Plan) -> list[int]:
    """The optimiser steps whose rates are shown."""
    if _by_epoch(plan):
        return [epoch * plan.steps_per_epoch for epoch in range(plan.epochs)]
    last = plan.total_steps - 1
    return sorted({last * position // (ROWS - 1) for position in range(ROWS)})
