"""One optimiser step: the micro-batches of this process, the mean gradient over all processes, the update."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, distributed, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Task
from attnbias.methods.engine.batches import on_device
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.optim import apply_schedule
from attnbias.methods.engine.training.sampler import Plan
from attnbias.methods.engine.types import Batch, BatchTransform, Schedule

SAMPLES_SHOWN = 64
"""Samples that are named of a step whose loss or gradient is not finite."""

SMALLEST_SCALE = 2.0**-24
"""fp16's smallest number: a lower scale of the gradient cannot help. From where it starts, 41 steps must be skipped."""


class Called(nn.Module):
    """What training calls in the model's place: Accelerate puts mixed precision on its `forward` for good.

    The model below stays what it is, and evaluations, which call it, do not run in mixed precision.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the model answers."""
        return self.model(*inputs, **options)


@dataclass
class Stepper:
    """Everything that takes part in a step. `model` holds the weights, `wrapped` is what is called."""

    method: AnyMethod
    recipe: Recipe
    task: Task
    plan: Plan
    schedule: Schedule
    mix: BatchTransform | None
    accelerator: Accelerator
    control: Control
    dataset: ImageDataset
    loader: Iterator[Batch]
    model: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    ema: ModelEmaV3 | None
    folder: RunFolder
    channels_last: bool
    waited: float = 0.0
    """Seconds in which steps waited for their data."""

    def step(self, step: int) -> tuple[dict[str, Tensor], list[str]]:
        """Do step number `step`; return its loss terms (means over this process's share) and unreadable images.

        Raises:
            RunError: in every process alike, when a loss or the gradient of any is not finite; the weights are
                untouched. Under fp16 a step whose gradient is not finite is skipped, until its scale is used up.
        """
        accelerator, recipe = self.accelerator, self.recipe
        self.wrapped.train()
        averages_from = recipe.ema_epoch * self.plan.steps_per_epoch
        if self.ema is not None and step == averages_from:
            self.ema.set(self.model)
        apply_schedule(self.optimizer, self.schedule, step)
        # Dropout and drop path draw from (seed, step, rank): nothing to restore on resume.
        torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))
        weights = self.plan.weights(step, accelerator.process_index)
        totals: dict[str, Tensor] = {}
        finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        losses: list[Tensor] = []
        ids: list[list[int]] = []
        errors: list[str] = []
        for micro, weight in enumerate(weights):
            batch = self._next_batch(step, micro)
            ids.append(batch["index"].tolist())
            errors += batch["errors"]
            last = micro == len(weights) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                with accelerator.autocast():
                    terms = self.method.loss(self.wrapped, batch, recipe, self.task)
                loss = terms["loss"]
                losses.append(loss.detach())
                finite &= torch.isfinite(losses[-1])
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0) + value.detach() * weight
                accelerator.backward(loss * weight)
        norm = self._gradient_norm()
        sound = torch.isfinite(norm)
        # The one moment of a step at which the CPU waits for the GPU.
        verdict = int(finite.int() + 2 * sound.int())  # both answers in one number, read once
        finite_loss, finite_gradient = bool(verdict & 1), bool(verdict & 2)
        _, bad, overflow = self.control.agree(int(not finite_loss), int(not finite_gradient))
        scaler = accelerator.scaler
        if bad or (overflow and scaler is None):
            raise RunError(self._non_finite(step, losses, ids))
        self.optimizer.step()  # under fp16 through the scaler, which skips an overflow and lowers its scale
        self.optimizer.zero_grad()
        if scaler is None or recipe.clip_grad is not None:  # else it is that of scaled gradients
            totals["gradient_norm"] = norm
        if scaler is not None:
            totals["skipped_steps"] = torch.tensor(float(overflow), device=accelerator.device)
            if overflow and scaler.get_scale() < SMALLEST_SCALE:
                raise RunError(self._non_finite(step, losses, ids, scaler.get_scale()))
        if self.ema is not None and step >= averages_from:
            self.ema.update(self.model)
        return totals, errors

    def _gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, which is then clipped where the recipe says so; under fp16 a scaled one."""
        parameters, limit = self.wrapped.parameters(), self.recipe.clip_grad
        if limit is None:
            return get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm: Tensor = self.accelerator.clip_grad_norm_(parameters, limit)
        return norm

    def _next_batch(self, step: int, micro: int) -> Batch:
        start = time.perf_counter()
        batch = next(self.loader)
        self.waited += time.perf_counter() - start
        if not len(batch["index"]):
            raise DataError(f"no image of step {step} could be read: {batch['errors'][0]}")
        batch = on_device(batch, self.dataset, self.accelerator.device)
        if self.channels_last:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        if self.mix is not None:
            rng = np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))
            batch["image"], batch["target"] = self.mix(batch["image"], batch["target"], rng)
        return batch

    def _non_finite(
        self, step: int, losses: list[Tensor], ids: list[list[int]], used_up_scale: float | None = None
    ) -> str:
        """What is said of a step that was not done; the same in every process, of the micro-batches of all."""
        shares = self.control.gather([(float(loss), samples) for loss, samples in zip(losses, ids, strict=True)])
        batches = [batch for share in shares for batch in share]
        bad = next((loss for loss, _ in batches if not math.isfinite(loss)), None)
        samples = [str(sample) for _, share in batches for sample in share]
        more = f" and {len(samples) - SAMPLES_SHOWN} more" if len(samples) > SAMPLES_SHOWN else ""
        what = "the gradient is not finite" if bad is None else f"the loss is {bad}"
        mend = "lower --lr or set --clip-grad"
        if used_up_scale is not None:
            what += f" in fp16, at a scale of {used_up_scale:.1g},"
            mend = f"take --amp bf16 or --amp no, {mend},"
        newest = self.folder.latest()
        kept = f"The last checkpoint of the run, {newest}, is good" if newest else "The run has no checkpoint yet"
        return (
            f"{what} at step {step} (epoch {step // self.plan.steps_per_epoch + 1}, "
            f"samples {', '.join(samples[:SAMPLES_SHOWN])}{more}, lr {self.optimizer.param_groups[0]['lr']:.3g}); "
            f"the weights were not touched. {kept}; {mend} and start again"
        )


def mean_in_rank_order(processes: int, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over processes, each number summed in the order of ranks: DDP's hook on a CPU.

    DDP lays its buckets out anew after the first step of a run, and gloo's order of summation follows from the place in
    a bucket: without this a resumed run of three processes or more would round otherwise than one that went on.
    """
    mine = bucket.buffer()
    parts = [torch.empty_like(mine) for _ in range(processes)]

    def mean(_: torch.futures.Future[Tensor]) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total.div_(processes)

    return distributed.all_gather(parts, mine, async_op=True).get_future().then(mean)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
