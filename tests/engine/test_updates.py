"""What an update computes: skipped steps, synchronised normalisation, gradients that are not finite."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnbias.methods.csra.method import ResidualAttention
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.setup import build_accelerator, synchronized
from attnbias.methods.engine.training.train import _Run
from attnbias.methods.engine.types import Batch
from tests.helpers.forked import FORKS, free_port


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_first_step_that_the_scaler_skips_leaves_no_trace(kind: str) -> None:
    """fp16 starts with a scale that overflows: fused updates, as on GPUs, then go on as if that step had not been."""
    recipe = override(get_method("csra").named_recipe("demo").recipe, {"optimizer": kind, "momentum": 0.9})
    ends = []
    for losses in ([1.0, 1.0], [float("inf"), 1.0, 1.0]):
        weight = nn.Parameter(torch.zeros(4096))
        optimizer = build_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], recipe, fused=True)
        scaler = torch.amp.GradScaler("cpu")
        for loss in losses:
            dirty = [torch.full((4096,), 7e3) for _ in range(50)]  # memory that torch then hands out anew
            del dirty
            scaler.scale(weight.sum() * loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        ends.append(weight.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("backbone", ["tiny", "efficientnet_b0", "regnety_002", "resnetv2_50"])
def test_synchronised_normalisation_computes_the_same(backbone: str) -> None:
    method = get_method("ida")
    recipe = override(method.named_recipe("demo").recipe, {"backbone": backbone})
    model = method.build_model(recipe, 5, "multilabel").eval()
    names = list(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        model = synchronized(model)
        assert torch.equal(model(images), before)
    assert list(model.state_dict()) == names
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    assert layers
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)


class NanGradient(ResidualAttention):
    """Its loss stays finite; where a chosen sample takes part, its gradient is not: the square root of zero."""

    sample: int | None = None
    every = False
    of_loss = False
    """The loss itself is not a number."""

    def loss(self, model: nn.Module, batch: Batch, recipe: Any, task: Any) -> dict[str, Tensor]:
        terms = super().loss(model, batch, recipe, task)
        if self.every or self.sample in batch["index"].tolist():
            zero = next(model.parameters()).sum() * 0
            terms["loss"] = terms["loss"] + (zero / zero if self.of_loss else zero.sqrt())
        return terms


def prepared(
    method: ResidualAttention,
    root: Path,
    out: Path,
    scaler: Any = None,
    how: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> _Run:
    """A run of the demo set that is ready for its first step: 12 samples a step, in three micro-batches."""
    fields = {"image_size": 32, "batch_size": 12, "optimizer": "sgd", "momentum": 0.0, **changes}
    recipe = override(method.named_recipe("demo").recipe, fields)
    request = TrainRequest(method="csra", recipe=recipe, out=out, data_root=root, gpus=0, accumulation=3, **how)
    accelerator = build_accelerator(request)
    accelerator.scaler = scaler
    run = _Run(request, accelerator, RunFolder(out), Control())
    run.method = method
    return run


def weights(run: _Run) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("clip_grad", [None, 1.0])
@pytest.mark.parametrize("position", [0, 5, 11])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    position: int, clip_grad: float | None, demo_root: Path, tmp_path: Path
) -> None:
    """Whichever micro-batch it comes from; the loss itself would show it one step later."""
    method = NanGradient()
    run = prepared(method, demo_root, tmp_path / "run", clip_grad=clip_grad)
    run._prepare(run._open_folder())
    samples = [sample for share in run.plan.shares(0) for sample in share]
    method.sample = int(samples[position])
    before = weights(run)
    with pytest.raises(RunError, match=r"the gradient is not finite at step 0 \(epoch 1, samples ") as caught:
        run.stepper.step(0)
    assert torch.equal(weights(run), before)
    named = str(caught.value).split("samples ")[1].split(", lr")[0].split(", ")
    assert sorted(map(int, named)) == sorted(samples)
    assert "The run has no checkpoint yet" in str(caught.value)
    assert "good" not in str(caught.value)
    run.folder.close()


def test_the_last_checkpoint_is_named_where_there_is_one(demo_root: Path, tmp_path: Path) -> None:
    method = NanGradient()
    run = prepared(method, demo_root, tmp_path / "run", how={"save_steps": 1})
    method.sample = int(run.plan.shares(1)[0][0])
    with pytest.raises(RunError, match=r"step-00000001, is good"):
        run.fit(lambda: None)
    run.folder.close()


def test_under_fp16_an_overflow_is_left_to_the_scaler(demo_root: Path, tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=float("inf"), backoff_factor=0.5)
    run = prepared(NanGradient(), demo_root, tmp_path / "run", scaler)
    run._prepare(run._open_folder())
    before = weights(run)
    run.stepper.step(0)
    assert torch.equal(weights(run), before)
    scaler._scale = torch.tensor(1024.0)
    run.stepper.step(1)
    assert not torch.equal(weights(run), before)
    run.folder.close()


def test_under_fp16_a_gradient_that_is_never_finite_is_counted_and_ends_the_run(
    demo_root: Path, tmp_path: Path
) -> None:
    """Each skipped step halves the scale: in the third one nothing is left of it."""
    method = NanGradient()
    method.every = True
    out, scaler = tmp_path / "run", torch.amp.GradScaler("cpu", init_scale=2.0**-22)
    run = prepared(method, demo_root, out, scaler, {"save_steps": 1, "log_every": 1})
    before = weights(run)
    with pytest.raises(
        RunError, match=r"not finite in fp16, at a scale of 3e-08, at step 2 .*take --amp bf16"
    ) as caught:
        run.fit(lambda: None)
    assert "step-00000002, is good" in str(caught.value)
    assert torch.equal(weights(run), before)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["skipped_steps"]) for line in logged] == [(1, 1), (2, 1)]
    run.folder.close()


def test_skipped_steps_are_said_on_the_line(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of the six steps of the epoch that the line is of."""
    method = NanGradient()
    run = prepared(method, demo_root, tmp_path / "run", torch.amp.GradScaler("cpu"), epochs=1)
    method.sample = int(run.plan.shares(2)[0][0])
    run.fit(lambda: None)
    (line, *_) = [json.loads(line) for line in run.folder.metrics.path.read_text().splitlines()]
    assert line["skipped_steps"] == 1
    assert "skipped_steps 1 " in capsys.readouterr().out
    run.folder.close()


