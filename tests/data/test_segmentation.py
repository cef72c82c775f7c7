"""Segmentation sets from tiny archives in their official layouts, real pieces, sets of one's own, and their samples."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.datasets import SampleKey
from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.label_maps import count_pixels, open_label_map, read_label_map
from attnbias.data.prepare import prepare
from attnbias.data.prepared import is_ready
from attnbias.data.registry import DATASETS, open_split
from attnbias.data.segmentation import LabelMapDataset
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.palettes import CITYSCAPES, VOC, ade20k, palette
from attnbias.data.sets.segmentation_sets import FROM_LABEL_IDS, REDUCED
from attnbias.data.summary import summarize
from attnbias.data.transforms.opencv import from_hsv, rescaled, resize_image, resize_labels, to_hsv
from attnbias.data.transforms.segmentation import Distortion, EvalTransform, TrainTransform, choose_crop
from tests.helpers.archive_server import ArchiveServer
from tests.helpers.official_archives import Offer, fetched, jpeg, pack_zip, tar, tree

SIDE = 8


def labels(*values: int, mode: str = "L") -> bytes:
    """A label map of SIDE x SIDE pixels with these values in turn, as a PNG of levels or of palette indices."""
    image = Image.fromarray(np.resize(np.array(values, np.uint8), (SIDE, SIDE)))
    if mode == "P":
        image.putpalette(palette(VOC).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def sbd(*values: int) -> bytes:
    """SBD's MATLAB file with a label map."""
    from scipy.io import savemat

    file = io.BytesIO()
    segmentation = np.resize(np.array(values, np.uint8), (SIDE, SIDE))
    savemat(file, {"GTcls": {"Segmentation": segmentation, "Boundaries": np.zeros(2)}})
    return file.getvalue()


VOC_FILES = {
    "ImageSets/Segmentation/train.txt": b"2007_02\n2007_01 \n",
    "ImageSets/Segmentation/val.txt": b"2007_03\n",
    **{f"JPEGImages/2007_0{i}.jpg": jpeg(i, SIDE) for i in range(1, 6)},
    **{f"SegmentationClass/2007_0{i}.png": labels(0, i, 255, mode="P") for i in (1, 2, 3)},
}


def voc_archives() -> dict[str, bytes]:
    release = {f"benchmark_RELEASE/dataset/cls/2007_0{i}.mat": sbd(0, 20) for i in (1, 3, 4, 5)}
    return {
        "VOCtrainval_11-May-2012.tar": tar({f"VOCdevkit/VOC2012/{name}": data for name, data in VOC_FILES.items()}),
        "benchmark.tgz": tar(release, "w:gz"),
    }


def cityscapes_files(kind: str = "labelIds") -> dict[str, bytes]:
    names = {"train": ["ulm/ulm_1", "aachen/aachen_2"], "val": ["bonn/bonn_3"], "test": ["berlin/berlin_4"]}
    files = {"README": b""}
    for split, cities in names.items():
        for name in cities:
            files[f"leftImg8bit/{split}/{name}_leftImg8bit.png"] = png()
            files[f"gtFine/{split}/{name}_gtFine_{kind}.png"] = labels(0, 7, 33, 34)
            files[f"gtFine/{split}/{name}_gtFine_instanceIds.png"] = labels(0)
    return files


def cityscapes_archives() -> dict[str, bytes]:
    files = cityscapes_files()
    return {
        f"{kind}_trainvaltest.zip": pack_zip({name: data for name, data in files.items() if name.startswith(kind)})
        for kind in ("gtFine", "leftImg8bit")
    }


def ade_files() -> dict[str, bytes]:
    files = {}
    for split, short, count in (("training", "train", 3), ("validation", "val", 1)):
        for i in range(1, count + 1):
            files[f"images/{split}/ADE_{short}_0000000{i}.jpg"] = jpeg(i, SIDE)
            files[f"annotations/{split}/ADE_{short}_0000000{i}.png"] = labels(0, i, 150)
    return {f"ADEChallengeData2016/{name}": data for name, data in files.items()}


def pairs(index: Index) -> list[tuple[str, str | None]]:
    return [(Path(record.path).name, record.label_map) for record in index.records]


