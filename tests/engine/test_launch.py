"""Several processes started by the command: of those that fail, the first one's words are shown."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.launch import launch
from attnbias.methods.engine.requests import ValRequest


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
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    request = ValRequest(method="csra", load_from=[str(tmp_path / "failing")], gpus=0, processes=2)
    assert launch(worker, request) == code
    assert capsys.readouterr().err == f"error: {words}\n"
    assert list(temporary.iterdir()) == []
