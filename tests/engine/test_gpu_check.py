"""The check of a GPU machine, rehearsed where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
SECTIONS = ["machine", "parity", "training", "resume", "processes", "waits", "speed", "input"]


def rehearsed(out: Path, *more: str) -> str:
    """Rehearse into a folder; what was printed."""
    words = [sys.executable, SCRIPT, "--rehearse", "--out", out, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_rehearsal_ends_in_a_table_of_every_section(tmp_path: Path) -> None:
    assert "failed" not in rehearsed(tmp_path)
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(found) == ["title", *SECTIONS]
    assert all(row for name in SECTIONS for row in found[name])
    assert all(row["two equal runs"] and row["a resumed run"] for row in found["resume"])
    (processes,) = found["processes"]
    assert len(processes["losses"]) == 3
    table = (tmp_path / "gpu_check.md").read_text()
    assert [line.removeprefix("## ") for line in table.splitlines() if line.startswith("## ")] == SECTIONS
    assert "the figures mean nothing" in table


@pytest.mark.slow
def test_a_section_that_has_no_time_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    rehearsed(tmp_path, "--only", "machine,waits", "--seconds", "0")
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["machine"] == found["waits"] == [{"skipped": "no time is left"}]