def values(index: Index, sample: int = 0) -> list[int]:
    return np.unique(open_label_map(index, sample)).tolist()


# The archives ---------------------------------------------------------------------------------------------------------


def test_voc_in_the_order_of_its_lists(tmp_path: Path, offer: Offer, server: ArchiveServer) -> None:
    offer("voc12seg", voc_archives())
    report = fetched("voc12seg", tmp_path)
    assert [path for path, _ in server.requests] == ["/VOCtrainval_11-May-2012.tar"]  # SBD's was not asked for
    assert report.prepared.roles == {"train": "train", "val": "val"}
    train, val = (open_split("voc12seg", split, tmp_path) for split in ("train", "val"))
    assert train.classes == VOC
    assert pairs(train) == [(f"2007_0{i}.jpg", f"SegmentationClass/2007_0{i}.png") for i in (2, 1)]
    assert [values(train, 0), values(train, 1), values(val)] == [[0, 2, 255], [0, 1, 255], [0, 3, 255]]
    assert "val: 1 samples, the official set has 1,449" in report.warnings


def test_voc_with_the_label_maps_of_sbd(tmp_path: Path, offer: Offer) -> None:
    offer("voc12seg", voc_archives())
    options = PrepareOptions(download=True, splits=("train_aug", "val"))
    report = prepare("voc12seg", None, tmp_path, options)
    assert report.prepared.roles == {"train": "train_aug", "val": "val"}
    train = open_split("voc12seg", "train", tmp_path)
    assert [name for name, _ in pairs(train)] == ["2007_02.jpg", "2007_01.jpg", "2007_04.jpg", "2007_05.jpg"]
    assert [values(train, i) for i in range(4)] == [[0, 2, 255], [0, 1, 255], [0, 20], [0, 20]]
    dataset = LabelMapDataset(train, EvalTransform((32, 16)))
    assert [sample["target"].shape for sample in (dataset[0], dataset[3])] == [(SIDE, SIDE)] * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("aug.txt", "2007_05\n2007_03\n"), ("trainaug.txt", "/JPEGImages/2007_05.jpg /SegmentationClassAug/2007_05.png")],
)
def test_voc_with_sbd_as_images(tmp_path: Path, name: str, text: str) -> None:
    added = {f"SegmentationClassAug/2007_0{i}.png": labels(0, 9) for i in (3, 5)}
    lists = {f"ImageSets/Segmentation/{name}": text.encode()}
    source = tree(tmp_path / "VOCdevkit" / "VOC2012", {**VOC_FILES, **added, **lists})
    for inside in (source, source.parent, tmp_path):
        report = prepare("voc12seg", inside, tmp_path / "root", PrepareOptions(overwrite=True))
        assert report.prepared.splits == ("train", "train_aug", "val")
        augmented = open_split("voc12seg", "train_aug", tmp_path / "root")
        assert pairs(augmented)[2:] == [("2007_05.jpg", "SegmentationClassAug/2007_05.png")]
        assert values(augmented, 2) == [0, 9]


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_from_either_kind_of_label_maps(tmp_path: Path, kind: str) -> None:
    source = tree(tmp_path / "source", cityscapes_files(kind))
    if kind == "labelTrainIds":
        for path in source.rglob("*_labelTrainIds.png"):
            path.write_bytes(labels(255, 0, 18, 255))
    before = {path.name for path in source.rglob("*")}
    report = prepare("cityscapes", source, tmp_path / "root", PrepareOptions(verify=True))
    assert {path.name for path in source.rglob("*")} == before
    train = open_split("cityscapes", "train", tmp_path / "root")
    assert report.prepared.splits == ("train", "val")
    assert [name for name, _ in pairs(train)] == ["aachen_2_leftImg8bit.png", "ulm_1_leftImg8bit.png"]
    assert values(train) == [0, 18, 255]
    assert summarize(train).shares == (("road", 0.5), ("bicycle", 0.5))
    assert summarize(train).ignored == 0.5


def test_cityscapes_needs_an_account(tmp_path: Path, offer: Offer) -> None:
    offer("cityscapes", cityscapes_archives())
    with pytest.raises(DataError, match=r"get it \(12 GB\) from https://www.cityscapes-dataset.com/downloads/, put"):
        fetched("cityscapes", tmp_path)
    source = tree(tmp_path / "mine", cityscapes_archives())
    prepare("cityscapes", source, tmp_path)
    assert len(open_split("cityscapes", "train", tmp_path).records) == 2


