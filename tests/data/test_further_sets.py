"""Sets with a file of their own in the catalogue, from tiny archives or folders in their official layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.imagenet import class_names
from tests.helpers.listed import listed
from tests.helpers.official_archives import Offer, fetched, jpeg, pack_zip, tar, tree


def test_coco_2017_from_its_archives(tmp_path: Path, offer: Offer) -> None:
    images = {
        split: {"id": number, "file_name": f"{number:012d}.jpg"} for split, number in (("train", 9), ("val", 139))
    }
    files = {f"{s}2017.zip": pack_zip({f"{s}2017/{images[s]['file_name']}": jpeg()}) for s in images}
    instances = {}
    for split, image in images.items():
        box = {"id": 1, "image_id": image["id"], "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        content = {"categories": [{"id": 18, "name": "dog"}], "annotations": [box], "images": [image]}
        instances[f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
    others = {"annotations/instances_extra.json": b"no part of it"}
    offer("coco17", {**files, "annotations_trainval2017.zip": pack_zip({**instances, **others})})
    report = fetched("coco17", tmp_path)
    assert report.prepared.roles == {"train": "train", "val": "val"}
    assert [listed(index) for index in report.indexes] == [[("000000000009.jpg", (1,))], [("000000000139.jpg", (1,))]]
    assert "train: 1 samples, the official set has 118,287" in report.warnings


def nuswide(root: Path, **changes: bytes) -> Path:
    truth = "Groundtruth/TrainTestLabels/Labels_"
    files = {
        "ImageList/TrainImagelist.txt": b"actor\\0001_2124494179.jpg\r\nzebra\\0002_5.jpg\r\n",
        "ImageList/TestImagelist.txt": b"actor\\0003_7.jpg\n",
        f"{truth}zebra_Train.txt": b"0\n1\n",
        f"{truth}zebra_Test.txt": b"0\n",
        f"{truth}animal_Train.txt": b"0\r\n1\r\n",
        f"{truth}animal_Test.txt": b"1\n",
        **{f"Flickr/{name}": jpeg() for name in ("actor/0001_2124494179.jpg", "zebra/0002_5.jpg", "actor/0003_7.jpg")},
    }
    return tree(root, {**files, **{f"{truth}{name}.txt": content for name, content in changes.items()}})


def test_nus_wide_is_read_by_its_official_lists(tmp_path: Path) -> None:
    source = nuswide(tmp_path / "mine")
    report = prepare("nuswide", source, tmp_path / "root", PrepareOptions(verify=True))
    train, test = report.indexes
    assert train.classes == test.classes == ("animal", "zebra")
    assert listed(train) == [("actor/0001_2124494179.jpg", (0, 0)), ("zebra/0002_5.jpg", (1, 1))]
    assert listed(test) == [("actor/0003_7.jpg", (1, 0))]
    assert report.prepared.roles == {"train": "train", "val": "test"}
    with pytest.raises(DataError, match="cannot be downloaded by a program: get it"):
        fetched("nuswide", tmp_path / "second")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"zebra_Train": b"0\n"}, "not a line of 0 or 1 for each of 2 images of train"),
        ({"zebra_Test": b"2\n"}, "not a line of 0 or 1 for each of 1 images of test"),
        ({"moon_Test": b"0\n"}, "of different concepts"),
    ],
)
def test_labels_of_nus_wide_that_do_not_fit_are_refused(tmp_path: Path, wrong: dict[str, bytes], words: str) -> None:
    source = nuswide(tmp_path / "mine", **wrong)
    with pytest.raises(DataError, match=words):
        prepare("nuswide", source, tmp_path / "root")


def test_imagenet_v2_is_labelled_by_the_numbers_of_its_folders(tmp_path: Path, offer: Offer) -> None:
    variants = ("matched-frequency", "threshold0.7", "top-images")
    numbers = (0, 10, 2, 999)
    offer(
        "imagenet-v2",
        {
            f"imagenetv2-{variant}.tar.gz": tar(
                {f"imagenetv2-{variant}-format-val/{n}/{variant}{n}.jpeg": jpeg(n) for n in numbers}, "w:gz"
            )
            for variant in variants
        },
    )
    report = fetched("imagenet-v2", tmp_path)
    assert report.prepared.splits == ("matched-frequency",)  # the others only where they are asked for
    index = open_split("imagenet-v2", "val", tmp_path)
    assert index.classes == class_names()
    assert listed(index) == [(f"{n}/matched-frequency{n}.jpeg", n) for n in sorted(numbers)]
    with pytest.raises(DataError, match="no split 'train'"):
        open_split("imagenet-v2", "train", tmp_path)
    options = PrepareOptions(download=True, splits=("top-images",), overwrite=True)
    assert prepare("imagenet-v2", root=tmp_path, options=options).prepared.splits == ("top-images",)
    wrong = tree(tmp_path / "wrong", {"imagenetv2-top-images-format-val/n01440764/1.jpeg": jpeg()})
    with pytest.raises(DataError, match="holds n01440764/; expected the numbers of 1,000 classes"):
        prepare("imagenet-v2", wrong, tmp_path / "second")


def test_inaturalist_2019_from_the_archives_that_a_person_fetched_at_a_level(tmp_path: Path, offer: Offer) -> None:
    places = {7: ("Aves/2", 2), 3: ("Insecta/0", 0), 5: ("Aves/1", 1)}
    images = [{"id": n, "file_name": f"train_val2019/{place}/{n}.jpg"} for n, (place, _) in places.items()]
    annotations = [{"id": n, "image_id": n, "category_id": category} for n, (_, category) in places.items()]
    text = json.dumps({"images": images, "annotations": annotations}).encode()
    groups = [{"id": n, "name": f"species {n}", "genus": genus, "class": "c"} for n, genus in enumerate("aba")]
    archives = {
        "train_val2019.tar.gz": tar({image["file_name"]: jpeg() for image in images}, "w:gz"),
        "train2019.json.tar.gz": tar({"train2019.json": text}, "w:gz"),
        "val2019.json.tar.gz": tar({"val2019.json": text}, "w:gz"),
        "categories.json.tar.gz": tar({"categories.json": json.dumps(groups).encode()}, "w:gz"),
    }
    offer("inat2019", archives)
    source = tree(tmp_path / "mine", archives)
    report = prepare("inat2019", source, tmp_path / "root", PrepareOptions(verify=True, settings={"level": "genus"}))
    train, val = report.indexes
    assert train.classes == val.classes == ("a", "b")
    assert listed(train) == listed(val)
    assert [target for _, target in listed(train)] == [0, 0, 1]
    assert {path.name for path in source.iterdir()} == {*archives}
