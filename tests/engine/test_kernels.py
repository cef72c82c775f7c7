"""How a GPU is asked to compute, as far as that shows on a machine without one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from attnbias.methods.engine import launch
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.kernels import TrainingKernels, compute_exactly, in_precision, resolved_amp
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest, ValRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run
from tests.helpers.command_line import attnbias
from tests.helpers.forked import FORKS, free_port
from tests.helpers.tiny_runs import CPU, TINY

GPU, HOST = torch.device("cuda"), torch.device("cpu")


def state() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    precision, allow_tf32, benchmark = state()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = allow_tf32, benchmark
    torch.use_deterministic_algorithms(False)


class Started(NamedTuple):
    """What a run's processes are asked, and how long torch's launcher waits for their end."""

    request: TrainRequest
    patience: str


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """Runs on a machine with two GPUs, up to torch's own launcher."""
    runs: list[Started] = []

    def starter(config: Any, enter: Any) -> Callable[..., None]:
        def start(worker: Any, job: str, *rest: Any) -> None:
            runs.append(Started(TrainRequest.from_json(job), os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]))

        return start

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch, "elastic_launch", starter)
    return runs


def request(**options: Any) -> TrainRequest:
    recipe = get_method("csra").named_recipe("demo").recipe
    return TrainRequest(**{"method": "csra", "recipe": recipe, "out": Path("run"), **options})


CONVOLUTIONS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
PATCHES = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Linear(4, 4))


def test_steps_on_a_gpu_are_fast_and_what_stands_around_them_is_exact() -> None:
    compute_exactly()
    exact = state()
    assert exact == ("highest", False, False)
    with TrainingKernels.of(request(), GPU, CONVOLUTIONS).chosen():
        assert state() == ("high", True, True)
    assert state() == exact
    with TrainingKernels.of(request(tf32=False, deterministic=True), GPU, CONVOLUTIONS).chosen():
        assert state() == exact


@pytest.mark.parametrize("typed", [(), ("--no-tf32",), ("--tf32",)])
def test_a_run_steps_in_tf32_unless_that_is_refused(typed: tuple[str, ...], started: list[Started]) -> None:
    attnbias("train", "csra", "--recipe", "demo", "--gpus", 2, *typed, expect=0)
    assert TrainingKernels.of(started[0].request, GPU, CONVOLUTIONS).tf32 is ("--no-tf32" not in typed)


def test_processes_have_the_time_to_end_that_was_typed(started: list[Started]) -> None:
    for typed in ((), ("--shutdown-timeout", 77)):
        attnbias("train", "csra", "--recipe", "demo", "--gpus", 2, *typed, expect=0)
    assert [run.patience for run in started] == ["120", "77"]


def test_steps_on_a_cpu_are_left_as_they_are() -> None:
    before = state()
    with TrainingKernels.of(request(), HOST, CONVOLUTIONS).chosen():
        assert state() == before


@pytest.mark.parametrize(
    ("asked", "device", "model", "taken"),
    [
        (None, GPU, CONVOLUTIONS, True),
        (None, GPU, PATCHES, False),
        (None, HOST, CONVOLUTIONS, False),
        (False, GPU, CONVOLUTIONS, False),
        (True, HOST, PATCHES, True),
    ],
)
def test_convolutions_on_a_gpu_have_their_channels_last(
    asked: bool | None, device: torch.device, model: nn.Module, taken: bool
) -> None:
    assert TrainingKernels.of(request(channels_last=asked), device, model).channels_last is taken


def test_val_is_exact_unless_tf32_is_asked_for() -> None:
    compute_exactly()
    for amp, expected in (("no", ("highest", False)), ("tf32", ("high", True))):
        with in_precision(amp, HOST):
            assert state()[:2] == expected
    with pytest.raises(UsageError, match="--amp tf32 needs a GPU"):
        place(ValRequest(method="csra", load_from=["x"], amp="tf32", gpus=0))