def test_ade20k_counts_its_classes_from_one(tmp_path: Path, offer: Offer) -> None:
    offer("ade20k", {"ADEChallengeData2016.zip": pack_zip(ade_files())})
    fetched("ade20k", tmp_path)
    train, val = (open_split("ade20k", split, tmp_path) for split in ("train", "val"))
    assert [len(train.records), len(val.records), len(train.classes)] == [3, 1, 150]
    assert values(train, 1) == [1, 149, 255]
    assert values(val) == [0, 149, 255]
    below = tmp_path / "ade20k" / "source" / "ADEChallengeData2016"
    prepare("ade20k", below, tmp_path / "second")
    assert pairs(open_split("ade20k", "train", tmp_path / "second")) == pairs(train)


@pytest.mark.parametrize("name", ["voc12seg", "cityscapes", "ade20k"])
def test_running_again_and_a_dry_run_change_nothing(tmp_path: Path, name: str) -> None:
    files = {"voc12seg": VOC_FILES, "cityscapes": cityscapes_files(), "ade20k": ade_files()}[name]
    source = tree(tmp_path / "VOC2012", files)
    prepare(name, source, tmp_path / "root", PrepareOptions(dry_run=True))
    assert not (tmp_path / "root").exists()
    report = prepare(name, source, tmp_path / "root", PrepareOptions(verify=True))
    folder, index = report.folder, report.indexes[0]
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    prepare(name, None, tmp_path / "root", PrepareOptions(verify=True))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    lost = index.root / str(index.records[0].label_map)
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 of \d label maps are missing: .*{re.escape(lost.name)}; "):
        prepare(name, source, tmp_path / "root")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected "):
        prepare(name, tmp_path / "empty", tmp_path / "root")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labels(0, 21), "holds class 21; voc12seg has 0 to 20, and 255 for pixels that do not count"),
        (png(), "holds colours; expected an indexed or grey PNG"),
        (b"\x89PNG\r\n", "cannot be read"),
    ],
)
def test_label_maps_that_make_no_sense_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    source = tree(tmp_path / "VOC2012", {**VOC_FILES, "SegmentationClass/2007_01.png": content})
    with pytest.raises(DataError, match=f"label map {source}/SegmentationClass/2007_01.png {message}"):
        prepare("voc12seg", source, tmp_path / "root")
    assert not is_ready(tmp_path / "root" / "voc12seg")


# Sets of one's own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "maps"), [("images", "labels"), ("images", "annotations"), ("images", "masks")])
def test_a_folder_of_images_and_one_of_label_maps(tmp_path: Path, images: str, maps: str) -> None:
    source = tree(
        tmp_path / "fields",
        {
            f"{images}/train/a/1.jpg": jpeg(0, SIDE),
            f"{images}/train/2.JPG": jpeg(0, SIDE),
            f"{images}/train/without.png": png(),
            f"{images}/val/3.png": png(),
            f"{maps}/train/a/1.png": labels(0, 1),
            f"{maps}/train/2.png": labels(0, 4, 255),
            f"{maps}/val/3.png": labels(2),
        },
    )
    report = prepare(str(source), root=tmp_path / "root")
    assert report.prepared.left_out["image without a label map"]["count"] == 1
    train, val = (open_split(str(source), role, tmp_path / "root") for role in ("train", "val"))
    assert train.classes == tuple(f"class {i}" for i in range(5))
    assert [record.path for record in train.records] == [f"{images}/train/2.JPG", f"{images}/train/a/1.jpg"]
    assert (train.split, val.split, train.task) == ("train", "val", "segmentation")
    (source / "classes.txt").write_text("soil\nwheat\nweed\nstone\nroad\n")
    prepare(str(source), root=tmp_path / "root")
    assert open_split("fields", "val", tmp_path / "root").classes == ("soil", "wheat", "weed", "stone", "road")


