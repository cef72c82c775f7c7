"""What a command writes is whole, in its place, and replaces nothing; a full disk keeps what was there."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attnbias.methods.engine.run_folder import RunFolder, damage
from tests.helpers.command_line import attnbias
from tests.helpers.tiny_runs import CPU, TINY, contents, instead, newest, weights_of


def test_an_output_folder_in_use_is_left_alone(here: Path, demo_root: Path, refused: Callable[..., str]) -> None:
    (here / "used").mkdir()
    (here / "used" / "precious").write_text("mine")
    (here / "file").write_text("mine")
    start = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out"]
    assert "is not empty; continue it with --resume auto" in refused(2, *start, "used")
    assert "is not a folder" in refused(2, *start, "file")
    assert "is not a folder" in refused(2, *start, "file/below")
    assert "cannot write to output folder /proc/attnbias" in refused(2, *start, "/proc/attnbias")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "csra", *TINY, *CPU, "--out", "loop"),
        ("train", "csra", *TINY, *CPU, "--out", "loop", "--overwrite"),
        ("val", "csra", "--load-from", "model", "--bias-out", "loop"),
        ("val", "csra", "--load-from", "model", "--json", "loop", "--overwrite"),
        ("visualize", "csra", "--load-from", "model", "--out", "loop"),
        ("audit", "model", "demo", "--out", "loop", "--overwrite"),
        ("audit", "model", "demo", "--markdown", "loop", "--overwrite"),
        ("predict", "--load-from", "model", ".", "--csv", "loop"),
        ("compare", "loop", "--out", "loop", "--overwrite"),
    ],
)
def test_nothing_is_written_through_a_link_to_itself(command: tuple[str, ...], here: Path, demo_root: Path) -> None:
    (here / "loop").symlink_to("loop")
    root = () if command[0] in ("predict", "compare") else ("--data-root", demo_root)
    result = attnbias(*command, *root)
    assert result.code in (1, 2, 3)
    assert "loop" in result.line
    assert "RuntimeError" not in result.line
    assert [path.name for path in here.iterdir()] == ["loop"]


def test_results_are_neither_lost_nor_written_over(
    here: Path, trained: Path, demo_root: Path, refused: Callable[..., str]
) -> None:
    (here / "old.json").write_text("mine")
    (here / "old-1-val.csv").write_text("mine")
    start = ["val", "csra", "--load-from", trained, "--data-root", demo_root, *CPU]
    assert "old.json exists; choose another name or add --overwrite" in refused(2, *start, "--json", "old.json")
    assert "old-1-val.csv exists" in refused(2, *start, "--split", "val,counter", "--csv", "old.csv")
    assert "cannot write /proc/scores.csv: no file can be made in /proc" in refused(
        2, *start, "--csv", "/proc/scores.csv"
    )
    assert "no file can be made in /proc" in refused(2, "prepare-data", "demo", "--root", "/proc/sets")
    (here / "table.csv").write_text("path,label\n")
    assert "/proc/sets/table:" in refused(2, "prepare-data", "table.csv", "--root", "/proc/sets")
    assert "no file can be made in /proc" in refused(2, "compare", trained, "--out", "/proc/compared")
    assert "no file can be made in /proc" in refused(2, *start, "--cache", "/proc/kept")
    assert "would be inside the run" in refused(2, *start, "--cache", trained / "checkpoints")
    assert "old.json is not a folder" in refused(2, *start, "--json", "old.json/new.json")
    assert "old.json does not hold results of val" in refused(2, *start, "--json", "old.json", "--overwrite")
    attnbias(*start, "--json", "new.json", expect=0)
    attnbias(*start, "--json", "new.json", "--overwrite", expect=0)
    assert json.loads((here / "new.json").read_text())[0]["samples"] == 24
    assert "old.json is a file; name" in refused(2, "visualize", "csra", "--load-from", trained, "--out", "old.json")


@pytest.mark.parametrize("kind", ["prepared dataset", "checkpoint"])
def test_no_page_is_put_into_a_dataset_or_a_checkpoint(
    kind: str, trained: Path, demo_root: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    taken = tmp_path / "taken"
    shutil.copytree(demo_root / "demo" if kind == "prepared dataset" else newest(trained), taken)
    for option in ("--report", "--out"):
        assert f"would be inside the {kind} {taken}" in refused(2, "compare", trained, option, taken, "--overwrite")
    assert not list(taken.glob("*.written.json"))


def test_each_file_of_a_run_has_the_fields_that_are_documented(trained: Path) -> None:
    page = (Path(__file__).parents[2] / "methods" / "engine" / "README.md").read_text()
    said = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.+) \|$", page, re.MULTILINE))
    files = {path.name: path for path in (*trained.glob("*.json"), *newest(trained).glob("*.json"))}
    assert {*files} == {*said} - {"recipe.yaml"}
    for name, path in files.items():
        for field in json.loads(path.read_text()):
            assert f"`{field}`" in said[name], (name, field)


def test_json_on_standard_output_is_all_there_is(trained: Path, demo_root: Path) -> None:
    start = ["val", "csra", "--load-from", trained, "--data-root", demo_root, *CPU, "--split", "val,counter"]
    done = attnbias(*start, "--bias", "--json", "-", expect=0)

    def no_json(text: str) -> float:
        raise AssertionError(text)

    results = json.loads(done.out, parse_constant=no_json)
    assert [result["split"] for result in results] == ["val", "counter"]
    assert done.err == ""


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_file_that_cannot_be_written_whole_keeps_the_last_checkpoint(
    share: float, trained: Path, demo_root: Path, tmp_path: Path
) -> None:
    """Weights that do not fit (half their size is allowed), and an optimiser state that does not (one and a half)."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    folder = RunFolder(out)
    shutil.rmtree(newest(out))  # as if the run had been killed before its last checkpoint
    before = newest(out)
    kept = contents(folder.checkpoints)
    start = instead(["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", out], "--epochs", 2)
    start += ["--resume", "auto"]
    with limited_files(int(share * weights_of(out).stat().st_size)):
        line = attnbias(*start, expect=1).line
    assert "File too large; the last good checkpoint is untouched" in line
    assert contents(folder.checkpoints) == kept
    attnbias(*start, expect=0)
    assert newest(out) != before


@pytest.fixture
def small_disk(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    location = tmp_path / "disk"
    location.mkdir()
    size = 3 * sum(path.stat().st_size for path in newest(trained).iterdir()) // 2
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", location], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield location
    subprocess.run(["umount", location], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path, demo_root: Path) -> None:
    out = small_disk / "run"
    start = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", out, "--save-steps", 1, "--keep", 9]
    line = attnbias(*start, expect=1).line
    assert "cannot write checkpoint" in line
    assert "the disk is full; the last good checkpoint is untouched" in line
    folder = RunFolder(out)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000001"]
    assert damage(folder.folder(1)) is None
    scored = attnbias("val", "csra", "--load-from", out, "--data-root", demo_root, *CPU, "--json", "-", expect=0)
    assert json.loads(scored.out)[0]["samples"] == 24
