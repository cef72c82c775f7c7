"""What a run asks its plan for, and what that costs."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from attnbias.methods.engine.training.sampler import Plan, StepSampler, shuffled


@pytest.mark.parametrize("ahead", [0, 1, 7, 20])
def test_an_epoch_is_drawn_once_however_far_the_loader_is_ahead(ahead: int) -> None:
    drawn: Counter[int] = Counter()
    order = shuffled(100, 3)

    def counted(epoch: int) -> NDArray[np.int64]:
        drawn[epoch] += 1
        return order(epoch)

    plan = Plan(samples=100, batch_size=5, epochs=4, order=counted, processes=2)
    read = iter(StepSampler(plan, rank=1, start=0))
    list(itertools.islice(read, ahead))
    for step in range(plan.total_steps):
        next(read, None)
        plan.weights(step, rank=1)
    assert drawn == dict.fromkeys(range(4), 1)
