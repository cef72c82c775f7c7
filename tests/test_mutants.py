"""The faults of `make mutants` follow the code: each is found where the list says, and so are its tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).parent / "mutants"
FAULT = "from fault import Fault\nFAULTS = (Fault('a fault', 'data/sum.py', {before!r}, 'a - b', ({test!r},)),)\n"


def check(mutants: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, mutants / "run.py", "--check"], capture_output=True, text=True)


def test_every_fault_applies_to_one_place() -> None:
    """Whoever moves code that a fault changes, or a test that notices it, moves the fault too."""
    done = check(MUTANTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "test", "problem"),
    [
        ("a + b", "tests/test_sum.py::test_sum[1]", None),
        ("a * b", "tests/test_sum.py", "data/sum.py holds its text 0 times"),
        ("a", "tests/test_sum.py", "data/sum.py holds its text 2 times"),
        ("a + b", "tests/test_sum.py::test_product", "the test tests/test_sum.py::test_product is missing"),
        ("a + b", "tests/test_gone.py", "the test tests/test_gone.py is missing"),
    ],
)
def test_a_fault_that_no_longer_applies_is_an_error(
    before: str, test: str, problem: str | None, tmp_path: Path
) -> None:
    mutants = tmp_path / "tests" / "mutants"
    mutants.mkdir(parents=True)
    for name in ("run.py", "fault.py"):
        shutil.copy2(MUTANTS / name, mutants / name)
    (mutants / "faults.py").write_text(FAULT.format(before=before, test=test))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sum.py").write_text("total = a + b\n")
    (tmp_path / "tests" / "test_sum.py").write_text("def test_sum(): ...\n")
    done = check(mutants)
    assert done.returncode == (1 if problem else 0), done.stderr
    assert problem is None or f"a fault: {problem}" in done.stdout
