"""What is typed about how a run is carried out reaches it: in all commands that compute alike."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import DataLoader

from attnbias.methods.engine import launch
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model

STEPS = 6
"""Of one epoch of the demo set's 72 training images."""
SMALL = ("--recipe", "demo", "--image-size", 32, "--batch-size", 12, "--gpus", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def commands(demo_root: Path, model: Path, tmp_path: Path) -> dict[str, Callable[..., Any]]:
    """Each command that computes in processes of its own, on little data; what it left behind."""

    def train(*more: Any) -> Any:
        options = ("--steps", 1, "--data-root", demo_root, "--out", tmp_path / "run", *more)
        return attnbias("train", "csra", *SMALL, *options, expect=0)

    def val(*more: Any) -> Any:
        options = ("--data-root", demo_root, *more)
        return attnbias("val", "csra", "--load-from", model, "--gpus", 0, *options, expect=0)

    def predict(*more: Any) -> Any:
        images = demo_root / "demo" / "images" / "val"
        return attnbias("predict", "--load-from", model, images, "--gpus", 0, *more, expect=0)

    def visualize(*more: Any) -> Any:
        options = ("--limit", 2, "--data-root", demo_root, "--out", tmp_path / "gallery", "--overwrite", *more)
        return attnbias("visualize", "csra", "--load-from", model, *options, expect=0)

    def export(*more: Any) -> Any:
        options = ("--format", "torch-export", "--check", "--limit", 2, "--data-root", demo_root, "--overwrite", *more)
        return attnbias("export", "csra", "--load-from", model, "--out", tmp_path / "g.pt2", *options, expect=0)

    def priors(*more: Any) -> Any:
        steered = write_model(tmp_path / "absvit.safetensors", "absvit")
        options = ("--limit", 20, "--data-root", demo_root, "--out", tmp_path / "p.npz", "--overwrite", *more)
        return attnbias("priors", steered, *options, expect=0)

    def audit(*more: Any) -> Any:
        options = ("--limit", 2, "--faithfulness", 1, "--data-root", demo_root, "--out", tmp_path / "audit", *more)
        return attnbias("audit", model, "demo", *options, expect=0)

    return {
        "train": train,
        "val": val,
        "predict": predict,
        "visualize": visualize,
        "export": export,
        "priors": priors,
        "audit": audit,
    }


@dataclass
class Observed:
    """How the convolutions of a model were called."""

    training: list[int] = field(default_factory=list)
    """Images of each call in training."""
    evaluation: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    deterministic: set[bool] = field(default_factory=set)
    channels_last: set[bool] = field(default_factory=set)


@contextmanager
def observed() -> Iterator[Observed]:
    """Watch every first convolution that runs in this process."""
    seen = Observed()

    def watch(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and not torch.compiler.is_exporting():
            (seen.training if module.training else seen.evaluation).append(len(inputs[0]))
            seen.threads.add(torch.get_num_threads())
            seen.deterministic.add(torch.are_deterministic_algorithms_enabled())
            seen.channels_last.add(module.weight.is_contiguous(memory_format=torch.channels_last))

    threads = torch.get_num_threads()
    with register_module_forward_pre_hook(watch):
        yield seen
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


# All commands ---------------------------------------------------------------------------------------------------------

COMMANDS = ("train", "val", "predict")
"""Those that may share their work among processes."""


@pytest.mark.parametrize("command", [*COMMANDS, "visualize", "export", "priors", "audit"])
def test_threads_are_those_that_were_typed(command: str, commands: dict[str, Callable[..., Any]]) -> None:
    with observed() as seen:
        commands[command]("--threads", 3)
    assert seen.threads == {3}


@pytest.mark.parametrize("command", COMMANDS)
def test_evaluation_takes_as_many_images_at_once_as_typed(
    command: str, commands: dict[str, Callable[..., Any]]
) -> None:
    with observed() as seen:
        commands[command]("--eval-batch-size", 10)
    assert seen.evaluation == [10, 10, 4]
    assert seen.training == ([12] if command == "train" else [])


@pytest.mark.parametrize("command", [*COMMANDS, "visualize", "export", "priors", "audit"])
def test_loaders_have_as_many_workers_as_typed(
    command: str, commands: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], DataLoader.__init__

    def record(self: Any, *arguments: Any, **keywords: Any) -> None:
        make(self, *arguments, **keywords)
        made.append(self.num_workers)

    monkeypatch.setattr(DataLoader, "__init__", record)
    commands[command]("--workers", 1)
    assert set(made) == {1}


@pytest.mark.parametrize("command", ["visualize", "export", "priors"])
def test_one_process_computes_on_the_device_that_was_typed(
    command: str, commands: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are GPUs, by what torch says of the machine."""
    asked: list[torch.device] = []

    def record(model: nn.Module, device: torch.device | str) -> nn.Module:
        asked.append(torch.device(device))
        return model

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(nn.Module, "to", record)
    for typed in (("--gpus", 0), ("--device", "cpu")):
        commands[command](*typed)
    assert {device.type for device in asked} == {"cpu"}
    made = torch.empty

    def empty(*size: Any, device: Any = None, **how: Any) -> torch.Tensor:
        return made(*size, device=None if str(device).startswith("cuda") else device, **how)

    with monkeypatch.context() as there:
        there.setattr(torch, "empty", empty)
        there.setattr(torch.cuda, "set_device", lambda device: None)
        for typed in (("--gpus", 1), ("--device", "cuda:0")):
            asked.clear()
            with contextlib.suppress(AssertionError):  # the images cannot go there
                commands[command](*typed)
            assert asked[-1].type == "cuda"


@pytest.mark.parametrize("command", ["visualize", "export", "priors"])
def test_a_device_that_is_missing_or_contradicted_is_refused(command: str, model: Path) -> None:
    words: tuple[Any, ...] = (command, "csra", "--load-from", model, *(["--check"] if command == "export" else []))
    if command == "priors":
        words = (command, model)
    if not torch.cuda.is_available():
        assert "--gpus 1 asked for, but this machine has no GPU" in attnbias(*words, "--gpus", 1, expect=2).line
    assert "--device cpu contradicts --gpus 1" in attnbias(*words, "--gpus", 1, "--device", "cpu", expect=2).line
    for device in ("gpu", "hpu", "meta"):  # torch's own words for these are a page
        line = attnbias(*words, "--device", device, expect=2).line
        assert line.startswith(f"error: --device {device}: there is no such device; this machine has: cpu")
    line = attnbias(*words, "--device", "cuda:99", expect=2).line
    assert "this machine has: cpu" in line
    assert "http" not in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("typed", "processes", "cpu"),
    [
        (("--gpus", 2), 2, False),
        (("--gpus", 0, "--processes", 3), 3, True),
        (("--processes", 2), 2, True),
        (("--device", "cpu", "--processes", 2), 2, True),
    ],
)
def test_as_many_processes_start_as_typed_on_the_device_that_was_typed(
    typed: tuple[Any, ...],
    processes: int,
    cpu: bool,
    command: str,
    model: Path,
    demo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with four GPUs, up to torch's own launcher."""
    started: list[tuple[int, str]] = []

    def starter(config: Any, _: Any) -> Callable[..., None]:
        return lambda worker, job, *rest: started.append((config.nproc_per_node, job))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launch, "elastic_launch", starter)
    images = demo_root / "demo" / "images" / "val"
    words = {
        "train": ("train", "csra", "--recipe", "demo"),
        "val": ("val", "csra", "--load-from", model),
        "predict": ("predict", "--load-from", model, images),
    }
    attnbias(*words[command], *typed, expect=0)
    ((count, job),) = started
    assert count == processes
    assert (json.loads(job)["gpus"] == 0) is cpu


# train ----------------------------------------------------------------------------------------------------------------


def train(root: Path, out: Path, *more: Any) -> list[dict[str, Any]]:
    """Train; the lines of metrics.jsonl."""
    attnbias("train", "csra", *SMALL, "--data-root", root, "--out", out, "--threads", 1, *more, expect=0)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def evaluated(lines: list[dict[str, Any]]) -> list[int]:
    """The epochs that ended with an evaluation."""
    return [line["epoch"] for line in lines if line["split"] == "val" and line["weights"] == "raw"]


def saved(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (5, [3])])
def test_every_nth_epoch_and_the_last_one_are_evaluated(
    every: int, epochs: list[int], demo_root: Path, tmp_path: Path
) -> None:
    assert evaluated(train(demo_root, tmp_path / "run", "--epochs", 3, "--eval-every", every)) == epochs


def test_a_run_that_ends_inside_an_epoch_is_evaluated_there(demo_root: Path, tmp_path: Path) -> None:
    lines = train(demo_root, tmp_path / "run", "--steps", 2 * STEPS + 1, "--eval-every", 4)
    assert [line["step"] for line in lines if line["split"] == "val"][-1] == 2 * STEPS + 1
    assert saved(tmp_path / "run")[-1] == 2 * STEPS + 1


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_beside_the_best_as_typed(keep: int, demo_root: Path, tmp_path: Path) -> None:
    lines = train(demo_root, tmp_path / "run", "--steps", STEPS, "--save-steps", 1, "--keep", keep)
    best = next(line["step"] for line in lines if line["split"] == "val")
    assert saved(tmp_path / "run") == sorted({*range(STEPS - keep + 1, STEPS + 1), best})


def test_checkpoints_are_also_saved_every_so_many_steps(demo_root: Path, tmp_path: Path) -> None:
    train(demo_root, tmp_path / "run", "--epochs", 2, "--save-steps", 4, "--keep", 99)
    assert saved(tmp_path / "run") == [4, 6, 8, 12]


def test_training_is_logged_every_so_many_steps_and_at_the_end_of_an_epoch(demo_root: Path, tmp_path: Path) -> None:
    lines = train(demo_root, tmp_path / "run", "--epochs", 2, "--log-every", 4)
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 6, 8, 12]


