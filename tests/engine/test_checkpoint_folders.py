"""Checkpoint folders whatever came before: a step that is saved again, a course that was left, a kill in between."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attnbias.methods.engine.run_folder import Progress, RunFolder, damage


def some_tensors(part: Path) -> None:
    for name in ("model.safetensors", "optimizer.pt"):
        (part / name).write_bytes(b"good")


@contextmanager
def opened(path: Path, keep: int = 9, *, resume: bool = False) -> Iterator[RunFolder]:
    folder = RunFolder(path, keep)
    folder.open(resume=resume, overwrite=False)
    yield folder
    folder.close()


def save(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.save(Progress(step=step, best_step=steps[0]), some_tensors)


def test_a_run_resumed_before_its_end_leaves_no_later_checkpoint_of_the_course_it_left(tmp_path: Path) -> None:
    """`--resume auto` would take it up again."""
    with opened(tmp_path, keep=2) as folder:
        save(folder, 10, 20, 30, 11)
    assert folder.steps() == [10, 11]
    assert folder.latest() == folder.folder(11)


def test_a_step_that_is_saved_again_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one of the two names that opening the folder knows."""
    moments: list[list[str]] = []

    rename = os.rename

    def watched(part: Path, final: Path) -> None:
        moments.append(
            sorted(path.name for path in tmp_path.glob("checkpoints/*step-00000010*") if damage(path) is None)
        )
        rename(part, final)

    with opened(tmp_path) as folder:
        save(folder, 10)
        monkeypatch.setattr(os, "rename", watched)
        save(folder, 10)
    old, new = ".tmp-old-step-00000010", f".tmp-step-00000010-{os.getpid()}"
    assert moments == [[new, "step-00000010"], [old, new]]
    assert list(folder.checkpoints.iterdir()) == [folder.folder(10)]
    assert damage(folder.folder(10)) is None


def test_what_a_kill_left_of_a_save_is_put_right_by_the_next_start(tmp_path: Path) -> None:
    """Half a checkpoint goes; one that was to be replaced gets its name back where nothing took its place."""
    with opened(tmp_path) as folder:
        save(folder, 10, 20)
    half = folder.checkpoints / ".tmp-step-00000030-7"
    half.mkdir()
    some_tensors(half)
    shutil.copytree(folder.folder(10), folder.checkpoints / ".tmp-old-step-00000010")
    folder.folder(20).rename(folder.checkpoints / ".tmp-old-step-00000020")
    assert folder.latest() == folder.folder(10)
    for name in (".environment.json.7.part", ".notes.part"):
        (tmp_path / name).write_text("{")
    with opened(tmp_path, resume=True):
        pass
    assert [path.name for path in tmp_path.glob(".*.part")] == [".notes.part"], "of what is not a run's nothing goes"
    assert sorted(folder.checkpoints.iterdir()) == [folder.folder(10), folder.folder(20)]
    assert folder.latest() == folder.folder(20)


def test_a_removal_that_is_cut_short_leaves_no_half_of_a_checkpoint_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader process that is killed raises wherever the run is at that moment."""

    def cut_short(part: Path, **how: Any) -> None:
        if part.exists():
            (part / "progress.json").unlink()
            raise RuntimeError("DataLoader worker is killed")

    with opened(tmp_path, keep=1) as folder:
        save(folder, 10, 20)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", cut_short)
            with pytest.raises(RuntimeError):
                folder.save(Progress(step=30, best_step=10), some_tensors)
    assert folder.steps() == [10, 30]
    assert [damage(folder.folder(step)) for step in folder.steps()] == [None, None]
    with opened(tmp_path, resume=True):
        pass
    assert sorted(folder.checkpoints.iterdir()) == [folder.folder(10), folder.folder(30)]


def outlive(began: Any) -> None:
    began.set()
    time.sleep(60)


def test_loaders_that_outlive_a_killed_run_do_not_keep_its_folder_locked(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    began = fork.Event()
    loader = fork.Process(target=outlive, args=(began,))
    try:
        with opened(tmp_path):
            loader.start()
            assert began.wait(10)
        with opened(tmp_path, resume=True):
            assert loader.is_alive()
    finally:
        loader.kill()
        loader.join()
