"""Whatever a person or an accident made of a file that is read back, the answer is exit code 0, 2 or 3 and a line."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.helpers.hand_edits import World, fuzz


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edits") / "world"
    World(folder).make()
    World(folder).check()
    return folder


def told(pristine: Path, edits: int, seed: int) -> None:
    wrong: list[str] = []
    counts = fuzz(pristine, edits, seed, wrong.append)
    assert counts["edits"] == edits
    assert not wrong, "\n".join(wrong)
    assert counts["exit 3"] > edits / 3


def in_a_process(pristine: Path, edits: int, seed: int) -> None:
    """The fuzzer limits its memory and sets alarms, which this process must keep free."""
    process = multiprocessing.get_context("fork").Process(target=told, args=(pristine, edits, seed))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_some_hand_edits(pristine: Path) -> None:
    in_a_process(pristine, 40, 0)


@pytest.mark.slow
def test_hundreds_of_hand_edits(pristine: Path) -> None:
    in_a_process(pristine, 600, 1)
