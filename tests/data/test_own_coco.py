"""A person's own COCO files: each kind is read, or refused in one line; without masks boxes are used and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.mask import encode

from attnbias.data.errors import DataError
from attnbias.data.masks import count_unmasked, read_masks
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.command_line import Result, attnbias

SIZE = (40, 30)
SQUARE = [1, 1, 21, 1, 21, 21, 1, 21]
Content = dict[str, Any]


def content() -> Content:
    """Six images of 40 x 30 with an object of 20 x 20 pixels each."""
    return {
        "categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}],
        "images": [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 30} for k in range(6)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": (1, 7)[k % 2], "bbox": [1, 1, 20, 20], "segmentation": [SQUARE]}
            for k in range(6)
        ],
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for k in range(6):
        Image.new("RGB", SIZE, (k * 40, 90, 20)).save(tmp_path / "images" / f"{k}.png")
    return tmp_path


def write(home: Path, change: Callable[[Content], object], name: str = "mine", encoding: str = "utf-8") -> Path:
    changed = content()
    change(changed)
    path = home / f"{name}.json"
    path.write_text(json.dumps(changed), encoding=encoding)
    return path


def every(key: str, value: Any) -> Callable[[Content], object]:
    """Change (None: leave out) one key of every annotation."""

    def change(whole: Content) -> None:
        for annotation in whole["annotations"]:
            annotation.pop(key, None)
            annotation.update({} if value is None else {key: value})

    return change


def unsized(whole: Content) -> None:
    for image in whole["images"]:
        del image["width"], image["height"]


def named(whole: Content) -> None:
    """Ids that are texts."""
    for image, annotation in zip(whole["images"], whole["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"image {image['id']}"


def square() -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((30, 40), dtype=bool)
    mask[1:21, 1:21] = True
    return mask


def compressed(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Content:
    """Run lengths as pycocotools writes them."""
    found = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"counts": found["counts"].decode(), "size": list(mask.shape)}


RUNS = [31, *[20, 10] * 19, 20, 579]
"""The square's run lengths, down the columns, beginning with pixels that are not of it."""


