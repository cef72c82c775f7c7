"""What tests of commands share: an empty working folder, a command that must be refused, a short run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_line import attnbias
from tests.helpers.tiny_runs import CPU, TINY, contents, instead


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here: Path) -> Callable[..., str]:
    """Run a command that must fail: its one line, when the exit code is right and it did nothing before."""

    def run(code: int, *arguments: Any) -> str:
        before = contents(here)
        result = attnbias(*arguments, expect=code)
        assert contents(here) == before
        assert not result.out
        return result.line

    return run


@pytest.fixture(scope="session")
def trained(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of CSRA on the demo set: 2 epochs x 4 steps, the last two checkpoints kept."""
    out = tmp_path_factory.mktemp("trained") / "run"
    attnbias("train", "csra", *instead(TINY, "--epochs", 2), *CPU, "--data-root", demo_root, "--out", out, expect=0)
    return out
