"""Signals at any time, from the first import to the last save: the exit code, one line that helps, nothing lost."""

from __future__ import annotations

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

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.control import SAME
from attnbias.methods.engine.run_folder import RunFolder
from tests.helpers.forked import ForkedRun
from tests.helpers.tiny_runs import instead

SIGNALS = [signal.SIGTERM, signal.SIGINT]
CSRA = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--gpus", 0, "--threads", 1]
RUN = [*CSRA, "--epochs", 2, "--batch-size", 20, "--ema-decay", 0.9, "--save-steps", 1, "--log-every", 2]


@pytest.fixture(scope="module")
def slow_to_evaluate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose evaluation, one image at a time, lasts longer than its training."""
    root = tmp_path_factory.mktemp("pictures")
    prepare("demo", None, root, PrepareOptions(settings={"train": 40, "eval": 60}))
    return root


def runs(root: Path, processes: int, *more: Any) -> Callable[[Path], ForkedRun]:
    words: list[Any] = instead([*RUN, "--eval-batch-size", 1, "--resume", "auto", "--data-root", root], *more)
    return lambda out: ForkedRun([*words, "--out", out], out.with_suffix(".log"), processes)


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def lines(out: Path) -> int:
    log = out / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def evaluates(out: Path) -> bool:
    """Whether the steps of epoch 1 are in the log, and its evaluation, which lasts longer than they did, is not."""
    return lines(out) == 1


def assert_second_signal_ends(process: Any, stop: signal.Signals) -> None:
    """The first one is noted by a process that cannot act on it; the second one ends it at once."""
    time.sleep(0.5)
    os.kill(process.pid or 0, stop)
    process.join(3 * SAME)  # sooner, a second signal that is read late might be taken for the first one
    assert process.is_alive()
    os.kill(process.pid or 0, stop)
    process.join(20)  # where it would wait for ever
    assert process.exitcode == 128 + stop


def saves(out: Path) -> bool:
    return any((out / "checkpoints").glob(".tmp-*"))


@pytest.fixture(scope="module")
def straight(slow_to_evaluate: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Runs that are left alone, of so many processes that save every so many steps: one for all signals."""
    folder, known = tmp_path_factory.mktemp("straight"), dict[tuple[int, int], Path]()

    def made(processes: int, save_steps: int) -> Path:
        if (processes, save_steps) not in known:
            out = folder / f"{processes}-{save_steps}"
            run = runs(slow_to_evaluate, processes, "--save-steps", save_steps)(out)
            assert run.wait() == [0] * processes, run.log.read_text()
            known[processes, save_steps] = out
        return known[processes, save_steps]

    return made