def test_a_folder_without_splits_and_masks_of_black_and_white(tmp_path: Path) -> None:
    files = {"images/1.jpg": jpeg(0, SIDE), "labels/1.png": labels(0, 255)}
    source = tree(tmp_path / "masks", files)
    with pytest.raises(DataError, match="hold no class but 0: 255 means 'does not count'"):
        prepare(str(source), root=tmp_path / "root")
    (source / "labels/1.png").write_bytes(labels(0, 1))
    report = prepare(str(source), root=tmp_path / "root")
    (said,) = report.warnings
    assert said.startswith("only one split, 'train': training and evaluation both read it")
    (source / "images/1.jpg").rename(source / "images/2.jpg")
    with pytest.raises(DataError, match=r"no image of .*images has a label map in .*labels"):
        prepare(str(source), root=tmp_path / "root")


def coco_source(folder: Path) -> Path:
    """One image of 6 x 4 pixels: a cat, a dog over its edge, and a lamp beside them."""
    boxes = {"cat": (0, 0, 3, 4), "dog": (2, 0, 2, 4), "lamp": (5, 1, 1, 2)}
    rectangles = [
        {"id": i, "image_id": 7, "category_id": 5 - i, "iscrowd": 0, "bbox": [x, y, w, h], "area": w * h}
        | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        for i, (x, y, w, h) in enumerate(boxes.values())
    ]
    groups = ("animal", "animal", "furniture")
    categories = [
        {"id": 5 - i, "name": name, "supercategory": group}
        for i, (name, group) in enumerate(zip(boxes, groups, strict=True))
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 6, "height": 4}],
        "annotations": rectangles,
        "categories": categories,
    }
    source = tree(folder, {"annotations/instances_train.json": json.dumps(content).encode(), "images/train/a.png": b""})
    Image.new("RGB", (6, 4)).save(source / "images/train/a.png")
    return source


@pytest.mark.parametrize(
    ("by", "classes", "row"),
    [
        ("category", ("background", "cat", "dog", "lamp"), [1, 1, 255, 2, 0, 3]),
        ("supercategory", ("background", "animal", "furniture"), [1, 1, 255, 1, 0, 2]),
    ],
)
def test_masks_of_a_coco_file(tmp_path: Path, by: str, classes: tuple[str, ...], row: list[int]) -> None:
    source = coco_source(tmp_path / "pets")
    for own in (source, source / "annotations/instances_train.json"):
        if own.is_file():
            shutil.copy(source / "images/train/a.png", source / "images/a.png")
        prepare(str(own), None, tmp_path / "root", PrepareOptions(settings={"masks": by}))
        index = open_split(own.stem, "train", tmp_path / "root")
        assert (index.task, index.classes) == ("segmentation", classes)
        assert open_label_map(index, 0)[1].tolist() == row
        assert LabelMapDataset(index, EvalTransform((12, 8)))[0]["target"].shape == (4, 6)
    with pytest.raises(DataError, match=f"was prepared with masks {by}; add --overwrite"):
        prepare(str(source), None, tmp_path / "root")
    plain = prepare(str(source), None, tmp_path / "root", PrepareOptions(overwrite=True))
    assert plain.indexes[0].task == "multilabel"


def test_coco_categories_without_groups(tmp_path: Path) -> None:
    source = coco_source(tmp_path / "pets")
    path = source / "annotations/instances_train.json"
    path.write_text(path.read_text().replace("supercategory", "group"))
    with pytest.raises(DataError, match="category 'cat' names no supercategory; use --masks category"):
        prepare(str(source), None, tmp_path / "root", PrepareOptions(settings={"masks": "supercategory"}))


# Real pieces ----------------------------------------------------------------------------------------------------------


def test_real_cityscapes(real_data: Path, tmp_path: Path) -> None:
    mini = real_data / "cityscapes_mini"
    prepare("cityscapes", mini, tmp_path / "root", PrepareOptions(verify=True))
    published = open_split("cityscapes", "val", tmp_path / "root")
    source = shutil.copytree(mini, tmp_path / "ids")
    next(source.rglob("*_labelTrainIds.png")).unlink()
    prepare("cityscapes", source, tmp_path / "second")
    converted = open_split("cityscapes", "val", tmp_path / "second")
    assert str(converted.records[0].label_map).endswith("_gtFine_labelIds.png")
    agreement = open_label_map(converted, 0) == open_label_map(published, 0)
    assert agreement.mean() > 0.997  # the piece's two maps were reduced apart, and differ at edges
    np.testing.assert_array_equal(open_label_map(published, 0), read_label_map(next(mini.rglob("*_labelTrainIds.png"))))
    summary = summarize(published)
    assert [name for name, _ in summary.shares[:4]] == ["building", "road", "sidewalk", "car"]
    assert len(summary.absent) == 9