def test_amp_auto_is_the_best_that_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_it, name in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it, **_: has_it)
        assert resolved_amp("auto", GPU) == name
    assert resolved_amp("auto", HOST) == "no"
    assert resolved_amp("fp16", GPU) == "fp16"


def test_what_amp_auto_was_is_said_and_kept(demo_root: Path, tmp_path: Path) -> None:
    typed = ("--data-root", demo_root, "--out", tmp_path / "run", "--steps", 1, "--amp", "auto")
    said = attnbias("train", "csra", *TINY, *CPU, *typed, expect=0)
    assert not re.search(r"amp +auto", said.out)
    assert "amp: 'no'" in (tmp_path / "run" / "recipe.yaml").read_text()
    kernels = json.loads((tmp_path / "run" / "environment.json").read_text())["kernels"]
    assert kernels == {"tf32": False, "benchmark": False, "channels_last": False}
    results = tmp_path / "results.json"
    val = ("--load-from", tmp_path / "run", "--data-root", demo_root, *CPU, "--amp", "auto", "--json", results)
    attnbias("val", "csra", *val, expect=0)
    assert json.loads(results.read_text())[0]["amp"] == "no"


def test_cublas_is_told_to_repeat_itself_before_cuda_starts(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen: list[str | None] = []
    start = torch.nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda *a, **k: (seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG")), start(*a, **k))[1]
    )
    typed = ("--data-root", demo_root, "--out", tmp_path / "run", "--steps", 1, "--deterministic")
    attnbias("train", "csra", *TINY, *CPU, *typed, expect=0)
    assert seen
    assert set(seen) == {":4096:8"}


def test_a_last_batch_of_another_size_is_compiled_once(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full batches keep a graph of their own size; all others share a second one."""
    torch._dynamo.reset()
    counter, compiled = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend=counter))
    recipe = override(get_method("csra").named_recipe("demo").recipe, {"image_size": 32, "batch_size": 20, "epochs": 2})
    asked = request(data_root=demo_root, gpus=0, compile=True, recipe=recipe, out=tmp_path / "run")
    run = _Run(asked, build_accelerator(asked), RunFolder(asked.out), Control())
    run._prepare(run._open_folder())
    for step in range(run.plan.total_steps):  # 20, 20, 20, 12, and again
        run.stepper.step(step)
    run.folder.close()
    assert counter.frame_count == 2


def compiled_steps(rank: int, port: int, root: Path, out: Path, how: bool) -> None:
    """Two steps of one of two processes; the graphs that a compiler was given, and the weights, go to files."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    counter, compiled = CompileCounter(), torch.compile
    torch.compile = lambda model: compiled(model, backend=counter)  # type: ignore[assignment]
    fields = {"image_size": 32, "batch_size": 4, "backbone": "resnet18"}
    recipe = override(get_method("csra").named_recipe("demo").recipe, fields)
    asked = request(data_root=root, gpus=0, compile=how, recipe=recipe, out=out)
    run = _Run(asked, build_accelerator(asked), RunFolder(asked.out), Control())
    run._prepare(run._open_folder())
    for step in range(2):
        run.stepper.step(step)
    weights = torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])
    (out.parent.parent / f"{how}-{rank}").write_bytes(weights.numpy().tobytes())
    (out.parent.parent / f"graphs-{how}-{rank}").write_text(str(counter.frame_count))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_exchange_gradients_while_a_compiled_model_goes_back(demo_root: Path, tmp_path: Path) -> None:
    """PyTorch cuts a graph that is called inside DistributedDataParallel where its buckets of gradients end, so that
    these are sent one by one: several graphs a process instead of one, and the same weights."""
    for how in (False, True):
        port = free_port()
        processes = [
            FORKS.Process(target=compiled_steps, args=(rank, port, demo_root, tmp_path / "run" / str(how), how))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0]
    for rank in range(2):
        assert (tmp_path / f"graphs-False-{rank}").read_text() == "0"
        assert int((tmp_path / f"graphs-True-{rank}").read_text()) > 1
        assert (tmp_path / f"False-{rank}").read_bytes() == (tmp_path / f"True-{rank}").read_bytes()
