"""No step waits for the device: whatever a GPU would have to finish its work for is counted, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnbias.data.index import Task
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run

READS_A_STEP = 1
"""Of the flag that says whether the loss was finite, once the backward pass is queued (engine/training/step.py)."""

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal}
"""Operators whose result, or its shape, depends on values: item(), float(), `if`, rows where a mask is true."""


class Waits(TorchDispatchMode):
    """Counts the operators that a GPU could not queue."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if function.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        self.count += masked or function.overloadpacket in WAITING
        return function(*args, **(kwargs or {}))


def test_what_waits_is_counted() -> None:
    values = torch.arange(4.0)
    with Waits() as waits:
        values.sum().item()
        values[values > 1]
        values[values > 1] = torch.zeros(2)
        values.nonzero()
        assert values.any()
        values.clamp_min(0).where(values > 1, 0.0)[torch.tensor([0, 1])]
    assert waits.count == 5


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_of_the_engine_waits_once(accumulation: int, demo_root: Path, tmp_path: Path) -> None:
    """With SGD: on CPUs torch's unfused Adam reads its step counters, which stand on the CPU, from each parameter."""
    method = get_method("csra")
    changes = {"image_size": 32, "batch_size": 12, "ema_decay": 0.9, "clip_grad": 1.0, "optimizer": "sgd"}
    recipe = override(method.named_recipe("demo").recipe, changes)
    request = TrainRequest(
        method="csra", recipe=recipe, out=tmp_path / "run", data_root=demo_root, gpus=0, accumulation=accumulation
    )
    run = _Run(request, build_accelerator(request), RunFolder(request.out), Control())
    run._prepare(run._open_folder())
    for step in range(3):
        with Waits() as waits:
            run.stepper.step(step)
        assert waits.count == READS_A_STEP
    run.folder.close()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_updates_as_on_gpus_never_wait(kind: str) -> None:
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"optimizer": kind})
    model = method.build_model(recipe, 10, "multilabel")
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer = build_optimizer(method.param_groups(model, recipe), recipe, fused=True)
    for _ in range(2):
        with Waits() as waits:
            optimizer.step()
        assert waits.count == 0


@pytest.mark.parametrize("name", ["absvit", "csra", "ida", "llb", "lsas"])
@pytest.mark.parametrize("task", ["multilabel", "singlelabel"])
def test_losses_and_gradients_never_wait(name: str, task: Task) -> None:
    method = get_method(name)
    recipe = method.named_recipe("demo" if task == "multilabel" else "demo-single").recipe
    model = method.build_model(recipe, 10, task).train()
    target = torch.ones(4, 10) if task == "multilabel" else torch.ones(4, dtype=torch.int64)
    batch = {"image": torch.randn(4, 3, recipe.image_size, recipe.image_size), "target": target}
    with Waits() as waits:
        method.loss(model, batch, recipe, task)["loss"].backward()
    assert waits.count == 0