@pytest.mark.parametrize(
    ("stop", "processes"),
    [
        (signal.SIGTERM, 1),
        (signal.SIGTERM, 2),
        (signal.SIGINT, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),  # two stop together as they do by the other signal
    ],
)
@pytest.mark.parametrize(("moment", "save_steps"), [(evaluates, 99), (saves, 1)])
def test_a_signal_while_evaluating_or_saving(
    moment: Callable[[Path], bool],
    save_steps: int,
    stop: signal.Signals,
    processes: int,
    slow_to_evaluate: Path,
    straight: Callable[[int, int], Path],
    tmp_path: Path,
) -> None:
    start = runs(slow_to_evaluate, processes, "--save-steps", save_steps)
    out = tmp_path / "run"
    run = start(out)
    assert run.wait_until(lambda: moment(out)), run.log.read_text()
    os.kill(run.processes[-1].pid or 0, stop)  # one of them is told, all of them stop
    assert run.wait(60) == [128 + stop] * processes, run.log.read_text()
    assert f"stopped by {stop.name}; continue with the same command and --resume auto" in run.log.read_text()
    saved = RunFolder(out).latest()
    assert saved is not None
    assert not saves(out)
    if moment is evaluates:
        assert moment(out), "the evaluation went on to its end"
    assert start(out).wait() == [0] * processes
    whole = straight(processes, save_steps)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ends = [RunFolder(folder).latest() for folder in (out, whole)]
    for name in ("model.safetensors", "ema.safetensors", "optimizer.pt", "progress.json"):
        one, other = (end / name for end in ends if end is not None)
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_saves_inside_an_epoch_without_save_steps(
    stop: signal.Signals, slow_to_evaluate: Path, tmp_path: Path
) -> None:
    """Twenty steps an epoch; a checkpoint inside of one is the signal's."""
    words = [*CSRA, "--epochs", 2, "--batch-size", 2, "--log-every", 2, "--resume", "auto", "--keep", 9]

    def start(out: Path) -> ForkedRun:
        return ForkedRun([*words, "--data-root", slow_to_evaluate, "--out", out], out.with_suffix(".log"))

    out = tmp_path / "run"
    run = start(out)
    assert run.wait_until(lambda: lines(out) >= 3), run.log.read_text()
    os.kill(run.processes[0].pid or 0, stop)
    assert run.wait(60) == [128 + stop], run.log.read_text()
    assert f"stopped by {stop.name}; continue with the same command and --resume auto" in run.log.read_text()
    steps = RunFolder(out).steps()
    assert steps[-1] % 20, "the signal came at the end of an epoch; make them longer"
    straight = start(tmp_path / "straight")
    assert start(out).wait() == straight.wait() == [0]
    assert RunFolder(tmp_path / "straight").steps() == [20, 40]
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    ends = [RunFolder(folder).folder(40) for folder in (out, tmp_path / "straight")]
    for name in ("model.safetensors", "optimizer.pt", "progress.json"):
        one, other = (end / name for end in ends)
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_that_the_launcher_forwards_is_no_second_one(
    stop: signal.Signals, slow_to_evaluate: Path, tmp_path: Path
) -> None:
    """A terminal's Ctrl-C reaches each process, and once more from its launcher."""
    out = tmp_path / "run"
    run = runs(slow_to_evaluate, 1, "--epochs", 500, "--workers", 1)(out)
    assert run.wait_until(lambda: RunFolder(out).steps() != []), run.log.read_text()
    (process,) = run.processes
    (loader, *_) = children_of(process.pid or 0)
    os.kill(loader, signal.SIGSTOP)  # its step lasts until both signals are there
    time.sleep(0.2)
    for _ in range(2):
        os.kill(process.pid or 0, stop)
        time.sleep(0.2)
    assert process.is_alive()
    os.kill(loader, signal.SIGCONT)
    assert run.wait(60) == [128 + stop], run.log.read_text()
    assert "--resume auto" in run.log.read_text()


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_second_signal_stops_at_once(stop: signal.Signals, slow_to_evaluate: Path, tmp_path: Path) -> None:
    """As where a step never ends: its loader hangs."""
    out = tmp_path / "run"
    run = runs(slow_to_evaluate, 1, "--epochs", 500, "--workers", 1)(out)
    assert run.wait_until(lambda: RunFolder(out).steps() != []), run.log.read_text()
    (process,) = run.processes
    os.kill(children_of(process.pid or 0)[0], signal.SIGSTOP)
    assert_second_signal_ends(process, stop)
    assert RunFolder(out).latest() is not None
    run.kill()  # the hanging loader, which nobody else would end
    assert nobody_left_of(process.pid or 0)


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_second_signal_stops_a_process_that_waits_for_another(
    stop: signal.Signals, slow_to_evaluate: Path, tmp_path: Path
) -> None:
    """As where another machine hangs: this one waits in a collective, where no handler of Python's ever runs."""
    out = tmp_path / "run"
    run = runs(slow_to_evaluate, 2, "--epochs", 500)(out)
    assert run.wait_until(lambda: RunFolder(out).steps() != []), run.log.read_text()
    waits, hangs = run.processes
    os.kill(hangs.pid or 0, signal.SIGSTOP)
    assert_second_signal_ends(waits, stop)
    run.kill()
    assert all(nobody_left_of(process.pid or 0) for process in run.processes)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--processes", 2]], ids=["alone", "launched"])
@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_at_start_up(stop: signal.Signals, more: list[Any], slow_to_evaluate: Path, tmp_path: Path) -> None:
    """From the moment that the command line is there; before that, Python itself ends."""
    draw = random.Random(int(stop))
    for number in range(5):
        out = tmp_path / f"run{number}"
        words = instead([*RUN, "--data-root", slow_to_evaluate, "--out", out, *more], "--epochs", 500)
        process = subprocess.Popen(
            [sys.executable, "-m", "attnbias", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        time.sleep(draw.uniform(2, 12))
        process.send_signal(stop)
        said = process.communicate(timeout=60)[1]
        if process.returncode == -stop:  # before Python got to the command line
            continue
        assert process.returncode == 128 + stop, said
        last = said.splitlines()[-1]
        assert last.startswith(f"stopped by {stop.name}; "), said
        assert nobody_left_of(process.pid), "a process is left"


def nobody_left_of(group: int) -> bool:
    """Whether a process group is empty within ten seconds (Python's own resource tracker ends last)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
