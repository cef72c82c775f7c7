"""What runs out or breaks while a run is on its way: disk, memory, loader processes. The last good checkpoint stays."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbias.cli.errors import describe
from attnbias.data.registry import open_split
from attnbias.methods.engine import batches
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import Progress, RunFolder, damage
from attnbias.methods.engine.training.sampler import shuffled
from attnbias.methods.engine.training.train import train
from tests.helpers.forked import ForkedRun

RUN = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--batch-size", 20, "--gpus", 0]
RUN += ["--threads", 1, "--save-steps", 1, "--log-every", 1, "--resume", "auto"]


def run(out: Path, root: Path, *more: Any) -> ForkedRun:
    return ForkedRun([*RUN, "--data-root", root, "--out", out, *more], out.parent / f"{out.name}-{time.time_ns()}.log")


def refusal(failed: ForkedRun, code: int = 1) -> str:
    """The line on which a run ended with an exit code; nothing else follows it."""
    assert failed.wait() == [code], failed.log.read_text()
    return failed.log.read_text().splitlines()[-1]


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def workers_of(training: ForkedRun, out: Path) -> list[int]:
    """Loader processes, once the run has made a step."""
    assert training.wait_until(lambda: RunFolder(out).steps() != []), training.log.read_text()
    return children_of(training.processes[0].pid or 0)


def all_complete(out: Path) -> bool:
    """Whether there are checkpoints, all of them whole, and nothing half written beside them."""
    found = list(RunFolder(out).checkpoints.iterdir())
    return found != [] and all(damage(folder) is None for folder in found)


def test_a_worker_that_is_killed_ends_the_run_in_one_line(demo_root: Path, tmp_path: Path) -> None:
    """Whatever the run is doing at that moment; it evaluates never, so that its only loader is that of training."""
    out = tmp_path / "run"
    training = run(out, demo_root, "--workers", 2, "--epochs", 500, "--eval-every", 500)
    victim = workers_of(training, out)[0]
    os.kill(victim, signal.SIGKILL)
    line = refusal(training)
    assert line.startswith("error: DataLoader worker ")
    assert line.endswith("did memory run out, or a disk hang? try fewer --workers")
    folder = RunFolder(out)
    assert folder.steps() != []
    assert [damage(folder.folder(step)) for step in folder.steps()] == [None] * len(folder.steps())


def test_a_worker_that_is_lost_while_a_checkpoint_is_written_is_no_failed_write(tmp_path: Path) -> None:
    """PyTorch raises it wherever the run is, also where a missing file was just found to be no matter."""

    def write(folder: Path) -> None:
        try:
            (folder / "missing").unlink()
        except FileNotFoundError:
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from None

    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="DataLoader worker") as raised:
        folder.save(Progress(step=1), write)
    assert "cannot write" not in str(raised.value)
    assert [*folder.checkpoints.iterdir()] == []


def lost(kind: type[Exception]) -> None:
    raise kind("closed")


class Unreadable:
    """A part of a batch that raises where the main process reads it, as memory of a worker that is gone does."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return lost, (self.kind,)


