"""What a power cut leaves: a file is on the disk before its name says that it is there.

A power cut cannot be tried here; what is flushed and renamed, and in which order, can be seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.methods.engine.recipe import override, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.train import train

CHECKPOINT = {"model.safetensors", "ema.safetensors", "optimizer.pt", "progress.json"}


@dataclass
class Disk:
    """Flushes and renames, in their order."""

    events: list[tuple[str, Path, Any]] = field(default_factory=list)
    """("flush", path, its size and what lay beside it) or ("rename", from, to)."""

    def flush(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.events.append(("flush", path, (path.stat().st_size, {each.name for each in path.parent.iterdir()})))

    def place(self, kind: str, path: Path) -> int:
        """Where in the order a path was last flushed, or renamed to."""
        return max(position for position, (what, *paths) in enumerate(self.events) if what == kind and path in paths)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The real system calls, watched."""
    disk = Disk()

    def flushing(descriptor: int, call: Callable[[int], None] = os.fsync) -> None:
        call(descriptor)
        disk.flush(descriptor)

    def renaming(call: Callable[..., None]) -> Callable[..., None]:
        def watched(old: Path, new: Path) -> None:
            call(old, new)
            disk.events.append(("rename", Path(old), Path(new)))

        return watched

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "rename", renaming(os.rename))
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    return disk


def test_a_checkpoint_is_on_the_disk_before_it_bears_its_name(demo_root: Path, tmp_path: Path, disk: Disk) -> None:
    """Its files, then its manifest, then its folder; after the rename, the folder that holds it."""
    out = tmp_path / "run"
    demo = get_method("csra").named_recipe("demo").recipe
    fields = {"backbone": "tiny", "image_size": 32, "batch_size": 20, "steps": 1, "ema_decay": 0.9}
    train(TrainRequest(method="csra", recipe=override(demo, fields), out=out, data_root=demo_root, gpus=0, threads=1))
    folder = RunFolder(out)
    final = folder.folder(1)
    renamed = disk.place("rename", final)
    _, part, _ = disk.events[renamed]
    assert part.name.startswith(".tmp-")
    manifest = disk.place("flush", part / "complete.json")
    assert {path.name for path in final.iterdir()} == {*CHECKPOINT, "complete.json"}
    for name in CHECKPOINT:
        location = disk.place("flush", part / name)
        size, beside = disk.events[location][2]
        assert size == (final / name).stat().st_size, name
        assert "complete.json" not in beside, name
        assert location < manifest, name
    assert disk.events[manifest][2][0] == (final / "complete.json").stat().st_size
    assert manifest < disk.place("flush", part) < renamed < disk.place("flush", folder.checkpoints)


def text(path: Path) -> None:
    with replacing(path) as file:
        file.write("words " * 10_000)


def recipe(path: Path) -> None:
    write_recipe(path, get_method("csra").named_recipe("demo").recipe, "csra")


@pytest.mark.parametrize("write", [text, recipe])
def test_a_file_is_on_the_disk_before_it_takes_its_place(
    write: Callable[[Path], None], tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write(path)
    assert [kind for kind, *_ in disk.events] == ["flush", "rename", "flush"]
    (_, part, (size, _)), rename, (_, parent, _) = disk.events
    assert rename == ("rename", part, path)
    assert size == path.stat().st_size
    assert parent == tmp_path
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines(["new", None])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert disk.events == []


def test_no_file_takes_the_place_of_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="is a device or a pipe"), replacing(pipe) as file:
        file.write("lost")
    assert pipe.is_fifo()
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
