"""Which samples make up which step: a pure function of (seed, epoch, step), cut into equal shares for the processes.

Nothing here has state, so a run resumes in the middle of an epoch by starting at a step, and the number of processes
and accumulation steps decides only how a global batch is cut up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from attnbias.data.datasets import SampleKey
from attnbias.methods.engine.errors import UsageError

KEPT_EPOCHS = 2
"""Epochs whose order is kept: the one that trains, and the one that the loader already reads."""

Order = Callable[[int], NDArray[np.int64]]
"""Epoch (from 0) -> the sample indices of that epoch, in order."""


def shuffled(samples: int, seed: int) -> Order:
    """The default order: a permutation drawn from (seed, epoch)."""
    return lambda epoch: np.random.default_rng((seed, epoch)).permutation(samples)


@dataclass(frozen=True)
class Plan:
    """The cut of every epoch into steps, and of every step into shares."""

    samples: int
    """Samples an epoch."""
    batch_size: int
    """Global batch: over all processes and accumulation steps."""
    epochs: int
    order: Order
    drop_last: bool = False
    processes: int = 1
    accumulation: int = 1
    steps: int | None = None
    """Where the run ends after so many optimiser steps instead of after whole epochs."""

    def __post_init__(self) -> None:
        shares = self.processes * self.accumulation
        if self.batch_size < shares:
            raise UsageError(
                f"a global batch of {self.batch_size} cannot be cut into {self.processes} processes x "
                f"{self.accumulation} accumulation steps; raise --batch-size or lower --accumulation"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch; at least one, also when a set is smaller than a batch."""
        full, rest = divmod(self.samples, self.batch_size)
        return max(full, 1) if self.drop_last else full + bool(rest)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps or self.epochs * self.steps_per_epoch

    def arithmetic(self, accumulation: int) -> str:
        """How the global batch is cut up, and how many there are, in words."""
        share = self.batch_size / (self.processes * accumulation)
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        return (
            f"batch: global {self.batch_size} = {processes} x {share:g} x {accumulation} accumulation; "
            f"{self.steps_per_epoch:,} steps an epoch, {self.total_steps:,} in all"
        )

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 1, that the run is in after so many steps; 0 before the first."""
        return -(-step // self.steps_per_epoch)

    def shares(self, step: int) -> list[NDArray[np.int64]]:
        """The global batch of a step cut into accumulation x processes shares, share a * processes + r for rank r."""
        return [draws[:, 0] for draws in self.draws(step)]

    def draws(self, step: int) -> list[NDArray[np.int64]]:
        """The same shares with the number of each sample's augmentation beside it, (n, 2)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batch = self._epoch_draws(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        return np.array_split(batch, self.processes * self.accumulation)

    def weights(self, step: int, rank: int) -> list[float]:
        """What this rank's mean loss of each micro-batch weighs, so that the average over processes of the sum over
        micro-batches is the mean over the global batch. An empty share (last batch of an epoch) weighs 0."""
        shares = self.shares(step)
        total = sum(len(share) for share in shares)
        return [len(share) * self.processes / total for share in shares[rank :: self.processes]]

    def _epoch_draws(self, epoch: int) -> NDArray[np.int64]:
        # Epochs are asked for step by step, and around an end both of them: the loader is batches ahead of the steps.
        kept: dict[int, NDArray[np.int64]] = self.__dict__.setdefault("_kept", {})
        if epoch not in kept:
            order = self.order(epoch)[: self.samples]
            if len(kept) == KEPT_EPOCHS:
                del kept[next(iter(kept))]
            kept[epoch] = np.stack([order, augmentations(order, epoch)], axis=1)
        return kept[epoch]


def augmentations(order: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    """Number the augmentation of each sample of an epoch's order: the epoch, or, where an epoch shows samples several
    times (repeated augmentation), another number for each view."""
    positions = np.argsort(order, kind="stable")
    _, starts, counts = np.unique(order[positions], return_index=True, return_counts=True)
    views = np.empty_like(order)
    views[positions] = np.arange(len(order)) - np.repeat(starts, counts)
    return epoch * counts.max(initial=1) + views


class StepSampler(Sampler[list[SampleKey]]):
    """This rank's micro-batches from `start` to the end of the run: one loader serves all epochs."""

    def __init__(self, plan: Plan, rank: int, start: int) -> None:
        self.plan, self.rank, self.start = plan, rank, start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.start, self.plan.total_steps):
            shares = self.plan.draws(step)
            for share in shares[self.rank :: self.plan.processes]:
                # An empty share still takes part in the collective backward pass: any sample of the step, at weight 0.
                draws = share if len(share) else shares[0][:1]
                yield [SampleKey(sample, augmentation) for sample, augmentation in draws.tolist()]

    def __len__(self) -> int:
        return (self.plan.total_steps - self.start) * self.plan.accumulation