def test_a_tracker_gets_what_is_logged(demo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = train(demo_root, tmp_path / "run", "--steps", 2, "--log-with", "tensorboard", "--log-every", 1)
    (file,) = (path for path in (tmp_path / "run").rglob("events.out.tfevents*") if "/attnbias/events" in str(path))
    events = EventAccumulator(str(file))
    events.Reload()
    (name,) = (name for name in events.Tags()["scalars"] if name.endswith("loss") and name.startswith("train"))
    logged = [(event.step, event.value) for event in events.Scalars(name)]
    assert logged == [(line["step"], pytest.approx(line["loss"])) for line in lines if line["split"] == "train"]


def test_a_model_is_compiled_where_that_is_typed(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    train(demo_root, tmp_path / "plain", "--steps", 1)
    assert not compiled
    train(demo_root, tmp_path / "compiled", "--steps", 1, "--compile")
    assert [type(model).__name__ for model in compiled] == ["CSRA"]


@pytest.mark.parametrize("typed", [(), ("--channels-last",), ("--deterministic",)])
def test_memory_format_and_kernels_are_those_that_were_typed(
    typed: tuple[str, ...], demo_root: Path, tmp_path: Path
) -> None:
    with observed() as seen:
        train(demo_root, tmp_path / "run", "--steps", 1, *typed)
    assert seen.channels_last == {"--channels-last" in typed}
    assert seen.deterministic == {"--deterministic" in typed}


@pytest.mark.parametrize(
    "method", [("absvit",), ("llb",), ("llb", "--visual-weight", 1), ("csra", "--backbone", "tiny_vit")]
)
def test_activations_are_computed_twice_where_that_is_typed(
    method: tuple[Any, ...], demo_root: Path, tmp_path: Path
) -> None:
    """Once for the loss, once more for the gradients; blocks that are frozen have none."""
    calls = 0

    def count(module: nn.Module, _: Any) -> None:
        nonlocal calls
        if type(module).__name__.endswith("Block") and torch.is_grad_enabled():
            calls += not next(module.parameters()).is_meta  # there a backbone is only looked over

    counted = []
    for typed in ((), ("--grad-checkpointing",)):
        start = ("train", *method, "--recipe", "demo", "--image-size", 32, "--batch-size", 4, "--steps", 1, "--gpus", 0)
        calls = 0
        with register_module_forward_pre_hook(count):
            attnbias(*start, "--data-root", demo_root, "--out", tmp_path / f"run{len(typed)}", *typed, expect=0)
        counted.append(calls)
    assert counted[1] == 2 * counted[0] > 0


def test_checkpointing_is_refused_where_running_means_would_count_twice(demo_root: Path) -> None:
    refused = attnbias("train", "csra", *SMALL, "--data-root", demo_root, "--grad-checkpointing", expect=2)
    assert "--grad-checkpointing is for transformers" in refused.line


# Reading images -------------------------------------------------------------------------------------------------------


def test_a_faster_reading_is_taken_where_that_is_typed(model: Path, demo_root: Path, tmp_path: Path) -> None:
    """Images are far larger than the network's input, so that the fast reading takes a part of their pixels."""
    from PIL import Image

    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    for path in (root / "demo" / "images" / "val").iterdir():
        with Image.open(path) as image:
            image.resize((512, 512), Image.Resampling.NEAREST).save(path, quality=60)
    scores = {}
    for decode in ("exact", "fast"):
        file = tmp_path / f"{decode}.csv"
        common = ("--load-from", model, "--data-root", root, "--gpus", 0, "--decode", decode, "--csv", file)
        (result,) = json.loads(attnbias("val", "csra", *common, "--json", "-", expect=0).out)
        assert result["decode"] == decode
        scores[decode] = file.read_text()
    assert scores["exact"] != scores["fast"]