def test_real_voc(real_data: Path, tmp_path: Path) -> None:
    mini = real_data / "voc_mini"
    with pytest.raises(DataError, match=r"voc_mini holds no VOC2012/ImageSets/Segmentation; expected VOC2012/"):
        prepare("voc12seg", mini, tmp_path / "root")
    source = shutil.copytree(mini, tmp_path / "VOC2012")
    lists = {"train": b"2011_000006\n2011_000003\n", "val": b"2011_000025\n"}
    tree(source / "ImageSets" / "Segmentation", {f"{split}.txt": text for split, text in lists.items()})
    prepare("voc12seg", source, tmp_path / "root", PrepareOptions(verify=True))
    train, val = (open_split("voc12seg", split, tmp_path / "root") for split in ("train", "val"))
    assert [[train.classes[i] for i in values(train, k) if i < 255] for k in (0, 1)] == [
        ["background", "chair", "person", "sofa"],
        ["background", "bottle", "person"],
    ]
    assert values(val) == [0, 6, 7]
    report = prepare(str(mini), root=tmp_path / "own")  # without lists, a set of one's own
    assert [len(index.records) for index in report.indexes] == [3]
    assert report.indexes[0].classes[15] == "person"


def test_real_coco_masks(real_data: Path, tmp_path: Path) -> None:
    prepare("coco", real_data / "coco128", tmp_path, PrepareOptions(settings={"masks": "supercategory"}))
    index = open_split("coco", "train", tmp_path)
    summary = summarize(index)
    assert len(index.classes) == 13
    assert summary.absent == ()
    assert [name for name, _ in summary.shares[:3]] == ["background", "person", "furniture"]
    assert summary.pairs[0].first == "person"


