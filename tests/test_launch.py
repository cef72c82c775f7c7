"""Several processes started by the command: of those that fail, the first one's words are shown."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from attnbias.cli.errors import describe
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.launch import launch


def fail_one_after_the_other(job: str) -> None:
    """The second process fails first; the other one, which cannot be stopped, fails because it is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    failing = Path(job)
    if os.environ["RANK"] == "1":
        failing.touch()
        raise UsageError("the cause")
    while not failing.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    raise RunError("what followed from it")


def test_the_first_of_two_failures_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch(fail_one_after_the_other, str(tmp_path / "failing"), 2, describe) == 2
    assert capsys.readouterr().err == "error: the cause\n"
