"""What a run promises across processes, through the command line: kill and recover, signals, one against two.

One test starts as a person starts, whose processes torch's launcher spawns; the others are forked (helpers/forked.py).
Losses that do not depend on the number of processes are in engine/test_same_batch.py.
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbias.methods.engine.run_folder import RunFolder
from tests.helpers.forked import ForkedRun
from tests.helpers.tiny_runs import instead

TINY = ["--epochs", "2", "--batch-size", "20", "--image-size", "32", "--ema-decay", "0.9"]
RUN = ["--gpus", "0", "--threads", "1", "--log-every", "3", "--save-steps", "1", "--eval-batch-size", "16"]


def forked(log: Path, *arguments: Any, processes: int = 1) -> None:
    """Run a command without the cost of a start; `log` gets what is printed."""
    assert ForkedRun(arguments, log, processes).wait() == [0] * processes, log.read_text()


def train(out: Path, root: Path, *more: Any, backbone: str = "tiny") -> list[Any]:
    model = ["train", "csra", "--recipe", "demo", "--backbone", backbone]
    return instead([*model, *TINY, "--out", out, "--data-root", root, *RUN], *more)


def family_of(pid: int) -> list[int]:
    """Ids of a process and of all its living descendants, in the order in which they were started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, new = {pid}, {pid}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new and pid not in found}
        found |= new
    return sorted(found)


def nobody_left(family: list[int]) -> bool:
    """Whether all of these processes are gone within ten seconds (Python's own resource tracker ends last)."""
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def at_step(out: Path, step: int) -> Callable[[], bool]:
    """Tell whether a run has saved a step."""
    folder = RunFolder(out)
    return lambda: bool(folder.steps()) and folder.steps()[-1] >= step


def same_checkpoint(one: Path, other: Path, step: int = 8) -> bool:
    a, b = RunFolder(one).folder(step), RunFolder(other).folder(step)
    names = sorted(p.name for p in a.iterdir())
    return filecmp.cmpfiles(a, b, names, shallow=False)[0] == names


@pytest.fixture(scope="module")
def straight(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    forked(out.with_suffix(".log"), *train(out, demo_root))
    return out


def test_killed_run_resumes_to_the_same_bytes(demo_root: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    moment = random.Random(1)
    again = train(out, demo_root, "--resume", "auto", "--workers", 2)
    for step in (1, 3, 6):
        run = ForkedRun(again, tmp_path / "log")
        assert run.wait_until(at_step(out, step)), run.log.read_text()
        time.sleep(moment.uniform(0, 0.05))
        run.kill()
    forked(tmp_path / "log", *again)
    assert same_checkpoint(out, straight)
    assert (out / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_says_how_to_resume_and_leaves_nobody(
    stop: signal.Signals, demo_root: Path, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = ForkedRun(train(out, demo_root, "--workers", 1), tmp_path / "log")
    assert run.wait_until(at_step(out, 2)), run.log.read_text()
    family = family_of(run.pid)
    os.kill(run.pid, stop)
    assert run.wait(60) == [128 + stop], run.log.read_text()
    assert "--resume auto" in run.log.read_text()
    assert nobody_left(family)
    forked(tmp_path / "log", *train(out, demo_root, "--resume", "auto"))
    assert same_checkpoint(out, straight)


@pytest.mark.parametrize(
    ("tell", "stop"),
    [
        (os.kill, signal.SIGTERM),
        pytest.param(os.killpg, signal.SIGINT, marks=pytest.mark.slow),  # a terminal's Ctrl-C, which all get
    ],
)
def test_two_processes_stop_together_on_a_signal(
    tell: Callable[[int, int], None], stop: signal.Signals, demo_root: Path, tmp_path: Path
) -> None:
    """Started by a command line of its own, as a person starts it."""
    out = tmp_path / "run"
    words = train(out, demo_root, "--processes", 2, "--epochs", 50)
    command = [sys.executable, "-m", "attnbias", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    deadline, saved = time.monotonic() + 120, at_step(out, 2)
    while not saved():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    family = family_of(process.pid)
    tell(process.pid, stop)
    printed = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 128 + stop, printed
    assert printed.count("--resume auto") == 1, printed
    assert nobody_left(family)
    assert RunFolder(out).latest() is not None


def test_one_of_two_processes_dies_and_the_other_stops(demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = ForkedRun(train(out, demo_root, "--processes", 2, "--epochs", 50), tmp_path / "log")
    assert run.wait_until(at_step(out, 2)), run.log.read_text()
    family = family_of(run.pid)
    assert len(family) == 3  # the launcher and its two
    os.kill(family[-1], signal.SIGKILL)
    assert run.wait(60) == [1], run.log.read_text()
    assert run.log.read_text().count("SIGKILL") == 1, run.log.read_text()
    assert nobody_left(family)


def test_two_processes_resume_to_the_same_bytes(demo_root: Path, tmp_path: Path) -> None:
    straight, out = tmp_path / "straight", tmp_path / "run"
    forked(tmp_path / "log", *train(straight, demo_root), processes=2)
    run = ForkedRun(train(out, demo_root, "--processes", 2), tmp_path / "log")
    assert run.wait_until(at_step(out, 3)), run.log.read_text()
    family = family_of(run.pid)
    run.kill()
    assert nobody_left(family)
    forked(tmp_path / "log", *train(out, demo_root, "--resume", "auto"), processes=2)
    assert same_checkpoint(out, straight)


def test_evaluation_does_not_depend_on_the_number_of_processes(demo_root: Path, straight: Path, tmp_path: Path) -> None:
    common = ["val", "csra", "--load-from", straight, "--data-root", demo_root, "--split", "val,counter"]
    common += ["--gpus", "0", "--threads", "1", "--eval-batch-size", "5", "--json"]
    for processes in (1, 2):
        forked(tmp_path / "log", *common, tmp_path / f"{processes}.json", processes=processes)
    assert json.loads((tmp_path / "1.json").read_text()) == json.loads((tmp_path / "2.json").read_text())
