"""One optimiser step: the micro-batches of this process, the mean gradient over all processes, the update."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from attnbias.data.datasets import PictureDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Task
from attnbias.methods.engine.batches import on_device
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.method import Batch, BatchTransform, Method, Schedule
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.training.optim import apply_schedule
from attnbias.methods.engine.training.sampler import Plan


@dataclass
class Stepper:
    """Everything that takes part in a step. `model` holds the weights, `wrapped` is what is called."""

    method: Method
    recipe: Recipe
    task: Task
    plan: Plan
    schedule: Schedule
    mix: BatchTransform | None
    accelerator: Accelerator
    control: Control
    dataset: PictureDataset
    loader: Iterator[Batch]
    model: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    ema: ModelEmaV3 | None
    channels_last: bool

    def step(self, step: int) -> tuple[dict[str, Tensor], list[str]]:
        """Do step number `step`; return its loss terms (means over this process's share) and unreadable pictures.

        Raises:
            RunError: in every process alike, when the loss of any is not finite; the weights are untouched.
        """
        accelerator, recipe = self.accelerator, self.recipe
        self.wrapped.train()
        apply_schedule(self.optimizer, self.schedule, step)
        # Dropout and drop path draw from (seed, step, rank): nothing to restore on resume.
        torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))
        weights = self.plan.weights(step, accelerator.process_index)
        totals: dict[str, Tensor] = {}
        finite, ids, errors = torch.ones((), dtype=torch.bool, device=accelerator.device), [], []
        for micro, weight in enumerate(weights):
            batch = self._next_batch(step, micro)
            ids += batch["index"].tolist()
            errors += batch["errors"]
            last = micro == len(weights) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                with accelerator.autocast():
                    terms = self.method.loss(self.wrapped, batch, recipe, self.task)
                loss = terms["loss"]
                finite &= torch.isfinite(loss.detach())
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0) + value.detach() * weight
                # The flag travels to the CPU while the backward pass runs: no bubble on a GPU.
                flag = finite.to("cpu", non_blocking=True)
                arrived = _event(accelerator.device)
                accelerator.backward(loss * weight)
        if arrived is not None:
            arrived.synchronize()
        _, bad = self.control.agree(int(not flag))
        if bad:
            raise RunError(self._non_finite(step, ids, float(loss.detach())))
        if recipe.clip_grad is not None:
            accelerator.clip_grad_norm_(self.wrapped.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)
        return totals, errors

    def _next_batch(self, step: int, micro: int) -> Batch:
        batch = next(self.loader)
        if not len(batch["index"]):
            raise DataError(f"no picture of step {step} could be read: {batch['errors'][0]}")
        batch = on_device(batch, self.dataset, self.accelerator.device)
        if self.channels_last:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        if self.mix is not None:
            rng = np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))
            batch["image"], batch["target"] = self.mix(batch["image"], batch["target"], rng)
        return batch

    def _non_finite(self, step: int, ids: list[int], loss: float) -> str:
        shown = ", ".join(map(str, ids[:8])) + (" ..." if len(ids) > 8 else "")
        return (
            f"the loss is {loss} at step {step} (epoch {step // self.plan.steps_per_epoch + 1}, samples {shown}, "
            f"lr {self.optimizer.param_groups[0]['lr']:.3g}); the weights were not touched. The last checkpoint of "
            "the run is good; lower --lr or set --clip-grad and start again"
        )


def mean_in_rank_order(processes: int, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over processes, each number summed in the order of ranks: DDP's hook on a CPU.

    DDP lays its buckets out anew after the first step of a run, and gloo's order of summation follows from the place in
    a bucket: without this a resumed run of three processes or more would round otherwise than one that went on.
    """
    mine = bucket.buffer()
    parts = [torch.empty_like(mine) for _ in range(processes)]

    def mean(_: torch.futures.Future[Any]) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total.div_(processes)

    return distributed.all_gather(parts, mine, async_op=True).get_future().then(mean)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _event(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