@pytest.mark.parametrize("kind", [ConnectionResetError, BrokenPipeError, EOFError, FileNotFoundError])
def test_a_lost_worker_is_told_by_the_same_line_however_it_is_seen(
    kind: type[Exception], demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = get_method("csra")
    dataset = method.open_dataset(method.named_recipe("demo").recipe, open_split("demo", "val", demo_root))
    monkeypatch.setattr(dataset, "collate", lambda samples: Unreadable(kind))
    loader = batches.batches(dataset, [[(0, 0)]], workers=1, device=torch.device("cpu"))
    with pytest.raises(RuntimeError) as raised:
        next(iter(loader))
    code, line = describe(raised.value)
    assert code == 1
    assert line.startswith(f"error: DataLoader worker ended and left a batch unread ({kind.__name__})")
    assert line.endswith("did memory run out, or a disk hang? try fewer --workers")


def test_an_error_that_a_worker_meets_is_no_lost_worker(demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("csra")
    dataset = method.open_dataset(method.named_recipe("demo").recipe, open_split("demo", "val", demo_root))
    monkeypatch.setattr(dataset, "collate", lambda samples: lost(FileNotFoundError))
    with pytest.raises(FileNotFoundError, match="closed"):
        next(iter(batches.batches(dataset, [[(0, 0)]], workers=1, device=torch.device("cpu"))))


def test_a_worker_that_hangs_ends_the_run(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image never comes, as from a dead network disk: a pipe that nobody writes to."""
    shutil.copytree(demo_root / "demo", tmp_path / "demo")
    image = sorted((tmp_path / "demo" / "images" / "train").iterdir())[int(shuffled(72, 0)(0)[70])]
    image.unlink()
    os.mkfifo(image)
    monkeypatch.setattr(batches, "LONGEST_WAIT", 2.0)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # before it ends a worker by force
    changes = {"epochs": 2, "batch_size": 20, "image_size": 32}
    recipe = override(get_method("csra").named_recipe("demo").recipe, changes)
    request = TrainRequest(
        method="csra", recipe=recipe, out=tmp_path / "run", data_root=tmp_path, gpus=0, workers=2, save_steps=1
    )
    before = children_of(os.getpid())
    with pytest.raises(RuntimeError) as raised:
        train(request)
    code, line = describe(raised.value)
    del raised  # and with it the loader
    assert code == 1
    assert line.startswith("error: DataLoader timed out after 2")
    assert RunFolder(request.out).steps()[-1] == 3
    assert all_complete(request.out)
    deadline = time.monotonic() + 10
    while set(children_of(os.getpid())) - set(before) and time.monotonic() < deadline:
        multiprocessing.active_children()  # torch 2.8 does not wait for those that it ends; this does
        time.sleep(0.05)
    assert set(children_of(os.getpid())) <= set(before)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    place, mount = tmp_path / "disk", shutil.which("mount")
    place.mkdir()
    words = [str(mount), "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte of a disk free; returns the file that takes them."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return path


def test_a_disk_that_fills_up_while_training(disk: Path, demo_root: Path, tmp_path: Path) -> None:
    straight, out = run(tmp_path / "straight", demo_root, "--epochs", 5), disk / "run"
    training = ForkedRun([*RUN, "--data-root", demo_root, "--epochs", 5, "--out", out], tmp_path / "log")
    assert training.wait_until(lambda: RunFolder(out).steps() != [])
    filler = fill(disk)
    line = refusal(training)
    assert line.startswith("error: cannot write ")
    assert line.endswith("the disk is full; the last good checkpoint is untouched")
    assert all_complete(out)
    again = ForkedRun([*RUN, "--data-root", demo_root, "--epochs", 5, "--out", out], tmp_path / "again")
    assert "No space left on device" in refusal(again) or "the disk is full" in refusal(again)
    assert all_complete(out)
    filler.unlink()
    last = ForkedRun([*RUN, "--data-root", demo_root, "--epochs", 5, "--out", out], tmp_path / "last")
    assert [*last.wait(), *straight.wait()] == [0, 0], last.log.read_text()
    for name in ("metrics.jsonl", "checkpoints/step-00000020/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_folder_that_cannot_be_written(disk: Path, demo_root: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    training = ForkedRun([*RUN, "--data-root", demo_root, "--out", disk / "run"], tmp_path / "log")
    said = f"error: cannot write to output folder {disk / 'run'}: Read-only file system; choose another --out"
    assert refusal(training, 2) == said


@pytest.mark.parametrize("how", [["--resume", "auto"], ["--overwrite"]])
def test_a_second_run_into_the_same_folder_is_refused(how: list[str], demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(out, demo_root, "--epochs", 500)
    assert first.wait_until(lambda: RunFolder(out).steps() != []), first.log.read_text()
    words = [word for word in RUN if word not in {"--resume", "auto"}]
    words += ["--epochs", 500, "--data-root", demo_root, "--out", out, *how]
    second = ForkedRun(words, tmp_path / "log")
    assert refusal(second) == f"error: output folder {out} is in use by another run; choose another --out"
    seen = RunFolder(out).steps()[-1]
    assert first.wait_until(lambda: RunFolder(out).steps()[-1] > seen), "the first one does not go on"
    os.kill(first.processes[0].pid or 0, signal.SIGTERM)
    assert first.wait() == [143]
    assert all_complete(out)
