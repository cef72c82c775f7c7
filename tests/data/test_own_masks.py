"""Masks and boxes of a person's own images: found beside them or by a table, held against them, read as truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.masks import read_masks
from attnbias.data.prepare import Report, prepare
from attnbias.data.registry import open_split
from attnbias.data.sets import mask_folders
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.tally import Tally
from tests.helpers.command_line import attnbias

SIZE = (50, 40)
"""Width and height of the images."""
Plane = np.ndarray[Any, np.dtype[np.bool_]]


def photo(path: Path, number: int, orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def plane(number: int, shape: tuple[int, int] = (40, 50)) -> Plane:
    found = np.zeros(shape, dtype=bool)
    found[3 + number : 20, 5 : 30 - number] = True
    return found


def save(path: Path, mask: Plane, mode: str = "L") -> Path:
    """A mask as people save them: 1 = two levels, L = white, P = palette index 1 (which is drawn black), RGB = red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8) * (255 if mode == "L" else 1))
    if mode == "1":
        image = Image.fromarray(mask)
    elif mode == "P":
        image.putpalette([255, 255, 255, 0, 0, 0])
    elif mode == "RGB":
        image = Image.fromarray(mask[..., None] * np.array([200, 0, 0], np.uint8))
    image.save(path)
    return path


def truths(index: Index) -> dict[str, Plane]:
    """Mask by path of every record that has one."""
    assert index.annotations is not None
    found = {}
    for record in index.records:
        assert record.image_id is not None
        masks = read_masks(index.annotations, record.image_id, SIZE)
        if len(masks.labels):
            assert masks.labels.tolist() == [record.target] == [box.label for box in record.boxes]
            found[record.path] = masks.masks[0]
    return found


def prepared(source: Path, root: Path, **options: Any) -> Report:
    return prepare(str(source), root=root, options=PrepareOptions(name="mine", **options))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{c}/{n}.jpg", "masks/{c}/{n}.png"),
        ("{c}/{n}.jpg", "masks/{c}/{n}.jpg.png"),
        ("{c}/{c}-{n}.jpg", "masks/{c}-{n}.PNG"),
        ("images/{c}/{n}.jpg", "masks/{c}/{n}.png"),
    ],
)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_beside_the_images_are_the_objects(image: str, mask: str, mode: str, tmp_path: Path) -> None:
    if mode == "RGB" and "{c}/" not in mask:
        pytest.skip("a folder of colour images is a class")
    for number, name in enumerate(("cat", "cat", "dog")):
        photo(tmp_path / "src" / image.format(c=name, n=number), number)
        if number:
            save(tmp_path / "src" / mask.format(c=name, n=number), plane(number), mode)
    report = prepared(tmp_path / "src", tmp_path / "root")
    index = open_split("mine", "train", tmp_path / "root")
    assert (index.classes, index.truth_origin, index.task) == (("cat", "dog"), "measured", "singlelabel")
    found = truths(index)
    assert [np.array_equal(mask, plane(number)) for number, mask in enumerate(found.values(), start=1)] == [True, True]
    assert [box[1:5] for record in index.records for box in record.boxes] == [(5, 4, 24, 16), (5, 5, 23, 15)]
    assert {reason: tally["count"] for reason, tally in report.prepared.remarks.items()} == {
        "image without a mask of its object": 1,
        "image with a mask of its object": 2,
    }


def test_masks_of_splits_of_the_held_out_and_of_no_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            photo(tmp_path / "src" / split / "ab"[number % 2] / f"{number}.png", number + 4 * (split == "val"))
            save(tmp_path / "src" / "masks" / split / "ab"[number % 2] / f"{number}.png", plane(number))
    save(tmp_path / "src" / "masks" / "train" / "a" / "stray.png", plane(0))
    (tmp_path / "src" / "masks" / "train" / "a" / "2.jpg").write_bytes(b"")
    report = prepared(tmp_path / "src", tmp_path / "root")
    for split in ("train", "val"):
        found = truths(open_split("mine", split, tmp_path / "root"))
        assert all(np.array_equal(mask, plane(int(Path(path).stem))) for path, mask in found.items()), found
        assert len(found) == 4
    assert {reason: tally["count"] for reason, tally in report.prepared.left_out.items()} == {
        "mask of no image": 1,
        "file in masks/ that is not a PNG": 1,
    }
    (tmp_path / "src" / "val").rename(tmp_path / "elsewhere")
    (tmp_path / "src" / "masks" / "val").rename(tmp_path / "elsewhere too")
    report = prepared(tmp_path / "src", tmp_path / "root", overwrite=True, val_fraction=0.5)
    assert [len(truths(index)) for index in report.indexes] == [2, 2]


