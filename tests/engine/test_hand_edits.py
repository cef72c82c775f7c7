"""Whatever a person or an accident made of a file that is read back, the answer is exit code 0, 2 or 3 and a line."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.command_line import Result
from tests.helpers.hand_edits import World, fuzz


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("edits") / "world", whole=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("whole") / "world", whole=True)


def made(folder: Path, *, whole: bool) -> Path:
    World(folder).make(whole=whole)
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
def test_hundreds_of_hand_edits(whole: Path) -> None:
    in_a_process(whole, 900, 1)


def after(pristine: Path, tmp_path: Path, change: Callable[[World], Path]) -> list[Result]:
    """What the commands say that read the file which was changed."""
    world = World(Path(shutil.copytree(pristine, tmp_path / "world")))
    commands = world.readers()[change(world)]
    return [command() for command in commands]


def test_our_entry_in_a_weight_file_that_is_no_text(pristine: Path, tmp_path: Path) -> None:
    def change(world: World) -> Path:
        path = next(world.run.glob("checkpoints/*/model.safetensors"))
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.dumps({**json.loads(content[8 : 8 + size]), "__metadata__": {"attnbias": 0}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        return path

    assert {result.code for result in after(pristine, tmp_path, change)} == {3}


def test_a_folder_in_place_of_the_manifest_of_a_set(pristine: Path, tmp_path: Path) -> None:
    def change(world: World) -> Path:
        path = world.root / "demo" / "prepared.json"
        path.unlink()
        path.mkdir()
        return path

    *_, prepared = after(pristine, tmp_path, change)
    assert prepared.code == 3
    assert "prepared.json was not written by prepare-data" in prepared.line


@pytest.mark.parametrize("member", ["version", "method", "password"])
def test_stored_scores_whose_archive_is_of_no_kind_that_is_known(member: str, pristine: Path, tmp_path: Path) -> None:
    def change(world: World) -> Path:
        path = world.run / "evaluations" / "demo" / "val" / "scores.npz"
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\x01\x02")  # the central directory's first
        content[entry + {"version": 6, "method": 10, "password": 8}[member]] ^= 99
        path.write_bytes(content)
        return path

    assert [result.code for result in after(pristine, tmp_path, change)] == [3]


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)], ids=["pipe", "folder", "link"]
)
@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_a_log_that_is_no_file_is_named(
    name: str, make: Callable[[Path], None], pristine: Path, tmp_path: Path
) -> None:
    def change(world: World) -> Path:
        path = world.run / name
        path.unlink()
        make(path)
        return path

    *_, resumed = after(pristine, tmp_path, change)
    assert resumed.code == 3
    assert f"{name} " in resumed.line
    assert resumed.line.endswith("; move it away")
