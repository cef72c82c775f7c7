"""The same image twice is found by its bytes, whatever it is called: across splits, with other labels, in one split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbias.data import repeats
from attnbias.data.index import Index, Record
from attnbias.data.prepare import prepare
from attnbias.data.repeats import CONTRADICTION, find_repeats
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.command_line import attnbias


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)  # without compression, so that all are of one size
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Folders of classes: one image in train and val, one of two classes, one twice in its class."""
    root = tmp_path / "pets"
    made = [save(root / split / name / f"{k}.bmp", k) for k, (split, name) in enumerate(4 * [("train", "cat")])]
    made += [save(root / "train" / "dog" / f"{k}.bmp", 10 + k) for k in range(3)]
    made += [save(root / "val" / name / "9.bmp", 20 + k) for k, name in enumerate(("cat", "dog"))]
    shutil.copy(made[0], root / "val" / "cat" / "copy.bmp")
    shutil.copy(made[1], root / "train" / "dog" / "also_a_cat.bmp")
    shutil.copy(made[2], root / "train" / "cat" / "twin.bmp")
    return root


EXPECTED = {
    "same image in train and val": "train: cat/0.bmp = val: cat/copy.bmp",
    "same image more than once in train": "train: cat/1.bmp = train: dog/also_a_cat.bmp",
    CONTRADICTION: "train: cat/1.bmp = train: dog/also_a_cat.bmp",
}


def test_prepare_data_counts_and_names_them(pets: Path, tmp_path: Path) -> None:
    done = attnbias("prepare-data", pets, "--root", tmp_path / "root", expect=0)
    stored = json.loads((tmp_path / "root" / "pets" / "prepared.json").read_text())["remarks"]
    assert {reason: counted["count"] for reason, counted in stored.items()} == dict(
        zip(EXPECTED, (1, 2, 1), strict=True)
    )
    for reason, first in EXPECTED.items():
        assert stored[reason]["first"][0] == first
        assert f"{reason}: " in done.out


def test_a_table_that_lists_an_image_twice(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"{k}.bmp", k)
    rows = (
        "path,label,split",
        "0.bmp,cat,train",
        "1.bmp,dog,train",
        "0.bmp,dog,train",
        "1.bmp,dog,val",
        "2.bmp,cat,val",
    )
    (tmp_path / "pets.csv").write_text("\n".join(rows))
    done = attnbias("prepare-data", tmp_path / "pets.csv", "--root", tmp_path / "root", expect=0)
    assert "same image in train and val: 1 (train: 1.bmp = val: 1.bmp)" in done.out
    assert "same image more than once in train: 1 (train: 0.bmp = train: 0.bmp)" in done.out
    assert "same image with different labels: 1 (train: 0.bmp = train: 0.bmp)" in done.out


def test_parts_of_an_image_are_samples_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "people.bmp", 0)
    records = [Record("people.bmp", (1,), crop=(x, 0, 5, 9)) for x in (0, 6, 6)]
    parts, twice = (
        Index("wider", "test", "multilabel", ("Male",), tmp_path, tuple(own)) for own in (records[:2], records)
    )
    assert find_repeats([parts]) == {}
    counts = {reason: counted["count"] for reason, counted in find_repeats([twice]).items()}
    assert counts == {"same image more than once in test": 1}


def test_files_of_another_size_or_end_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "gone.jpg"]
    for name, content in zip(names, (b"1" * 9000, b"1" * 8999 + b"2", b"3" * 10, b"4" + b"1" * 8999), strict=False):
        (tmp_path / name).write_bytes(content)
    read: list[str] = []
    digest = repeats._digest
    monkeypatch.setattr(repeats, "_digest", lambda path: read.append(Path(path).name) or digest(path))
    records = tuple(Record(name, number) for number, name in enumerate(names))
    assert find_repeats([Index("own", "train", "singlelabel", tuple(names), tmp_path, records)]) == {}
    assert read == ["a.jpg", "d.jpg"]  # of equal size and end


def test_a_papers_set_is_compared_on_verify(tmp_path: Path) -> None:
    source = tmp_path / "places"
    for split in ("train", "val"):
        save(source / split / "abbey" / "1.bmp", 0)
    common = ("prepare-data", "places365", "--source", source, "--root", tmp_path / "root")
    assert "same image" not in attnbias(*common, expect=0).out
    assert "same image in train and val: 1" in attnbias(*common, "--verify", expect=0).out


# Two at once ----------------------------------------------------------------------------------------------------------


def test_of_two_preparations_at_once_the_second_is_refused(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    refused: list[str] = []

    def second(what: str, done: int, total: int) -> None:
        if not refused:
            refused.append(attnbias("prepare-data", pets, "--root", root, expect=3).line)

    prepare(str(pets), root=root, options=PrepareOptions(progress=second))
    assert refused == [f"error: another process is at work in {root}/pets; wait for it, or stop it"]
    assert sorted(path.name for path in (root / "pets").iterdir()) == ["index", "prepared.json"]
    attnbias("prepare-data", pets, "--root", root, expect=0)


def test_a_preparation_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    attnbias("prepare-data", tmp_path / "pets", "--root", tmp_path / "a" / "root", expect=3)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]
