"""What a run is set up from: its plan, Accelerate for this process, and the surroundings it records."""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.reading import Json
from attnbias.data.registry import DATASETS
from attnbias.methods.engine.abilities import OrdersEpochs
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.kernels import check_device
from attnbias.methods.engine.launch import accelerate
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.published import shown
from attnbias.methods.engine.recipe import Recipe, flag_of
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.training.memory import normalizes
from attnbias.methods.engine.training.sampler import Plan, shuffled

# PyTorch 2.14 has another name for it, which the oldest that is taken here does not know.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)

CSV = "csv"
"""Of --log-with: RUN/metrics.csv, which needs no tracker."""


def plan_run(method: AnyMethod, recipe: Recipe, samples: int, processes: int, accumulation: int) -> Plan:
    """The cut of a run into epochs, steps and shares. `samples` is the size of the training split.

    Raises:
        UsageError: the numbers do not fit together.
    """
    own = method.epoch_order(recipe, samples) if isinstance(method, OrdersEpochs) else None
    order = own or shuffled(samples, recipe.seed)
    whole = len(order(0))
    limit = recipe.limit_train_batches
    plan = Plan(
        samples=whole if limit is None else min(whole, limit * recipe.batch_size),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        order=order,
        drop_last=recipe.drop_last,
        processes=processes,
        accumulation=accumulation,
        steps=recipe.steps,
    )
    if recipe.ema_decay is not None and recipe.ema_epoch * plan.steps_per_epoch >= plan.total_steps:
        raise UsageError(
            f"--ema-epoch {recipe.ema_epoch}: the run ends in epoch {plan.epoch_of(plan.total_steps) - 1}, counted "
            "from 0, before the average begins; lower it"
        )
    return plan


@contextmanager
def options_first(request: TrainRequest) -> Iterator[None]:
    """The block in which a run's data are opened: where they are missing, what no data would mend is refused first.

    Raises:
        UsageError: the batch cannot be cut as asked for, or the network cannot be built or trained so.
    """
    try:
        yield
    except DataError:
        method, recipe = get_method(request.method), request.recipe
        known = next(iter(method.recipes.values())).recipe.dataset
        info = DATASETS.get(recipe.dataset, DATASETS[known])
        processes = request.processes or 1
        Plan(recipe.batch_size, recipe.batch_size, 1, shuffled(1, 0), False, processes, request.accumulation)
        with names_and_shapes():
            model = method.build_model(recipe, info.classes or 2, info.task)
        if request.grad_checkpointing:
            checkpoint_gradients(method, model)
        raise


def describe_splits(dataset: str, train: Index, evaluated: Mapping[str, Index]) -> Json:
    """What a run reads, for its environment.json: the split that trains, and what each evaluated one really is."""
    return {
        "dataset": dataset,
        "train": train.split,
        "evaluated": {asked: index.split for asked, index in evaluated.items()},
        "evaluates_on_training_data": any(index.split == train.split for index in evaluated.values()),
    }


def run_warnings(plan: Plan, recipe: Recipe, train: Index | None, evaluated: Mapping[str, Index]) -> list[str]:
    """What a person must know before a run: that it measures itself on what it learns, that no batch is full, that it
    ends before its learning rate has risen. `train` is None where the dataset is not here."""
    warnings = []
    if recipe.limit_train_batches is not None and train is not None and plan.samples < len(train.records):
        warnings.append(
            f"warning: an epoch is {plan.samples:,} of {len(train.records):,} samples, others in each "
            "(--limit-train-batches): figures are not those of the whole recipe"
        )
    for field, length in (("warmup_steps", plan.total_steps), ("warmup_epochs", recipe.epochs)):
        asked = getattr(recipe, field, 0)
        if asked >= length and field not in recipe.unread:
            flag = flag_of(field)
            warnings.append(
                f"warning: the warm-up ({flag} {asked:g}) is no shorter than the run ({length:,}), which has a lower "
                f"learning rate than --lr {recipe.lr:g} nearly all along; lower {flag}"
            )
    if train is not None and any(index.split == train.split for index in evaluated.values()):
        warnings.append(
            f"warning: this run evaluates on what it trains on, split '{train.split}' of '{train.dataset}': its "
            "figures do not tell how the model does on other images; prepare-data --val-fraction 0.2 holds a part out"
        )
    if plan.samples < plan.batch_size:
        warnings.append(
            f"warning: an epoch has {plan.samples} samples, fewer than the batch of {plan.batch_size}: each step takes "
            f"all {plan.samples}{', although --drop-last is set' if plan.drop_last else ''}"
        )
    return warnings


def checkpoint_gradients(method: AnyMethod, model: nn.Module) -> None:
    """Keep no activations inside the blocks of a model, or of its timm backbone; the backward pass makes them anew.

    Raises:
        UsageError: nothing in the model can, or its running means would count every batch twice.
    """
    part: Any = next((part for part in model.modules() if hasattr(part, "set_grad_checkpointing")), None)
    if part is None or normalizes(part):
        raise UsageError(f"--grad-checkpointing is for transformers; this model of '{method.name}' is trained without")
    part.set_grad_checkpointing(True)


def synchronized(model: nn.Module) -> nn.Module:
    """The model with its batch normalisation shared over processes, parameters and statistics in place.

    timm's conversion, because torch's drops the activation that many of timm's normalisation layers carry.
    """
    converted: nn.Module = convert_sync_batchnorm(model)
    return converted


def build_accelerator(request: TrainRequest) -> Accelerator:
    """Start Accelerate for this process.

    Raises:
        UsageError: the precision or a tracker asked for does not exist here.
    """
    check_device(request)
    trackers = [str(name) for name in get_available_trackers()]
    asked = [name for name in request.log_with if name != CSV]  # which is ours
    if absent := [name for name in asked if name not in trackers]:
        raise UsageError(
            f"--log-with {absent[0]}: no such tracker is installed{did_you_mean(absent[0], [CSV, *trackers])}; "
            f"there is {', '.join([CSV, *trackers])}, and pip install tensorboard or wandb brings one"
        )
    return accelerate(
        request,
        mixed_precision=request.recipe.amp,
        log_with=asked or None,
        project_dir=request.out if asked else None,
        # Running statistics are shared where they are read, before an evaluation, and not in each forward pass.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )


def environment() -> Json:
    """What a run was started by and on; it stands beside its recipe."""
    return {
        "command": [shown(word) for word in sys.argv],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "host_cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }
