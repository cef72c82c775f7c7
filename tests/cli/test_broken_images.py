"""Images that cannot be read are named or, where that is typed, left out and counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from attnbias.methods.engine.run_folder import RunFolder
from tests.helpers.command_line import attnbias
from tests.helpers.forked import ForkedRun
from tests.helpers.tiny_runs import CPU, TINY


@pytest.fixture
def spoiled(demo_root: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A data root in which one training and one validation image are torn: (root, the one, the other)."""
    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    torn = [sorted((root / "demo" / "images" / split).iterdir())[5] for split in ("train", "val")]
    for path in torn:
        path.write_bytes(path.read_bytes()[:100])
    return root, torn[0], torn[1]


def test_an_unreadable_image_is_named(spoiled: tuple[Path, Path, Path], trained: Path, tmp_path: Path) -> None:
    root, in_training, in_validation = spoiled
    start = ["train", "csra", *TINY, *CPU, "--data-root", root]
    for workers in (0, 1):  # a loader's worker hands its error over in a traceback
        line = attnbias(*start, "--out", tmp_path / f"run{workers}", "--workers", workers, expect=3).line
        assert line.startswith(f"error: image {in_training} cannot be read")
        assert not RunFolder(tmp_path / f"run{workers}").steps()
    evaluated = ["csra", "--load-from", trained, "--data-root", root]
    assert str(in_validation) in attnbias("val", *evaluated, *CPU, expect=3).line
    assert str(in_validation) in attnbias("visualize", *evaluated, "--out", tmp_path / "seen", expect=3).line
    assert not (tmp_path / "seen").exists()


def test_unreadable_images_are_left_out_and_counted(
    spoiled: tuple[Path, Path, Path], trained: Path, tmp_path: Path
) -> None:
    root, in_training, in_validation = spoiled
    start = ["train", "csra", *TINY, *CPU, "--data-root", root, "--on-bad-image", "skip"]
    shown = attnbias(*start, "--out", tmp_path / "run", expect=0).out
    assert str(in_training) in shown
    assert str(in_validation) in shown
    assert "2 times an unreadable image was left out" in shown
    evaluated = ["val", "csra", "--load-from", trained, "--data-root", root, *CPU, "--on-bad-image", "skip"]
    (result,) = json.loads(attnbias(*evaluated, "--json", "-", expect=0).out)
    assert result["samples"] == 23
    assert len(result["skipped"]) == 1
    assert str(in_validation) in result["skipped"][0]
    assert "1 unreadable images left out" in attnbias(*evaluated, expect=0).out


def test_a_batch_of_nothing_but_unreadable_images(spoiled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, _, _ = spoiled
    for path in (root / "demo" / "images" / "train").iterdir():
        path.write_bytes(b"")
    start = ["train", "csra", *TINY, *CPU, "--data-root", root, "--on-bad-image", "skip", "--out", tmp_path / "run"]
    result = attnbias(*start, expect=3)
    assert "no image of step 0 could be read" in result.line


def test_two_processes_give_one_line(spoiled: tuple[Path, Path, Path], trained: Path, tmp_path: Path) -> None:
    root, _, in_validation = spoiled
    evaluated = ["val", "csra", "--load-from", trained, "--data-root", root, *CPU, "--processes", 2]
    run = ForkedRun(evaluated, tmp_path / "log")
    assert run.wait() == [3]
    (line,) = (line for line in run.log.read_text().splitlines() if not line.startswith("[Gloo]"))  # of PyTorch 2.8
    assert line.startswith(f"error: image {in_validation} cannot be read")
