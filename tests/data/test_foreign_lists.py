"""Lists and annotations that come with a dataset: whatever is in them, one line answers, and nothing is written."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbias.data.archived import read_archive
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.prepare import prepare as prepare_set
from attnbias.data.sets.grouped import read_waterbirds
from attnbias.data.sets.inaturalist import read_inaturalist
from attnbias.data.sets.places import read_places
from attnbias.data.sets.voc import read_voc
from attnbias.data.sets.wider import read_wider
from tests.helpers.command_line import attnbias

OBJECT = "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
ANNOTATION = f"<annotation>{OBJECT}</annotation>"

SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no UTF-8": (lambda path: path.write_bytes(b"a\xff\n"), "it is not UTF-8 text: byte 1"),
    "a NUL": (lambda path: path.write_bytes(b"a\0\n"), "it holds a NUL"),
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
}


def image(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8) if values is None else values).save(path)


def label_maps(folder: Path) -> tuple[str, Path]:
    """A person's own label maps, and the list of their classes."""
    image(folder / "plots" / "images" / "1.png")
    image(folder / "plots" / "labels" / "1.png", np.eye(10, dtype=np.uint8))
    return "plots", folder / "plots" / "classes.txt"


def voc(folder: Path) -> tuple[str, Path]:
    """VOC 2007 with one image, and the list of its training images."""
    root = folder / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    image(root / "JPEGImages" / "000001.jpg")
    (root / "Annotations" / "000001.xml").write_text(ANNOTATION)
    for split in ("trainval", "test"):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("000001\n")
    return "voc07", root / "ImageSets" / "Main" / "trainval.txt"


def voc_segmentation(folder: Path) -> tuple[str, Path]:
    """VOC 2012 with one image, and the list of its label maps for training."""
    root = folder / "VOC2012"
    image(root / "JPEGImages" / "000001.jpg")
    image(root / "SegmentationClass" / "000001.png", np.eye(10, dtype=np.uint8))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("000001\n")
    return "voc12seg", lists / "train.txt"


def waterbirds(folder: Path) -> tuple[str, Path]:
    (folder / "a.jpg").touch()
    return "waterbirds", folder / "metadata.csv"


def prepare(name: str, folder: Path) -> tuple[int, str]:
    """The exit code, and the last line of what was said."""
    source = [] if (folder / name).exists() else ["--source", folder]
    done = attnbias("prepare-data", folder / name if not source else name, *source, "--root", folder / "root")
    return done.code, (done.err.splitlines() or [""])[-1]


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("make", [label_maps, voc, voc_segmentation, waterbirds])
def test_a_list_that_is_no_text_is_named(make: Callable[[Path], tuple[str, Path]], kind: str, tmp_path: Path) -> None:
    name, path = make(tmp_path)
    path.unlink(missing_ok=True)
    spoil, words = SPOILED[kind]
    spoil(path)
    code, line = prepare(name, tmp_path)
    assert code == 3
    assert str(path) in line
    assert words in line
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("make", [label_maps, voc, voc_segmentation])
def test_a_list_with_a_byte_order_mark_is_read_without_it(
    make: Callable[[Path], tuple[str, Path]], tmp_path: Path
) -> None:
    name, path = make(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + (path.read_bytes() if path.exists() else b"soil\nwheat\n"))
    assert prepare(name, tmp_path)[0] == 0
    assert "\\ufeff" not in next((tmp_path / "root").glob("*/index/train*.json")).read_text()


def test_a_list_of_classes_names_each_once(tmp_path: Path) -> None:
    name, path = label_maps(tmp_path)
    path.write_text("soil\n soil \n")
    assert prepare(name, tmp_path) == (
        3,
        f"error: list of classes {path} names 'soil' twice; give each class its own name",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ANNOTATION.replace(">9<", ">nan<"), "is damaged ('nan' is not a number)"),
        (ANNOTATION.replace(">9<", ">1e400<"), "a box's width is inf"),
        (ANNOTATION.replace(">9<", ">-5<"), "a box's width is -5.0"),
        (ANNOTATION.replace("dog", "[/b]"), "unknown class '[/b]'"),
        (ANNOTATION.replace("</object>", "<difficult>yes</difficult></object>"), "'difficult' of a dog is 'yes', exp"),
        (f'<?xml version="1.0" encoding="nothing"?>{ANNOTATION}', "is damaged (unknown encoding: nothing)"),
        (f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{ANNOTATION.replace("dog", "&x;")}', "is damaged"),
    ],
)
def test_an_annotation_that_no_index_can_hold_is_refused_before_anything_is_written(
    content: str, words: str, tmp_path: Path
) -> None:
    name, path = voc(tmp_path)
    (path.parents[2] / "Annotations" / "000001.xml").write_text(content)
    code, line = prepare(name, tmp_path)
    assert code == 3
    assert words in line
    assert not (tmp_path / "root").exists()


