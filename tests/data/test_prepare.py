"""prepare-data from a folder: official layouts, COCO in figures, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.index import Box
from attnbias.data.prepare import prepare
from attnbias.data.registry import DATASETS, open_split, ready
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.summary import summarize
from tests.helpers.command_line import attnbias


def make_image(path: Path, size: tuple[int, int] = (30, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path)


def coco_tree(source: Path, splits: dict[str, int]) -> Path:
    """A folder in COCO layout: `splits` images each, the last one without annotation."""
    for split, count in splits.items():
        images = [{"id": 10 * (count - k), "file_name": f"{split}_{k}.jpg"} for k in range(count)]
        for image in images:
            make_image(source / "images" / split / str(image["file_name"]))
        annotations = [
            {"id": k, "image_id": image["id"], "category_id": 1 + 2 * (k % 2), "bbox": [k, 1, 5, 6.5], "iscrowd": k % 2}
            for k, image in enumerate(images[:-1])
        ]
        categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "traffic light"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = source / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return source


def voc_tree(source: Path) -> Path:
    """Four images in the official layout: difficult and not, one without a difficult tag."""
    objects = {
        "000001": [("dog", "0"), ("dog", "1")],
        "000002": [("person", "1")],
        "000003": [("Train", None)],
        "000004": [("cat", "1"), ("sofa", "0")],
    }
    home = source / "VOC2007"
    (home / "ImageSets" / "Main").mkdir(parents=True)
    (home / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n")
    (home / "ImageSets" / "Main" / "test.txt").write_text("000003\n000004")
    (home / "Annotations").mkdir()
    for name, things in objects.items():
        make_image(home / "JPEGImages" / f"{name}.jpg")
        box = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>12</xmax><ymax>9</ymax></bndbox>"
        text = "".join(
            f"<object><name>{label}</name>{'' if hard is None else f'<difficult>{hard}</difficult>'}{box}"
            "<part><name>head</name></part></object>"
            for label, hard in things
        )
        (home / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    return source


def wider_tree(source: Path) -> Path:
    """Two annotation files; trainval has an image of two people from `train` and one of one from `val`."""
    people: dict[str, dict[str, list[list[float]]]] = {
        "trainval": {"train/0--Parade/a.jpg": [[1.5, 2, 10, 15.5], [0, 0, 5, 5]], "val/1--Run/b.jpg": [[3, 3, 8, 9]]},
        "test": {"test/0--Parade/c.jpg": [[-2, 4, 9, 30]]},
    }
    for split, originals in people.items():
        images = [
            {"file_name": name, "targets": [{"bbox": box, "attribute": [1, -1, 0] + [-1] * 11} for box in boxes]}
            for name, boxes in originals.items()
        ]
        for name in originals:
            make_image(source / "Image" / name)
        path = source / "Annotations" / f"wider_attribute_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images}))
    return source


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_official_coco_layout(tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "COCO2014", {"train2014": 4, "val2014": 3})
    report = prepare("coco", source, tmp_path / "root")
    train, val = (open_split("coco", role, tmp_path / "root") for role in ("train", "val"))
    assert (train.split, val.split) == ("train", "val")
    assert train.classes == ("person", "traffic light")
    assert [record.path for record in train.records] == [f"train2014_{k}.jpg" for k in (3, 2, 1, 0)]  # ascending id
    assert [record.target for record in train.records] == [(0, 0), (1, 0), (0, 1), (1, 0)]
    assert train.records[2].boxes == (Box(1, 1, 1, 5, 6.5, crowd=True),)
    assert train.annotations == source / "annotations" / "instances_train2014.json"
    assert report.warnings == [
        "train: 4 samples, the official set has 82,783",
        "val: 3 samples, the official set has 40,504",
    ]
    published = json.loads((report.folder / "csra" / "train_coco2014.json").read_text())
    assert [entry["img_path"] for entry in published] == [
        f"{source}/images/train2014/train2014_{k}.jpg" for k in (2, 1, 0)
    ]
    assert all(len(entry["target"]) == 80 for entry in published)


def test_one_split_plays_both_roles_and_says_so(tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "some", {"train2017": 3})
    report = prepare("coco", source, tmp_path / "root")
    assert any("only one split, 'train': training and evaluation both read it" in said for said in report.warnings)
    assert open_split("coco", "val", tmp_path / "root") == open_split("coco", "train", tmp_path / "root")
    with pytest.raises(DataError, match=r"'coco' has no split 'test'; it has: train"):
        open_split("coco", "test", tmp_path / "root")


def test_voc_layout(tmp_path: Path) -> None:
    report = prepare("voc07", voc_tree(tmp_path / "VOCdevkit"), tmp_path / "root")
    trainval, test = (open_split("voc07", role, tmp_path / "root") for role in ("train", "val"))
    assert (trainval.split, test.split) == ("trainval", "test")
    labels = [
        {trainval.classes[k]: value for k, value in enumerate(record.target) if value}
        for record in (*trainval.records, *test.records)
    ]
    assert labels == [{"dog": 1}, {"person": -1}, {"train": 1}, {"cat": -1, "sofa": 1}]
    assert trainval.records[0].boxes == (Box(11, 2, 1, 10, 8), Box(11, 2, 1, 10, 8, difficult=True))
    assert (report.folder / "csra" / "test_voc07.json").is_file()
    assert summarize(trainval).unlabelled == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>dog</name>", "<name>wolf</name>", "unknown class 'wolf'"),
        ("<xmin>3</xmin>", "", "a dog without bounding box"),
        ("<xmin>3</xmin>", "<xmin></xmin>", "'' is not a number"),
    ],
)
def test_voc_annotations_that_make_no_sense_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    source = voc_tree(tmp_path / "VOCdevkit")
    annotation = source / "VOC2007" / "Annotations" / "000001.xml"
    annotation.write_text(annotation.read_text().replace(old, new))
    with pytest.raises(DataError, match=f"{annotation} is damaged .*{message}"):
        prepare("voc07", source, tmp_path / "root")


@pytest.mark.parametrize("inside", [".", "VOC2007", "..", "../../data"])
def test_voc_is_found_from_each_folder_that_people_name(inside: str, tmp_path: Path) -> None:
    source = voc_tree(tmp_path / "data" / "VOCdevkit")
    prepare("voc07", (source / inside).resolve(), tmp_path / "root")
    assert ready("voc07", tmp_path / "root")


def test_wider_layout(tmp_path: Path) -> None:
    prepare("wider", wider_tree(tmp_path / "WIDER"), tmp_path / "root")
    trainval, test = (open_split("wider", role, tmp_path / "root") for role in ("train", "val"))
    assert [record.crop for record in trainval.records] == [(1.5, 2, 10, 15.5), (0, 0, 5, 5), (3, 3, 8, 9)]
    assert [record.path for record in trainval.records] == ["Image/train/0--Parade/a.jpg"] * 2 + [
        "Image/val/1--Run/b.jpg"
    ]
    assert test.records[0].target == (1, 0, -1, *[0] * 11)
    assert len(trainval.classes) == 14


TREES: dict[str, Any] = {
    "coco": lambda source: coco_tree(source, {"train2014": 3, "val2014": 2}),
    "voc07": voc_tree,
    "wider": wider_tree,
}


@pytest.mark.parametrize("name", TREES)
def test_running_again_changes_no_byte(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    folder = prepare(name, source, tmp_path / "root").folder
    first = contents(folder)
    prepare(name, source, tmp_path / "root", PrepareOptions(verify=True))
    prepare(name, None, tmp_path / "root")  # the source is remembered
    assert contents(folder) == first


@pytest.mark.parametrize("name", TREES)
def test_a_dry_run_checks_and_writes_nothing(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    assert len(prepare(name, source, tmp_path / "root", PrepareOptions(dry_run=True)).indexes) == 2
    assert not (tmp_path / "root").exists()
    next(source.rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match="missing"):
        prepare(name, source, tmp_path / "root", PrepareOptions(dry_run=True))


@pytest.mark.parametrize("name", TREES)
def test_missing_images_are_counted_and_named(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    lost = sorted(source.rglob("*.jpg"))[0]
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 of \d images are missing: {lost}; "):
        prepare(name, source, tmp_path / "root")
    assert not ready(name, tmp_path / "root")


@pytest.mark.parametrize("name", TREES)
def test_broken_images_are_found_on_verify(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    broken = sorted(source.rglob("*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:300])
    prepare(name, source, tmp_path / "root")
    with pytest.raises(DataError, match=rf"1 of \d images are broken: image {broken} cannot be read"):
        prepare(name, source, tmp_path / "root", PrepareOptions(verify=True, workers=2))


@pytest.mark.parametrize("name", TREES)
def test_damaged_and_missing_annotations_are_named(name: str, tmp_path: Path) -> None:
    source = TREES[name](tmp_path / "source")
    annotation = sorted((*source.rglob("*.xml"), *source.rglob("*.json")))[0]
    whole = annotation.read_text()
    annotation.write_text(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=str(annotation)):
        prepare(name, source, tmp_path / "root")
    annotation.unlink()
    if name != "coco":  # there one file less is a folder with one split
        with pytest.raises(DataError, match=str(annotation)):
            prepare(name, source, tmp_path / "root")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected "):
        prepare(name, tmp_path / "empty", tmp_path / "root")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 77, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, r"does not list \(77\)"),
        (
            {"annotations": [{"image_id": 10, "category_id": 5, "bbox": [0, 0, 1, 1]}]},
            "names category 5, which is not listed",
        ),
        ({"annotations": [{"image_id": 10, "category_id": 1, "bbox": [0, 0]}]}, "expected x, y, width and height"),
        ({"categories": None}, "is not a COCO instances file"),
    ],
)
def test_coco_files_that_contradict_themselves_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "source", {"train2014": 3})
    path = source / "annotations" / "instances_train2014.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        prepare("coco", source, tmp_path / "root")


def test_splits_with_different_categories_are_refused(tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "source", {"train2014": 3, "val2014": 2})
    path = source / "annotations" / "instances_val2014.json"
    path.write_text(path.read_text().replace("traffic light", "lamp"))
    with pytest.raises(DataError, match="list different categories"):
        prepare("coco", source, tmp_path / "root")


def test_another_source_needs_overwrite_and_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    official = coco_tree(tmp_path / "official", {"train2014": 3, "val2014": 2})
    other = coco_tree(tmp_path / "other", {"train2017": 4})
    prepare("coco", official, tmp_path / "root")
    with pytest.raises(DataError, match=rf"was prepared from {official}; add --overwrite"):
        prepare("coco", other, tmp_path / "root")
    folder = prepare("coco", other, tmp_path / "root", PrepareOptions(overwrite=True)).folder
    assert sorted(contents(folder)) == ["index/train.json", "prepared.json"]


def test_a_prepared_folder_of_ones_own_is_opened_by_path(tmp_path: Path) -> None:
    folder = prepare("coco", coco_tree(tmp_path / "source", {"train2017": 3}), tmp_path / "root").folder
    mine = shutil.copytree(folder, tmp_path / "mine")
    assert open_split(str(mine), "train").records == open_split("coco", "train", tmp_path / "root").records
    with pytest.raises(DataError, match=r"holds no prepared\.json"):
        open_split(str(tmp_path / "root"), "train")
    with pytest.raises(DataError, match=r"unknown dataset 'coc' \(did you mean 'coco'\?\)"):
        open_split("coc", "train", tmp_path / "root")


def test_a_coco_folder_in_figures(coco_source: Path, tmp_path: Path) -> None:
    content = json.loads((coco_source / "annotations" / "instances_train2017.json").read_text())
    images, objects = content["images"], content["annotations"]
    report = prepare("coco", coco_source, tmp_path, PrepareOptions(verify=True, workers=2))
    index = open_split("coco", "train", tmp_path)
    summary = summarize(index)
    unlabelled = {image["id"] for image in images} - {entry["image_id"] for entry in objects}
    assert len(unlabelled) == 2
    assert (summary.images, summary.boxes, summary.unlabelled) == (len(images), len(objects), 2)
    assert len(index.classes) - len(summary.absent) == len({entry["category_id"] for entry in objects})
    crowds = sum(box.crowd for record in index.records for box in record.boxes)
    assert crowds == sum(entry["iscrowd"] for entry in objects) > 5
    assert report.prepared.roles == {"train": "train", "val": "train"}
    first = summary.pairs[0]
    assert (first.first, first.second, first.correlation) == ("couch", "remote", pytest.approx(1))
    positive = np.array([record.target for record in index.records])
    for pair in summary.pairs:
        one, other = (positive[:, index.classes.index(name)] for name in (pair.first, pair.second))
        assert pair.correlation == pytest.approx(np.corrcoef(one, other)[0, 1])
        assert (pair.given_first, pair.given_second) == (other[one == 1].mean(), one[other == 1].mean())


def test_every_dataset_names_a_function_that_prepares_it_and_splits_that_it_has() -> None:
    from importlib import import_module

    for info in DATASETS.values():
        module, function = info.prepare.split(":")
        assert callable(getattr(import_module(module), function))
        assert {info.train or info.val, info.val} <= set(info.splits)
        assert set(info.counts) <= set(info.splits)


def test_the_command_shows_what_is_in_a_set(tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "source", {"train2017": 4})
    done = attnbias("prepare-data", "coco", "--source", source, "--root", tmp_path / "root", "--verify")
    assert done.code == 0, done.err
    assert "MS-COCO" in done.out
    assert f"coco is ready in {tmp_path / 'root' / 'coco'}" in done.out.replace("\n", "")
    assert "only one split" in done.err


def test_what_is_wrong_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    cases: list[tuple[list[str | Path], int, str]] = [
        (["cocoo"], 2, "unknown dataset 'cocoo' (did you mean 'coco'?); see: attnbias list datasets"),
        (["coco", "--source", tmp_path / "no"], 3, f"source folder {tmp_path / 'no'} does not exist"),
        (["wider", "--root", tmp_path], 3, "dataset 'wider' needs --source DIR"),
        (["coco", "--preset", "easy"], 2, "--preset belongs to the demo sets"),
        (["demo", "--source", tmp_path], 2, "'demo' is made on the spot"),
    ]
    for arguments, code, message in cases:
        done = attnbias("prepare-data", *arguments)
        assert done.code == code, done.err
        assert done.err.startswith(f"error: {message}"), done.err
        assert done.err.count("\n") == 1
        assert not done.out


def test_an_output_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    source = coco_tree(tmp_path / "source", {"train2017": 2})
    (tmp_path / "root").write_text("a file where the folder should be")
    done = attnbias("prepare-data", "coco", "--source", source, "--root", tmp_path / "root")
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write {tmp_path / 'root'}"), done.err
    assert "root is not a folder; choose another place" in done.err
    assert "Traceback" not in done.err
    done = attnbias("prepare-data", "coco", "--source", source, "--root", tmp_path / ("r" * 300))
    assert done.code == 2
    assert "a name of more than 255 bytes" in done.err
