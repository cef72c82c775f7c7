"""A person's own class folders, tables and COCO files, read as torchvision and pycocotools read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torchvision

from attnbias.data.errors import DataError
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.class_folders import read_class_folders
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.imagenet import synsets
from tests.helpers.command_line import attnbias
from tests.helpers.listed import listed
from tests.helpers.official_archives import jpeg, tree


def test_class_folders_are_read_as_image_folder_reads_them(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.JPG", "b/sub/1.jpeg", "a/x.webp", "a/notes.txt", "c d/ä.bmp", "B/1.tif", "b/sub.jpg"]
    tree(tmp_path, dict.fromkeys(names, jpeg()))
    theirs = torchvision.datasets.ImageFolder(str(tmp_path))
    index = read_class_folders(tmp_path)
    assert list(index.classes) == theirs.classes
    assert [(str(tmp_path / path), label) for path, label in listed(index)] == theirs.samples
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"1 class folders hold no images \(empty\)"):
        read_class_folders(tmp_path)
    with pytest.raises(DataError, match=r"1 folders that are not a class of folder \(empty\)"):
        read_class_folders(tmp_path, classes=index.classes)
    with pytest.raises(DataError, match="holds no class folders"):
        read_class_folders(tmp_path / "a")


def test_a_folder_a_table_and_a_coco_file_of_ones_own(tmp_path: Path) -> None:
    tree(tmp_path / "pets", {f"{split}/{name}/1.jpg": jpeg() for split in ("train", "test") for name in ("cat", "dog")})
    tree(tmp_path / "pets", {"train/ant/1.jpg": jpeg()})
    done = attnbias("prepare-data", "./pets", "--verify", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "pets is ready in datasets/pets" in done.out
    for name in ("pets", "datasets/pets", f"{tmp_path}/pets"):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert open_split(name, "val").classes == ("ant", "cat", "dog")
    rows = "path,labels,split,group", "pets/train/cat/1.jpg,cat;indoor,train,a", "pets/test/dog/1.jpg,,val,b"
    (tmp_path / "scenes.csv").write_text("\n".join(rows))
    done = attnbias("prepare-data", "scenes.csv", cwd=tmp_path)
    assert done.code == 0, done.err
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        train, val = open_split("scenes.csv", "train"), open_split("scenes", "val")
    assert (train.task, train.classes) == ("multilabel", ("cat", "indoor"))
    assert (train.records[0].target, train.records[0].group) == ((1, 1), "a")
    assert val.records[0].target == (0, 0)
    coco = {
        "categories": [{"id": 3, "name": "dog"}],
        "images": [{"id": 9, "file_name": "test/dog/1.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 3, "bbox": [0, 0, 4, 4]}],
    }
    tree(tmp_path, {"pets/mine.json": json.dumps(coco).encode()})
    report = prepare(str(tmp_path / "pets" / "mine.json"), root=tmp_path / "root", options=PrepareOptions(verify=True))
    assert listed(report.indexes[0]) == [("test/dog/1.jpg", (1,))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("picture,label\n1.jpg,cat\n", "expected path and label"),
        ("path,label,labels\n1.jpg,cat,cat\n", "expected path and label"),
        ("path,label\n1.jpg,\n", r"t\.csv:2: 1\.jpg has no label"),
        ("path,label\n1.jpg,cat\n,dog\n", r"t\.csv:3: a row has no path"),
        ("path,label\n1.jpg,cat,dog\n", r"t\.csv:2: expected 2 values"),
        ("path,label\n", "no rows"),
        ("", "expected path and label"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        prepare(str(tmp_path / "t.csv"), root=tmp_path / "root")


def test_single_labels_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfpath, label\n1.jpg, dog\n../other/2.jpg,cat\n")
    tree(tmp_path.parent, {"other/2.jpg": jpeg(), f"{tmp_path.name}/1.jpg": jpeg()})
    (index,) = prepare(str(tmp_path / "t.csv"), root=tmp_path / "root").indexes
    assert (index.task, index.classes) == ("singlelabel", ("cat", "dog"))
    assert listed(index) == [("1.jpg", 1), ("../other/2.jpg", 0)]


def test_paths_that_are_no_datasets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare(str(tmp_path / "nothing"), root=tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"neither a folder, nor a \.csv"):
        prepare(str(tmp_path / "notes.txt"), root=tmp_path)
    (tmp_path / "coco").mkdir()
    with pytest.raises(DataError, match="name of a known dataset"):
        prepare(str(tmp_path / "coco"), root=tmp_path)
    with pytest.raises(DataError, match="run: attnbias prepare-data"):
        open_split(str(tmp_path / "coco"), "train", tmp_path / "root")


def test_many_classes_that_never_occur_are_counted(tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", {f"{synset}/x.jpg": jpeg() for synset in synsets("imagenet-a")[:3]})
    done = attnbias("prepare-data", "imagenet-a", "--source", source, "--root", tmp_path / "root", cwd=tmp_path)
    assert "and 977 more" in " ".join(done.out.split()), done.out


def test_real_images(tmp_path: Path, real_data: Path) -> None:
    report = prepare("cifar10", real_data / "cifar10_mini", tmp_path, PrepareOptions(verify=True))
    assert [len(index.records) for index in report.indexes] == [2000, 500]
    assert report.indexes[0].classes == report.indexes[1].classes
    assert len(report.indexes[0].classes) == 10
    report = prepare("imagenet", real_data / "imagenet_samples", tmp_path, PrepareOptions(verify=True))
    labels = json.loads((real_data / "imagenet_samples" / "labels.json").read_text())
    assert len(report.indexes[0].records) == 100
    for record in report.indexes[0].records:
        assert record.target == labels[record.path.split("/")[0]]["index"]