def test_a_class_that_is_called_masks_stays_one(tmp_path: Path) -> None:
    for name in ("gloves", "masks"):
        for number in range(2):
            photo(tmp_path / "src" / name / f"{number}.png", number + 2 * (name == "masks"))
    report = prepared(tmp_path / "src", tmp_path / "root")
    assert report.indexes[0].classes == ("gloves", "masks")
    assert report.indexes[0].annotations is None


@pytest.mark.parametrize("column", ["label", "labels"])
def test_a_table_names_masks_and_boxes_and_a_mask_goes_before_a_box(column: str, tmp_path: Path) -> None:
    lines = [f"path,{column},mask,box"]
    for number, (label, mask, box) in enumerate(
        [("a", "m/0.png", ""), ("b", "", '"1,2,10,20"'), ("a", "m/2.png", '"0,0,9,9"'), ("b", "", "")]
    ):
        photo(tmp_path / f"p/{number}.jpg", number)
        save(tmp_path / f"m/{number}.png", plane(number))
        lines.append(f"p/{number}.jpg,{label},{mask},{box}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    report = prepared(tmp_path / "t.csv", tmp_path / "root")
    index = open_split("mine", "train", tmp_path / "root")
    assert [[box[1:5] for box in record.boxes] for record in index.records] == [
        [(5, 3, 25, 17)],
        [(1, 2, 10, 20)],
        [(0, 0, 9, 9)],
        [],
    ]
    assert index.annotations is not None
    content = json.loads(index.annotations.read_text())
    assert [("segmentation" in item) for item in content["annotations"]] == [True, False, True]
    assert report.prepared.remarks["image without a mask of its object"]["count"] == 2
    assert report.prepared.remarks["image without a box"]["count"] == 2


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("box", '"3,4,20,10"'),
        ("bbox", "3 4 20 10"),
        ("x,y,w,h", "3,4,20,10"),
        ("X,Y,Width,Height", "3,4,20,10"),
        ("x,y,w,h,width,height", "3,4,20,10,50,40"),
        ("x1,y1,x2,y2", "3,4,23,14"),
        ("xmin,ymin,xmax,ymax", "3,4,23,14"),
    ],
)
def test_boxes_of_every_form_are_the_same_box_of_each_label(columns: str, values: str, tmp_path: Path) -> None:
    photo(tmp_path / "0.jpg", 0)
    (tmp_path / "t.csv").write_text(f"path,labels,{columns}\n0.jpg,a;b,{values}\n")
    prepared(tmp_path / "t.csv", tmp_path / "root")
    index = open_split("mine", "train", tmp_path / "root")
    assert [tuple(box[:5]) for box in index.records[0].boxes] == [(0, 3, 4, 20, 10), (1, 3, 4, 20, 10)]
    assert (index.truth_origin, index.annotations) == ("measured", None)


