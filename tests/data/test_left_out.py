"""What is left out is counted and named; what counts as an image is the same for every command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.members import TABLE
from attnbias.data.prepare import prepare
from attnbias.data.prepared import Prepared
from attnbias.data.sets.segmentation_sets import list_pairs
from attnbias.data.tally import Tally
from attnbias.data.walk import BROKEN, HIDDEN, LOOP, OTHER, SPECIAL, walk_images
from tests.cli.test_predict import CPU, checkpoint
from tests.helpers.command_line import attnbias

TAKEN = ("1.jpg", "2.JPEG", "3.Jpg", "4.jfif", "5.gif", "6.png", "7.webp", "8.TIF", "9.bmp", "sub/1.ppm")
HIDDEN_NAMES = ("._1.jpg", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/1.png", "@eaDir/1.jpg/x.jpg", "__MACOSX/1.jpg")


def save(path: Path, seed: int = 0, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "tif": "TIFF", "ppm": "PPM"}.get(path.suffix[1:].lower())
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind or path.suffix[1:].upper(), **how)


def junk(folder: Path) -> None:
    """What systems leave in folders, and other files."""
    for name in HIDDEN_NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "pipe.jpg")


LEFT_OUT = {HIDDEN: 6, OTHER: 1, BROKEN: 1, LOOP: 1, SPECIAL: 1}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for seed, name in enumerate(TAKEN):
        save(tmp_path / "pets" / "cat" / name, seed)
        save(tmp_path / "pets" / "dog" / name, seed + 100)
    junk(tmp_path / "pets" / "cat")
    (tmp_path / "pets" / ".cache").mkdir()
    save(tmp_path / "pets" / "@eaDir" / "1.jpg")
    save(tmp_path / "pets" / "cover.jpg")
    return tmp_path / "pets"


def counts(tally: dict[str, Any]) -> dict[str, int]:
    return {reason: counted["count"] for reason, counted in tally.items()}


def test_a_folder_of_classes(pets: Path, tmp_path: Path) -> None:
    done = attnbias("prepare-data", pets, "--root", tmp_path / "root", "--verify", expect=0)
    prepared = Prepared.read(tmp_path / "root" / "pets")
    index = prepared.open(tmp_path / "root" / "pets", "train")
    assert index.classes == ("cat", "dog")
    assert [r.path for r in index.records] == [f"{name}/{path}" for name in ("cat", "dog") for path in TAKEN]
    assert counts(prepared.left_out) == {**LEFT_OUT, HIDDEN: 8, "image outside of a class folder": 1}
    assert f"left out: {OTHER}: 1 (pets/cat/notes.txt)" in done.out
    assert f"left out: {HIDDEN}: 8 (pets/.cache, pets/@eaDir, pets/cat/.DS_Store ...)" in done.out


def test_what_stands_beside_the_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / "animals" / split / "cat" / "1.jpg")
    save(tmp_path / "animals" / "cover.jpg")
    left_out = prepare(str(tmp_path / "animals"), root=tmp_path / "root").prepared.left_out
    assert left_out == {"file beside the folders of splits": {"count": 1, "first": ["cover.jpg"]}}


def test_label_maps(pets: Path, tmp_path: Path) -> None:
    source = tmp_path / "roads"
    (source / "labels").mkdir(parents=True)
    (pets / "cat").rename(source / "images")
    for name in ("1", "3", "5"):
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(source / "labels" / f"{name}.png")
    prepared = prepare(str(source), root=tmp_path / "root").prepared
    assert counts(prepared.left_out) == {**LEFT_OUT, "image without a label map": len(TAKEN) - 3}
    assert [name for name, _ in list_pairs(source / "images", None, ".png")] == sorted(TAKEN)


def test_predict_and_visualize_take_the_same_images(pets: Path, tmp_path: Path) -> None:
    weights, folder = checkpoint(tmp_path / "w.safetensors"), pets / "cat"
    done = attnbias("predict", "--load-from", weights, folder, "--json", "-", *CPU, expect=0)
    found = json.loads(done.out)
    assert [image["path"] for image in found["pictures"]] == [f"{folder}/{name}" for name in TAKEN]
    assert counts(found["left_out"]) == LEFT_OUT
    assert f"left out: {BROKEN}: 1 ({folder}/broken.jpg)" in done.err
    drawn = attnbias("visualize", "csra", "--load-from", weights, folder, "--out", tmp_path / "gallery", expect=0)
    assert f"left out: {BROKEN}: 1 ({folder}/broken.jpg)" in drawn.err
    assert drawn.out.startswith(f"{len(TAKEN)} images")
    assert "files and folders left out: 10" in (tmp_path / "gallery" / "gallery.html").read_text()


def test_turned_and_animated_images_are_told(tmp_path: Path) -> None:
    weights, exif = checkpoint(tmp_path / "w.safetensors"), Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "photos" / "1.jpg", exif=exif)
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / "photos" / f"moving.{suffix}"
        save(path, save_all=True, append_images=[Image.new("RGB", (16, 16))])
        assert np.asarray(read_image(path)).any(), "the first frame is not black"
    done = attnbias("predict", "--load-from", weights, tmp_path / "photos", "--json", "-", *CPU, expect=0)
    assert counts(json.loads(done.out)["remarks"]) == {
        "image turned upright, as its EXIF orientation says": 1,
        "image of several frames, of which the first is read": 3,
    }
    assert "image turned upright, as its EXIF orientation says: 1" in done.err


def test_nothing_but_other_files_is_said_with_the_reason(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.heic").write_bytes(b"")
    line = attnbias("predict", "--load-from", weights, tmp_path / "photos", *CPU, expect=2).line
    assert "holds no image" in line
    assert "1.heic" in line
    assert "1.heic" in attnbias("prepare-data", tmp_path / "photos", "--root", tmp_path / "root", expect=3).line


def test_a_folder_that_may_not_be_read_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # root, as which tests may run, is refused nothing
    with pytest.raises(DataError, match=rf"folder {pets}/dog cannot be read \(Permission denied\)"):
        walk_images(pets, Tally())
    with pytest.raises(DataError, match=r"dog cannot be read \(Permission denied\)"):
        prepare(str(pets), root=pets.parent / "root")


def test_a_link_to_another_folder_is_followed_and_a_loop_left(tmp_path: Path) -> None:
    save(tmp_path / "disk" / "sub" / "1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "disk" / "self").symlink_to("self")
    left_out = Tally()
    assert walk_images(tmp_path / "set", left_out) == ["cat/sub/1.png"]
    assert left_out[LOOP]["first"] == ["cat/back"]
    assert left_out[BROKEN]["first"] == ["cat/self"]


# Pixels ---------------------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", RAMP.astype(np.uint16) * 257),
        ("16.tif", RAMP.astype(np.uint16) * 257),
        ("unit.tif", RAMP.astype(np.float32) / 255),
        ("float.tif", RAMP.astype(np.float32)),
        ("32.tif", RAMP.astype(np.int32) * 257),
        ("small.tif", RAMP.astype(np.int32)),
    ],
)
def test_grey_of_any_depth_shows_the_same_levels(name: str, values: Any, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), np.stack([RAMP] * 3, -1))


@pytest.mark.parametrize("worst", [np.nan, np.inf, -1.0, 256.0, 40_000.0])
def test_values_without_a_white_are_refused(worst: float, tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[3, 4] = worst
    Image.fromarray(values).save(tmp_path / "float.tif")
    with pytest.raises(
        DataError, match=r"float\.tif cannot be read \(its values go from .*expected 0\.\.1 or 0\.\.255"
    ):
        read_image(tmp_path / "float.tif")


def test_a_walk_looks_once_for_archives_in_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep a folder lies: the way up from each was walked anew, 35 s for 1,200 folders in one another."""
    deepest = tmp_path.joinpath(*["d"] * 40)
    deepest.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(deepest / "x.png")
    looked: list[Path] = []
    is_file = Path.is_file

    def looks(path: Path) -> bool:
        looked.append(path)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", looks)
    assert walk_images(tmp_path, Tally()) == ["/".join(["d"] * 40) + "/x.png"]
    tables = [path for path in looked if path.name == TABLE and tmp_path in path.parents]
    assert len(tables) == len({*tables}) == 41
