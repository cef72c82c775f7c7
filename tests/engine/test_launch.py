"""Several processes started by the command: of those that fail, the first one's words are shown."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.launch import accelerate, launch, place
from attnbias.methods.engine.requests import ValRequest
from tests.helpers.command_line import attnbias
from tests.helpers.forked import forking


def fail_one_after_the_other(job: str) -> None:
    """The second process fails first; the other one, which cannot be stopped, fails because it is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (failing,) = map(Path, ValRequest.model_validate_json(job).load_from)
    if os.environ["RANK"] == "1":
        failing.write_text(str(os.getpid()))
        raise UsageError("the cause")
    while not failing.exists() or not failing.read_text() or runs(failing.read_text()):
        time.sleep(0.01)
    raise RunError("what followed from it")


def be_killed(job: str) -> None:
    """The second process is killed; the other one, which cannot be stopped, fails because it is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (killed,) = map(Path, ValRequest.model_validate_json(job).load_from)
    if os.environ["RANK"] == "1":
        killed.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    while not killed.exists() or not killed.read_text() or runs(killed.read_text()):
        time.sleep(0.01)
    time.sleep(1)  # the launcher looks every fifth of a second
    raise RunError("what followed from it")


def runs(process: str) -> bool:
    """Whether a process is there and has not ended yet."""
    stat = Path("/proc", process, "stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][:1] not in "ZX"


@pytest.mark.parametrize(
    ("worker", "code", "words"),
    [
        (fail_one_after_the_other, 2, "the cause"),
        (be_killed, 1, "a process was ended by SIGKILL; the others were stopped"),
    ],
)
def test_the_first_of_two_failures_is_shown_and_no_file_is_left(
    worker: Callable[[str], None],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Forked from this process, which has imported all; tests/engine/test_processes.py spawns them as a command does.
    monkeypatch.setattr("attnbias.methods.engine.launch.LaunchConfig", forking)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    request = ValRequest(method="csra", load_from=[str(tmp_path / "failing")], gpus=0, processes=2)
    assert launch(worker, request) == code
    assert capsys.readouterr().err == f"error: {words}\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("OMP_NUM_THREADS", value) for value in ("abc", "0", "-1", "2,4", "1_0", "\u0661", "9" * 5000)),
        *(("LOCAL_RANK", "-1"), ("MASTER_PORT", "65536"), ("SLURM_JOB_ID", "x"), ("LOCAL_WORLD_SIZE", "0")),
    ],
)
def test_a_variable_that_is_not_its_number_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name}='" in attnbias("list", "methods", expect=2).line
    with pytest.raises(UsageError, match=f"{name}=.*expected a number from .*run: unset {name}"):
        place(ValRequest(method="csra", load_from=["run"], gpus=0))


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    place(ValRequest(method="csra", load_from=["run"], gpus=0))
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            "WORLD_SIZE=2 in the environment, as of a launcher, without MASTER_ADDR, MASTER_PORT",
        ),
        (
            {"LOCAL_RANK": "0", "RANK": "0"},
            "LOCAL_RANK=0 in the environment, as of a launcher, without MASTER_ADDR, MASTER",
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "as of a launcher, without SLURM_STEP_NODELIST, SLURM_LOCALID"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 in the environment, of 2 (WORLD_SIZE)"),
        ({"RANK": "1"}, "RANK=1 in the environment, of 1 (WORLD_SIZE)"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID=1 in the environment, of 1 (SLURM_STEP_NUM_TASKS)"),
    ],
)
def test_a_process_that_was_told_half_waits_for_nobody(
    told: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for minutes, or say nothing as one that is not the first."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(words)):
        accelerate(place(ValRequest(method="csra", load_from=["run"], gpus=0)))