@pytest.mark.parametrize(
    ("columns", "values", "reason"),
    [
        ("box", '"3,4,20"', r"t\.csv:2: the box is '3,4,20'; expected x,y,w,h with w and h above 0, in pixels"),
        ("box", '"3,4,0,9"', "expected x,y,w,h with w and h above 0"),
        ("box", "left", "the box is 'left'"),
        ("x,y,w,h", "3,4,,9", "expected x,y,w,h"),
        ("x1,y1,x2,y2", "30,4,20,9", "expected x1,y1,x2,y2 with x1 < x2"),
        ("x,y,w,h", "0.1,0.2,0.5,0.5", r"no box reaches beyond 0\.7 pixels; expected pixels, not shares"),
        ("box,x,y,w,h", '"1,1,2,2",1,1,2,2', "has boxes in the columns box and x,y,w,h; keep one of them"),
        ("mask", "m.png", "1 of 1 masks are missing"),
        ("mask", "0.jpg", "cannot be read .it is a JPEG.; expected a PNG"),
        ("mask", "alpha.png", "has transparent pixels"),
        ("mask", "turned.png", r"1 of 1 masks differ in size .* has 40 x 50 and 0\.jpg 50 x 40$"),
    ],
)
def test_what_does_not_fit_is_one_line(columns: str, values: str, reason: str, tmp_path: Path) -> None:
    photo(tmp_path / "0.jpg", 0)
    save(tmp_path / "turned.png", plane(0, (50, 40)))
    Image.new("LA", SIZE, (255, 255)).save(tmp_path / "alpha.png")
    with Image.open(tmp_path / "alpha.png") as image:
        image.putpixel((0, 0), (0, 0))
        image.save(tmp_path / "alpha.png")
    (tmp_path / "t.csv").write_text(f"path,label,{columns}\n0.jpg,a,{values}\n")
    with pytest.raises(DataError, match=reason) as caught:
        prepared(tmp_path / "t.csv", tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()


def test_masks_are_of_the_upright_image(tmp_path: Path) -> None:
    photo(tmp_path / "src" / "a" / "0.jpg", 0, orientation=6)
    save(tmp_path / "src" / "masks" / "a" / "0.png", plane(0, (50, 40)))
    prepared(tmp_path / "src", tmp_path / "root")
    (mask,) = truths(open_split("mine", "train", tmp_path / "root")).values()
    assert np.array_equal(mask, plane(0, (50, 40)))
    save(tmp_path / "src" / "masks" / "a" / "0.png", plane(0))
    with pytest.raises(DataError, match="add --orientation stored, if they were drawn so"):
        prepared(tmp_path / "src", tmp_path / "root")
    prepared(tmp_path / "src", tmp_path / "root", overwrite=True, settings={"orientation": "stored"})
    (mask,) = truths(open_split("mine", "train", tmp_path / "root")).values()
    assert np.array_equal(mask, plane(0))


def test_odd_masks_are_named_and_one_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        photo(tmp_path / "src" / name / f"{number}.jpg", number)
    save(tmp_path / "src" / "masks" / "a" / "0.png", np.zeros(SIZE[::-1], dtype=bool))
    save(tmp_path / "src" / "masks" / "b" / "1.png", np.ones(SIZE[::-1], dtype=bool))
    said = attnbias("prepare-data", tmp_path / "src", "--root", tmp_path / "root", expect=0).out
    assert "mask without an object: every pixel is zero: 1 (0.png)" in said
    assert "mask of the whole image: no pixel is zero: 1 (1.png)" in said
    assert "masks" not in open_split("src", "train", tmp_path / "root").classes
    photo(tmp_path / "two" / "a" / "0.jpg", 0)
    photo(tmp_path / "two" / "b" / "0.jpg", 1)
    save(tmp_path / "two" / "masks" / "0.png", plane(0))
    line = attnbias("prepare-data", tmp_path / "two", "--root", tmp_path / "root", expect=3).line
    assert "0.png could be the mask of 2 images" in line


def test_a_table_in_a_folder_of_images_and_masks_tells_the_classes(tmp_path: Path) -> None:
    for number in range(2):
        photo(tmp_path / "src" / "images" / f"{number}.jpg", number)
        save(tmp_path / "src" / "masks" / f"{number}.png", plane(number))
    (tmp_path / "src" / "list.csv").write_text("path,label\nimages/0.jpg,a\nimages/1.jpg,b\n")
    prepared(tmp_path / "src", tmp_path / "root")
    found = truths(open_split("mine", "train", tmp_path / "root"))
    assert [np.array_equal(mask, plane(number)) for number, mask in enumerate(found.values())] == [True, True]


def test_val_takes_own_masks_with_no_option_and_says_whose_they_are(tmp_path: Path) -> None:
    for number in range(4):
        photo(tmp_path / "src" / "ab"[number % 2] / f"{number}.png", number)
        save(tmp_path / "src" / "masks" / "ab"[number % 2] / f"{number}.png", plane(number))
    attnbias("prepare-data", "src", cwd=tmp_path, expect=0)
    small = ("--recipe", "demo", "--epochs", 1, "--batch-size", 4, "--image-size", 32, "--gpus", 0)
    attnbias("train", "csra", "--dataset", "src", *small, "--out", "run", cwd=tmp_path, expect=0)
    asked = ("--load-from", "run", "--bias", "--gpus", 0, "--json", "r.json")
    done = attnbias("val", "csra", *asked, cwd=tmp_path, expect=0)
    assert "objects are masks of your own (measured)" in done.out + done.err
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert (result["bias"]["truth"], result["bias"]["samples"]) == ("masks", 4)
    area = np.mean([plane(number).mean() for number in range(4)])
    assert result["bias"]["means"]["area_share"] == pytest.approx(area, abs=0.02)


def test_masks_are_looked_for_once_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows it has, as in a table of objects or of questions."""
    asked: list[str] = []
    places = mask_folders._places

    def counted(index: Index, below: str) -> Iterator[tuple[Path, str]]:
        asked.append(below)
        return places(index, below)

    monkeypatch.setattr(mask_folders, "_places", counted)
    records = tuple(Record("a.png", 0) for _ in range(9))
    (index,) = mask_folders.numbered([Index("own", "train", "singlelabel", ("cat",), tmp_path, records)])
    assert mask_folders.find_masks([index], Tally()) == {}
    (tmp_path / "masks").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "masks" / "a.png")
    assert mask_folders.find_masks([index], Tally()) == dict.fromkeys(range(1, 10), tmp_path / "masks" / "a.png")
    assert asked == ["a.png", "a.png"]