def test_the_command_shows_shares_of_pixels(real_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnbias", "prepare-data", "cityscapes", "--root", str(tmp_path)]
    done = subprocess.run(
        [*command, "--source", str(real_data / "cityscapes_mini")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "labelled pixels of val: building 44.1%, road 33.7%" in done.stdout
    assert "11.8%" in done.stdout
    assert "boxes" not in done.stdout


# Values ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.sampled_from([REDUCED, FROM_LABEL_IDS]))
@settings(max_examples=60, deadline=None)
def test_a_table_sends_each_value_to_its_class_whatever_stands_around_it(
    tmp_path_factory: pytest.TempPathFactory, content: list[int], table: tuple[int, ...]
) -> None:
    folder = tmp_path_factory.mktemp("map")
    Image.fromarray(np.array([content], np.uint8)).save(folder / "map.png")
    Image.new("RGB", (len(content), 1)).save(folder / "image.png")
    classes = tuple(str(i) for i in range(255))
    index = Index(
        "set", "val", "segmentation", classes, folder, (Record("image.png", 0, label_map="map.png"),), None, table
    )
    found = open_label_map(index, 0)[0].tolist()
    if table is REDUCED:
        assert found == [255 if value in (0, 255) else value - 1 for value in content]
    else:  # one to one on the 19 classes, all else ignored
        kept = {value for value in content if FROM_LABEL_IDS[value] != 255}
        assert sorted(kept) == sorted(kept, key=lambda value: FROM_LABEL_IDS[value])
        assert [found[i] == 255 for i, value in enumerate(content)] == [value not in kept for value in content]
    counts = count_pixels(index)
    assert counts.sum() == len(content)
    assert counts[0, -1] == found.count(255)


def test_the_table_of_cityscapes_is_the_published_one() -> None:
    stated = (
        "7->0 8->1 11->2 12->3 13->4 17->5 19->6 20->7 21->8 22->9 23->10 24->11 25->12 26->13 27->14 28->15 31->16 "
        "32->17 33->18"
    )
    published = dict(tuple(map(int, pair.split("->"))) for pair in stated.split())
    assert tuple(published.get(value, 255) for value in range(256)) == FROM_LABEL_IDS


def test_palettes() -> None:
    assert palette(VOC)[[0, 1, 15, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert palette(tuple(CITYSCAPES))[0].tolist() == [128, 64, 128]
    assert palette(tuple(ade20k()))[-1].tolist() == [92, 0, 255]
    many = palette([str(i) for i in range(255)])
    assert len(np.unique(many, axis=0)) == 255


# Transforms -----------------------------------------------------------------------------------------------------------


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.integers(0, 50), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_a_part_is_that_part_of_the_whole(h: int, w: int, height: int, width: int, top: int, flip: bool) -> None:
    image = photograph(h, w)
    rows, columns = slice(top, top + 16), slice(top // 2, top // 2 + 16)
    whole = resize_image(image, (height, width))
    assert whole.shape == (height, width, 3)
    step = -1 if flip else 1
    part = resize_image(image, (height, width), rows, columns, flip)
    np.testing.assert_array_equal(part, whole[rows, columns][:, ::step])
    whole_labels = resize_labels(image[..., 0], (height, width))
    part_labels = resize_labels(image[..., 0], (height, width), rows, columns, flip)
    np.testing.assert_array_equal(part_labels, whole_labels[rows, columns][:, ::step])


def test_resizing_agrees_with_torch_within_a_level() -> None:
    image = photograph(37, 53)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for size in ((20, 90), (74, 106), (18, 26), (37, 53)):
        theirs = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear").round()[0].permute(1, 2, 0)
        assert np.abs(resize_image(image, size) - theirs.numpy()).max() <= 1


def test_colours_survive_hue_and_saturation() -> None:
    image = photograph(64, 64)
    hue, saturation, value = to_hsv(image)
    assert (hue.min(), hue.max(), saturation.max()) == (0, 179, 255)
    assert np.abs(from_hsv(hue, saturation, value).astype(int) - image).max() <= 5  # 180 hues are coarse
    grey = np.repeat(image[..., :1], 3, axis=2)
    for distortion in (Distortion(saturation=1.5), Distortion(hue=17)):
        assert np.abs(distortion(grey).astype(int) - grey).max() <= 1


def test_the_order_of_the_colour_steps() -> None:
    image = photograph(8, 8)
    every = Distortion(brightness=9.5, contrast=1.4, saturation=0.6, hue=-7)
    last = Distortion(brightness=9.5, contrast=1.4, saturation=0.6, hue=-7, contrast_last=True)
    assert [name for name, _ in every.steps(image)] == ["brightness", "contrast", "saturation", "hue"]
    assert [name for name, _ in last.steps(image)] == ["brightness", "saturation", "hue", "contrast"]
    assert Distortion()(image) is image


def test_crops_avoid_one_class_and_give_up_after_ten() -> None:
    drawn = iter(range(100))
    one_class = np.zeros((4, 4), np.uint8)
    assert choose_crop(lambda: (next(drawn), 0), lambda corner: one_class) == ((10, 0), 11)
    mixed = np.array([[0, 1], [255, 255]], np.uint8)
    assert choose_crop(lambda: (0, 0), lambda corner: mixed)[1] == 1
    assert choose_crop(lambda: (0, 0), lambda corner: one_class, 1)[1] == 1


def test_training_samples(tmp_path: Path) -> None:
    index = prepare("voc12seg", tree(tmp_path / "VOC2012", VOC_FILES), tmp_path / "root").indexes[0]
    transform = TrainTransform(scale=(64, 16), crop=(20, 24))
    dataset = LabelMapDataset(index, transform, seed=3)
    first = dataset[SampleKey(0, 1)]
    assert first["image"].shape == (3, 20, 24)
    assert first["target"].shape == (20, 24)
    assert first["target"].dtype == torch.int64
    torch.rand(7)  # the surrounding generator does not matter
    assert torch.equal(dataset[SampleKey(0, 1)]["image"], first["image"])
    others = [dataset[SampleKey(0, epoch)] for epoch in range(2, 6)]
    assert any(not torch.equal(other["image"], first["image"]) for other in others)
    for sample in (first, *others):
        assert set(sample["target"].unique().tolist()) <= {0, 2, 255}
        padding = (sample["image"] == 0).all(dim=0)
        assert (sample["target"][padding] == 255).all()
    batch = dataset.collate([first, *others])
    assert batch["image"].shape == (5, 3, 20, 24)
    assert batch["target"].shape == (5, 20, 24)
    assert batch["index"].tolist() == [0] * 5


def test_images_and_labels_stay_together() -> None:
    """An image that shows its own labels still does, but where two labels meet and colours are mixed."""
    shown = np.kron(np.random.default_rng(0).integers(0, 4, (4, 6)), np.ones((16, 16))).astype(np.uint8)
    original = np.repeat(shown[..., None] * np.uint8(60), 3, axis=2)
    transform = TrainTransform(scale=(192, 128), crop=(48, 64), distort=False)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    for seed in range(6):
        torch.manual_seed(seed)
        image, target = transform(original, shown)
        levels = (image * std + mean)[0].round()
        same = (levels == target * 60) | (target == 255)
        assert same.float().mean() > 0.85


def test_evaluation_samples_of_several_sizes(tmp_path: Path) -> None:
    files = {f"images/{i}.png": png(i) for i in range(2)} | {f"labels/{i}.png": labels(0, 1, i) for i in range(2)}
    source = tree(tmp_path / "own", files)
    Image.fromarray(photograph(6, 10)).save(source / "images/2.png")
    Image.fromarray(photograph(6, 10)[..., 0] % 2).save(source / "labels/2.png")
    index = prepare(str(source), root=tmp_path / "root").indexes[0]
    dataset = LabelMapDataset(index, EvalTransform((64, 16)))
    batch = dataset.collate([dataset[i] for i in range(3)])
    assert [image.shape for image in batch["image"]] == [(3, 16, 16), (3, 16, 16), (3, 16, 27)]
    assert [target.shape for target in batch["target"]] == [(8, 8), (8, 8), (6, 10)]
    same = dataset.collate([dataset[i] for i in range(2)])
    assert same["image"].shape == (2, 3, 16, 16)
    several = LabelMapDataset(index, EvalTransform((64, 16), (0.5, 1.0)))
    assert [view.shape for view in several[2]["image"]] == [(3, 8, 13), (3, 16, 27)]
    assert len(several.collate([several[0], several[1]])["image"]) == 2


def test_unreadable_label_maps_are_skipped_or_named(tmp_path: Path) -> None:
    source = tree(tmp_path / "VOC2012", VOC_FILES)
    index = prepare("voc12seg", source, tmp_path / "root").indexes[0]
    (source / "SegmentationClass/2007_02.png").write_bytes(b"")
    Image.fromarray(photograph(5, 5)).save(source / "JPEGImages/2007_01.jpg")
    with pytest.raises(DataError, match=r"2007_02.png cannot be read"):
        prepare("voc12seg", source, tmp_path / "second")
    with pytest.raises(DataError, match=r"2007_01.jpg and its label map differ in size: 5 x 5 and 8 x 8"):
        count_pixels(replace(index, records=index.records[1:]))
    dataset = LabelMapDataset(index, EvalTransform((32, 16)))
    with pytest.raises(DataError, match=r"label map .*2007_02.png cannot be read"):
        dataset[0]
    with pytest.raises(DataError, match=r"2007_01.jpg and its label map differ in size: 5 x 5 and 8 x 8"):
        dataset[1]
    skipping = LabelMapDataset(index, EvalTransform((32, 16)), on_bad_image="skip")
    batch = skipping.collate([skipping[0], skipping[1]])
    assert len(batch["errors"]) == 2
    assert "image" not in batch
    multilabel = Index("some", "train", "multilabel", ("a",), source, (Record("x", (1,)),))
    with pytest.raises(DataError, match="some/train is a multilabel set; segmentation needs label maps"):
        LabelMapDataset(multilabel, EvalTransform())


def test_what_is_known_of_the_sets() -> None:
    for name, classes in (("voc12seg", 21), ("cityscapes", 19), ("ade20k", 150)):
        info = DATASETS[name]
        assert info.task == "segmentation"
        assert info.classes == classes
    assert rescaled((375, 500), (2048, 512)) == (512, 683)