def test_under_fp16_a_loss_that_is_not_finite_stops_at_once(demo_root: Path, tmp_path: Path) -> None:
    """In the first micro-batch already, which the last one must not make forgotten."""
    method = NanGradient()
    method.of_loss = True
    run = prepared(method, demo_root, tmp_path / "run", torch.amp.GradScaler("cpu"))
    run._prepare(run._open_folder())
    method.sample = int(run.plan.shares(0)[0][0])
    before = weights(run)
    with pytest.raises(RunError, match=r"the loss is nan at step 0"):
        run.stepper.step(0)
    assert torch.equal(weights(run), before)
    run.folder.close()


def test_the_scaler_of_a_resumed_run_goes_on_where_it_stood(demo_root: Path, tmp_path: Path) -> None:
    """Its scale is doubled after every third good step: after 3 and 6 of 6, the first time before the resume at 5."""
    ends = []
    for out, resume in ((tmp_path / "straight", None), (tmp_path / "run", tmp_path / "straight")):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024, growth_interval=3)
        checkpoint = resume and str(RunFolder(resume).folder(5))
        how = {"save_steps": 1, "resume": checkpoint}
        run = prepared(NanGradient(), demo_root, out, scaler, how, epochs=1, ema_decay=None)
        run.fit(lambda: None)
        assert scaler.get_scale() == 4096
        run.folder.close()
        ends.append(RunFolder(out).folder(6))
    for name in ("model.safetensors", "optimizer.pt"):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name


def step_of_a_process(rank: int, port: int, root: Path, out: Path) -> None:
    """The first step of a run of two processes; what is said of it and of the weights goes to a file."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    method = NanGradient()
    run = prepared(method, root, out)
    run._prepare(run._open_folder())
    shares = run.plan.shares(0)
    method.sample = int(shares[3][0])  # of the second process's second micro-batch
    before = weights(run)
    try:
        run.stepper.step(0)
    except RunError as error:
        (out / f"said-{rank}").write_text(f"{torch.equal(weights(run), before)} {error}")
    torch.distributed.destroy_process_group()


def test_all_processes_stop_alike_where_one_gradient_is_not_finite(demo_root: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "run", free_port()
    processes = [FORKS.Process(target=step_of_a_process, args=(rank, port, demo_root, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    said = [(out / f"said-{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("True the gradient is not finite at step 0")
    assert len(said[0].split("samples ")[1].split(", lr")[0].split(", ")) == 12