@pytest.mark.parametrize(
    ("change", "encoding"),
    [
        (lambda whole: None, "utf-8-sig"),
        (lambda whole: None, "utf-16"),
        (unsized, "utf-8"),
        (named, "utf-8"),
        (every("segmentation", {"counts": RUNS, "size": [30, 40]}), "utf-8"),
        (every("segmentation", compressed(square())), "utf-8"),
        (every("segmentation", [SQUARE, [3, 3, 9, 9], [4, 4, 4, 4, 4, 4]]), "utf-8"),
        (every("bbox", [-5, -4, 20, 20]), "utf-8"),
        (every("bbox", [3, 3, 0, 0]), "utf-8"),
        *((every("id", value), "utf-8") for value in (None, 7, [1], {})),
    ],
)
def test_every_kind_of_file_gives_the_same_labels_and_masks(
    change: Callable[[Content], object], encoding: str, home: Path
) -> None:
    path = write(home, change, encoding=encoding)
    prepare(str(path), root=home / "root", options=PrepareOptions(verify=True))
    index = open_split("mine", "train", home / "root")
    assert [record.target for record in index.records] == [(1, 0), (0, 1)] * 3
    for record in index.records:
        assert record.image_id is not None
        (mask,) = read_masks(path, record.image_id, SIZE).masks
        assert (mask == square()).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda whole: whole["categories"][1].update(name="a"), "categories of the same name: 'a'"),
        (lambda whole: whole["categories"][1].update(id=1), "categories of the same id: 1"),
        (lambda whole: whole["categories"][1].pop("id"), "entry 1 of 'categories' has no 'id'"),
        (lambda whole: whole.pop("annotations"), "no list 'annotations'"),
        (lambda whole: whole.update(images={}), "no list 'images'"),
        (lambda whole: whole["annotations"][0].update(image_id=99), r"does not list \(99\)"),
        (lambda whole: whole["annotations"][0].update(category_id=2), "names category 2, which is not listed"),
        (every("category_id", [2]), r"'category_id' of entry 0 of 'annotations' is \[2\]; expected a whole number or"),
        (every("category_id", True), "'category_id' of entry 0 of 'annotations' is True"),
        (every("category_id", 1.0), "'category_id' of entry 0 of 'annotations' is 1.0"),
        (every("iscrowd", "yes"), "'iscrowd' of entry 0 of 'annotations' is 'yes'"),
        (every("iscrowd", 2), "'iscrowd' of an object of image 0 is 2"),
        (every("image_id", "3"), r"does not list \('3'\)"),
        (every("image_id", False), "'image_id' of entry 0 of 'annotations' is False"),
        (every("bbox", [True, 1, 9, 9]), "a box of image 0 is"),
        (every("bbox", 0), "a box of image 0 is 0"),
        (every("bbox", "all"), "a box of image 0 is 'all'"),
        (lambda whole: whole["categories"].insert(0, 3), "entry 0 of 'categories' is 3; expected an object"),
        (lambda whole: whole["categories"][1].update(name=True), "'name' of entry 1 of 'categories' is True"),
        (lambda whole: whole["categories"][1].update(supercategory=[]), "'supercategory' of entry 1"),
        (lambda whole: whole["images"][0].update(width=True), "'width' of entry 0 of 'images' is True"),
        (lambda whole: whole["images"][0].update(file_name=""), "the file name of image 0 is empty"),
        (lambda whole: whole["images"][0].update(file_name=3), "'file_name' of entry 0 of 'images' is 3"),
        (every("bbox", [20, 20, -10, -10]), "the last two not negative"),
        (every("bbox", ["1", "1", "9", "9"]), "expected x, y, width and height"),
        (every("bbox", [1, 1, 10**400, 9]), "is not a COCO instances file"),
        (lambda whole: whole["images"][0].update(width=0), "width and height of image 0"),
        (lambda whole: whole["images"][0].update(width=10**5, height=10**5), "width and height of image 0"),
        (lambda whole: whole["categories"][1].update(name=" "), "category .* has an empty name"),
        (lambda whole: whole["images"][0].update(file_name="a\0b"), "a text holds a NUL"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(
    change: Callable[[Content], object], reason: str, home: Path
) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        prepare(str(write(home, change)), root=home / "root")
    assert "\n" not in str(caught.value)
    assert not (home / "root").exists()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"counts": [31, 5], "size": [30, 40]}, "do not sum to 1200"),
        ({"counts": RUNS, "size": [40, 30]}, "are for"),
        ({"counts": "~~~~~~~~", "size": [30, 40]}, "cannot be drawn"),
        ({"counts": compressed(square())["counts"][:-3], "size": [30, 40]}, "do not sum to 1200"),
        ({"counts": 7, "size": [30, 40]}, "cannot be drawn"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(segmentation: Content, reason: str, home: Path) -> None:
    with pytest.raises(DataError, match=reason):
        read_masks(write(home, every("segmentation", segmentation)), 0, SIZE)


WITHOUT_MASKS = [
    *(None, [], [[]], [[1, 1, 20, 20]], [1, 1, 20, 1, 20, 20], "none"),
    *([[1, 1, 5, 5, 20, 20]], [[0.1, 0.3, 0.2, 0.6, 0.3, 0.9]], [["1", "1", "9", "1", "9", "9"]]),  # a line, texts
    *([[1e300, 1, 9, 1, 9, 9, 1, 9]], [[1, 1, 10**400, 1, 9, 9]], [[1, 1, float("nan"), 1, 9, 9]]),  # any memory
    [[-1e6, 1, 1e6, 2] * 1000],
]
"""Segmentations that draw nothing."""


@pytest.mark.parametrize("segmentation", WITHOUT_MASKS)
def test_objects_without_masks_are_counted_and_make_no_label_maps(segmentation: Any, home: Path) -> None:
    path = write(home, every("segmentation", segmentation))
    assert count_unmasked(path) == (6, 6)
    with pytest.raises(DataError, match="6 of 6 objects have no mask"):
        prepare(str(path), root=home / "root", options=PrepareOptions(settings={"masks": "category"}))


def test_bias_is_held_against_boxes_where_masks_lack_and_says_so(home: Path) -> None:
    def run(words: str, *, expect: int) -> Result:
        return attnbias(*words.split(), "--gpus", 0, "--data-root", home / "root", cwd=home, expect=expect)

    prepare(str(write(home, lambda whole: None, "good")), root=home / "root")
    prepare(str(write(home, lambda whole: whole["annotations"][3].pop("segmentation"), "part")), root=home / "root")
    run("train csra --dataset good --recipe demo --epochs 1 --batch-size 6 --image-size 32 --out run", expect=0)
    said = "1 of 6 objects of"
    done = run("val csra --load-from run --dataset part --bias --bias-out out", expect=0)
    (stored,) = (json.loads(path.read_text()) for path in (home / "out").rglob("bias.json"))
    assert stored["truth"] == "boxes"
    assert said in stored["truth_reason"]
    assert said in done.out
    refused = run("val csra --load-from run --dataset part --bias --truth masks", expect=3)
    assert f"{said} {home / 'part.json'} have no mask; use --truth boxes" in refused.line