def places(folder: Path, number: str) -> Index:
    (folder / "val_256").mkdir()
    (folder / "categories_places365.txt").write_text("".join(f"/a/{n} {n}\n" for n in range(20)))
    (folder / "places365_val.txt").write_text(f"a.jpg {number}\n")
    return read_places(folder, "val")


def birds(folder: Path, number: str) -> Index:
    (folder / "metadata.csv").write_text(f"img_filename,y,split,place\na.jpg,{number},0,0\n")
    return read_waterbirds(folder)[0]


def boxes(folder: Path, number: str) -> Index:
    _, path = voc(folder)
    (path.parents[2] / "Annotations" / "000001.xml").write_text(ANNOTATION.replace(">9<", f">{number}<"))
    return read_voc(path.parents[2], "trainval")


def own_boxes(folder: Path, number: str) -> Index:
    image(folder / "a.png")
    (folder / "t.csv").write_text(f"path,label,box\na.png,cat,1 1 {number} 8\n")
    return prepare_set(str(folder / "t.csv"), root=folder / "root").indexes[0]


def species(folder: Path, number: str) -> Index:
    changed = {"annotations": [{"image_id": 1, "category_id": number}]}
    (folder / "train2018.json").write_text(json.dumps(SPECIES | changed))
    return read_inaturalist(folder, "train")


LONG = "9" * 5000
"""Which int() ends with an error of its own."""


@pytest.mark.parametrize(
    ("read", "number"),
    [
        *itertools.product([places, birds, boxes, own_boxes, species], ["0_1", "\u0661"]),
        *itertools.product([places, birds, own_boxes, species], [LONG]),
    ],
)
def test_a_number_is_digits_alone(read: Callable[[Path, str], Index], number: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, number)
    assert len(str(refused.value)) < 1000
    good = tmp_path / "good"
    good.mkdir()
    assert read(good, "1" if read is not species else "0").records


PERSON: dict[str, object] = {"attribute": [1] * 14, "bbox": [1, 2, 3, 4]}
SPECIES: dict[str, object] = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 0}],
    "categories": [{"id": 0, "name": "ibex"}],
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attribute": [True] * 14}, "attributes of a person in 'a.jpg' are [True, True"),
        ({"attribute": [1.0] * 14}, "attributes of a person in 'a.jpg' are"),
        ({"attribute": [1] * 13}, "expected 14 of 1, 0, -1"),
        ({"attribute": "1" * 14}, "'attribute' of entry 0 of 'targets' is '11111111111111'; expected a list"),
        ({"bbox": ["1", "2", "3", "4"]}, "the box of a person in 'a.jpg' is ['1', '2', '3', '4']"),
        ({"bbox": [1, 2, 3, 4, 5]}, "the box of a person in 'a.jpg' is"),
        ({"bbox": [1, 2, 3, True]}, "the box of a person in 'a.jpg' is"),
    ],
)
def test_attributes_of_another_type_are_refused(changed: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "wider_attribute_trainval.json"
    path.write_text(json.dumps({"images": [{"file_name": "a.jpg", "targets": [PERSON | changed]}]}))
    with pytest.raises(DataError) as refused:
        read_wider(path, tmp_path, "trainval")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"annotations": [{"image_id": 1, "category_id": 0.7}]}, "'category_id' of entry 0 of 'annotations' is 0.7"),
        ({"annotations": [{"image_id": True, "category_id": 0}]}, "'image_id' of entry 0 of 'annotations' is True"),
        ({"images": [{"id": 1, "file_name": 3}]}, "'file_name' of entry 0 of 'images' is 3; expected a text"),
        ({"categories": [{"id": 0.2, "name": "ibex"}]}, "'id' of entry 0 of 'categories' is 0.2"),
        ({"annotations": 3}, "it has no list 'annotations'"),
    ],
)
def test_species_of_another_type_are_refused(changed: dict[str, object], words: str, tmp_path: Path) -> None:
    (tmp_path / "train2018.json").write_text(json.dumps(SPECIES | changed))
    with pytest.raises(DataError) as refused:
        read_inaturalist(tmp_path, "train")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "meta"),
    [
        ({"data": np.zeros((2, 3072))}, ["a", "b"]),
        ({"data": [[300] * 3072] * 2}, ["a", "b"]),
        ({"labels": [0, 7]}, ["a", "b"]),
        ({"labels": [0, -1]}, ["a", "b"]),
        ({"labels": ["a", "b"]}, ["a", "b"]),
        ({"labels": [0, 2**70]}, ["a", "b"]),
        ({}, "ab"),
        ({}, [1, 2]),
        ({}, None),
    ],
)
def test_batches_of_another_type_are_refused(changed: dict[str, object], meta: object, tmp_path: Path) -> None:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]} | changed
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, content in {"test_batch": batch, "batches.meta": {"label_names": meta}}.items():
            written = pickle.dumps(content)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(written)
            archive.addfile(member, io.BytesIO(written))
    with pytest.raises(DataError, match="is damaged") as refused:
        read_archive(tmp_path / "cifar.tar.gz", "test")
    assert "\n" not in str(refused.value)
