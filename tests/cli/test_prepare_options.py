"""What is typed to `prepare-data` decides what is prepared, where, and which split does what."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data import prepare as preparing
from attnbias.data.index import Index
from attnbias.data.prepared import Prepared, index_path
from attnbias.data.registry import dataset_folder, open_split
from tests.helpers.command_line import attnbias

DEMO = ("prepare-data", "demo", "--train", 12, "--eval", 6, "--workers", 1)


def index(root: Path, name: str, split: str) -> Index:
    return Index.read(index_path(dataset_folder(name, root), split))


def first_pixels(root: Path) -> np.ndarray:
    made = index(root, "demo", "train")
    with Image.open(made.root / made.records[0].path) as image:
        return np.asarray(image)


def test_the_demo_set_is_as_large_as_typed(tmp_path: Path) -> None:
    attnbias(*DEMO, "--size", 48, "--root", tmp_path, expect=0)
    assert len(index(tmp_path, "demo", "train").records) == 12
    assert len(index(tmp_path, "demo", "val").records) == 6
    assert first_pixels(tmp_path).shape == (48, 48, 3)


def test_the_demo_sets_scenes_follow_seed_and_preset(tmp_path: Path) -> None:
    scenes = {}
    for typed in ((), ("--seed", 0), ("--seed", 1), ("--preset", "even")):
        root = tmp_path / "-".join(map(str, typed))
        attnbias(*DEMO, *typed, "--data-root", root, expect=0)
        scenes[typed] = first_pixels(root), [record.target for record in index(root, "demo", "train").records]
    plain, same, other, even = scenes.values()
    assert np.array_equal(plain[0], same[0])
    assert not np.array_equal(plain[0], other[0])
    assert not np.array_equal(plain[0], even[0]) or plain[1] != even[1]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    shown = attnbias("prepare-data", small_folder(tmp_path), "--dry-run", "--root", tmp_path / "root", expect=0).out
    assert "dry run: nothing was written" in shown
    assert not (tmp_path / "root").exists()


def small_folder(tmp_path: Path, splits: tuple[str, ...] = ("a", "b")) -> Path:
    """Six images of each of two classes below every split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for position in range(6):
                Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / f"{position}.png")
    return tmp_path / "pets"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of two images in each of the splits a, b and c."""
    rows = ["path,label,split"]
    for position, split in enumerate("aabbcc"):
        Image.new("RGB", (24, 24), (40 * position, 90, 60)).save(tmp_path / f"{position}.png")
        rows.append(f"{position}.png,{'cat' if position % 2 else 'dog'},{split}")
    (tmp_path / "pets.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "pets.csv"


def test_the_splits_that_were_typed_train_and_evaluate(table: Path, tmp_path: Path) -> None:
    common = ("prepare-data", table, "--root", tmp_path / "root")
    assert "--train-split" in attnbias(*common, expect=3).line
    for train, val in ("ca", "bc"):
        attnbias(*common, "--train-split", train, "--val-split", val, "--overwrite", expect=0)
        roles = Prepared.read(dataset_folder("pets", tmp_path / "root")).roles
        assert (roles["train"], roles["val"]) == (train, val)


def test_only_the_splits_that_were_typed_are_prepared(table: Path, tmp_path: Path) -> None:
    attnbias("prepare-data", table, "--splits", "a,c", "--train-split", "a", "--root", tmp_path / "root", expect=0)
    assert set(Prepared.read(dataset_folder("pets", tmp_path / "root")).splits) == {"a", "c"}


def test_the_share_that_was_typed_is_held_out_by_the_seed_that_was_typed(tmp_path: Path) -> None:
    source = small_folder(tmp_path, ("train",))
    held = []
    for position, (fraction, seed) in enumerate(((0.25, 0), (0.25, 1), (0.5, 0))):
        root = tmp_path / f"root{position}"
        attnbias("prepare-data", source, "--root", root, "--val-fraction", fraction, "--seed", seed, expect=0)
        held.append([record.path for record in open_split("pets", "val", root).records])
        assert len(open_split("pets", "train", root).records) + len(held[-1]) == 12
    assert [len(paths) for paths in held] == [3, 3, 6]
    assert held[0] != held[1]


@pytest.mark.parametrize(("typed", "rule"), [((), "upright"), (("--orientation", "stored"), "stored")])
def test_images_are_read_as_typed(typed: tuple[str, ...], rule: str, tmp_path: Path) -> None:
    attnbias("prepare-data", small_folder(tmp_path, ("train",)), "--root", tmp_path / "root", *typed, expect=0)
    assert index(tmp_path / "root", "pets", "train").orientation == rule  # obeyed: data/test_orientation.py


def test_broken_images_are_named_where_checking_is_typed(tmp_path: Path) -> None:
    source = small_folder(tmp_path, ("train",))
    path = source / "train" / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:-200])
    attnbias("prepare-data", source, "--root", tmp_path / "root", expect=0)
    assert "cat/3.png" in attnbias("prepare-data", source, "--root", tmp_path / "second", "--verify", expect=3).line


def test_as_many_workers_decode_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Counted(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            counts.append(count)
            super().__init__(count)

    monkeypatch.setattr(preparing, "ThreadPoolExecutor", Counted)
    typed = ("--verify", "--workers", 3)
    attnbias("prepare-data", small_folder(tmp_path, ("train",)), *typed, "--root", tmp_path / "root", expect=0)
    assert counts == [3]


def coco(tmp_path: Path) -> Path:
    """A set in COCO layout: an image with an object of each of two categories, both animals."""
    folder = tmp_path / "shapes"
    (folder / "images").mkdir(parents=True)
    categories = [{"id": i + 1, "name": n, "supercategory": "animal"} for i, n in enumerate(("cat", "dog"))]
    images, annotations = [], []
    for position in range(2):
        Image.new("RGB", (40, 30), (90 * position, 80, 70)).save(folder / "images" / f"{position}.png")
        images.append({"id": position, "file_name": f"{position}.png", "width": 40, "height": 30})
        for label in (1, 2):
            x = 4 + 16 * (label - 1)
            outline = [x, 5, x + 10, 5, x + 10, 20, x, 20]
            box = {"bbox": [x, 5, 10, 15], "area": 150, "iscrowd": 0, "segmentation": [outline]}
            annotations.append({"id": len(annotations) + 1, "image_id": position, "category_id": label, **box})
    content: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "shapes.json").write_text(json.dumps(content))
    return folder / "shapes.json"


@pytest.mark.parametrize(("typed", "classes"), [("category", ("cat", "dog")), ("supercategory", ("animal",))])
def test_masks_are_named_as_typed(typed: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    attnbias("prepare-data", coco(tmp_path), "--masks", typed, "--root", tmp_path / "root", expect=0)
    made = open_split("shapes", "val", tmp_path / "root")
    assert made.task == "segmentation"
    assert tuple(name for name in made.classes if name != "background") == classes


METASHIFT = (
    *("train/cat/cat(sofa)", "train/cat/cat(bed)", "train/dog/dog(bench)"),
    *("test/cat/cat(shelf)", "test/dog/dog(shelf)"),
)
NICO = ("autumn/bear", "autumn/bus", "rock/bus")


@pytest.mark.parametrize(
    ("typed", "folders", "read"),
    [
        (
            "below",
            METASHIFT,
            {"train": [(0, "bed"), (0, "sofa"), (1, "bench")], "test": [(0, "shelf"), (1, "shelf")]},
        ),
        ("above", NICO, {"train": [(0, "autumn"), (1, "autumn"), (1, "rock")]}),
    ],
)
def test_folders_of_contexts_are_groups_as_typed(
    typed: str, folders: tuple[str, ...], read: dict[str, list[tuple[int, str]]], tmp_path: Path
) -> None:
    for number, folder in enumerate(folders):
        (tmp_path / "animals" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "animals" / folder / "1.png")
    asked = ("prepare-data", tmp_path / "animals", "--contexts", typed)
    attnbias(*asked, "--root", tmp_path / "root", expect=0)
    for split, rows in read.items():
        index = open_split("animals", split, tmp_path / "root")
        assert [(record.target, record.group) for record in index.records] == rows
    Image.new("RGB", (8, 8)).save(tmp_path / "animals" / Path(folders[0]).parent / "stray.png")
    levels = "CLASS/CONTEXT" if typed == "below" else "CONTEXT/CLASS"
    refused = attnbias(*asked, "--root", tmp_path / "other", expect=3)
    assert f"stray.png is not in a folder {levels}/; expected by --contexts {typed}" in refused.line
    assert "--contexts belongs to folders of classes" in attnbias("prepare-data", "demo", *asked[2:], expect=2).line
