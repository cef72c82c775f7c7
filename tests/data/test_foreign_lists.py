"""Lists and annotations that come with a dataset: whatever is in them, one line answers, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
        (ANNOTATION.replace(">9<", ">nan<"), "a box's width is nan, expected a number of pixels"),
        (ANNOTATION.replace(">9<", ">1e400<"), "a box's width is inf"),
        (ANNOTATION.replace(">9<", ">-5<"), "a box's width is -5.0"),
        (ANNOTATION.replace("dog", "[/b]"), "unknown class '[/b]'"),
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
