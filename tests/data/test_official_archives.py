"""The papers' datasets from tiny archives in their official layouts on a real server."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from attnbias.cli.prepare_data import show
from attnbias.data import prepare as preparing
from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.prepare import prepare
from attnbias.data.registry import DATASETS, open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.imagenet import CORRUPTIONS, class_names, read_flat_validation, subset_indices, synsets
from attnbias.data.sets.inaturalist import read_inaturalist
from tests.helpers.archive_server import ArchiveServer
from tests.helpers.command_line import attnbias
from tests.helpers.listed import PLACES, listed
from tests.helpers.official_archives import (
    CRANE,
    GOLDFISH,
    TENCH,
    Offer,
    devkit,
    fetched,
    imagenet_archives,
    jpeg,
    pack_zip,
    tar,
    tree,
)


def cifar_batch(seed: int, classes: int, labels: str) -> tuple[bytes, dict[str, Any]]:
    random = np.random.default_rng(seed)
    batch = {"data": random.integers(0, 256, (4, 3072), np.uint8), labels: random.integers(0, classes, 4).tolist()}
    return pickle.dumps(batch, protocol=2), batch


def cifar10_archive() -> bytes:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {f"cifar-10-batches-py/{name}": cifar_batch(i, 10, "labels")[0] for i, name in enumerate(names)}
    meta = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2)
    return tar({"cifar-10-batches-py/batches.meta": meta, **files}, "w:gz")


def cifar100_archive() -> bytes:
    files = {
        f"cifar-100-python/{name}": cifar_batch(i, 100, "fine_labels")[0] for i, name in enumerate(("train", "test"))
    }
    meta = pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}, protocol=2)
    return tar({**files, "cifar-100-python/meta": meta}, "w:gz")


def stl10_archive() -> bytes:
    random = np.random.default_rng(0)
    files = {}
    for split in ("test", "train"):
        files[f"stl10_binary/{split}_X.bin"] = random.integers(0, 256, 3 * 3 * 96 * 96, np.uint8).tobytes()
        files[f"stl10_binary/{split}_y.bin"] = random.integers(1, 11, 3).astype(np.uint8).tobytes()
    names = "airplane bird car cat deer dog horse monkey ship truck".replace(" ", "\n")
    return tar({**files, "stl10_binary/unlabeled_X.bin": b"", "stl10_binary/class_names.txt": names.encode()}, "w:gz")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_images_inside_archives_are_those_that_torchvision_reads(
    tmp_path: Path, offer: Offer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reader = {
        "cifar10": (cifar10_archive, torchvision.datasets.CIFAR10),
        "cifar100": (cifar100_archive, torchvision.datasets.CIFAR100),
        "stl10": (stl10_archive, torchvision.datasets.STL10),
    }[name]
    archive = make()
    offer(name, {DATASETS[name].archives[0].file: archive})
    report = fetched(name, tmp_path / "root")
    assert report.prepared.roles == {"train": "train", "val": "test"}
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        file.extractall(tmp_path / "torchvision", filter="data")
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *args: True)
    for split in ("train", "test"):
        index = open_split(name, split, tmp_path / "root")
        ours = ImageDataset(index, lambda image: image)
        chosen = {"split": split} if name == "stl10" else {"train": split == "train"}
        theirs = reader(str(tmp_path / "torchvision"), **chosen)
        assert len(ours) == len(theirs) > 0
        assert list(index.classes) == list(theirs.classes)
        for i in range(len(ours)):
            image, label = theirs[i]
            assert ours[i]["target"] == label
            assert ours[i]["image"].tobytes() == image.tobytes()
    assert not list((tmp_path / "root").rglob("*batch*"))


def test_an_archive_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"

    class Command:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {mark}",)

    files = {"cifar-100-python/train": pickle.dumps({"data": Command()}, protocol=2), "cifar-100-python/meta": b""}
    source = tree(tmp_path / "source", {"cifar-100-python.tar.gz": tar(files, "w:gz")})
    info = replace(DATASETS["cifar100"], archives=(replace(DATASETS["cifar100"].archives[0], digest=None),))
    monkeypatch.setattr(preparing, "DATASETS", {"cifar100": info})
    with pytest.raises(DataError, match=r"posix\.system, which is not an array"):
        prepare("cifar100", source, tmp_path / "root")
    assert not mark.exists()


def test_a_cut_archive_in_memory(tmp_path: Path) -> None:
    from attnbias.data.archived import read_archive

    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(cifar10_archive()[:20_000])
    with pytest.raises(DataError, match="damaged"):
        read_archive(archive, "train")
    archive.write_bytes(tar({"other/file": b""}, "w:gz"))
    with pytest.raises(DataError, match="holds 'other', expected CIFAR-10"):
        read_archive(archive, "test")


def test_imagenet_from_archives_that_a_person_fetched(tmp_path: Path, offer: Offer, server: ArchiveServer) -> None:
    archives = imagenet_archives()  # once: the devkit's MATLAB file holds the second it was made in
    offer("imagenet", archives)
    with pytest.raises(DataError, match=r"cannot be downloaded by a program: get it \(155 GB\) from https://image-net"):
        fetched("imagenet", tmp_path / "root")
    source = tree(tmp_path / "mine", archives)
    before = {path.name for path in source.iterdir()}
    report = prepare("imagenet", source, tmp_path / "root", PrepareOptions(verify=True))
    assert {path.name for path in source.iterdir()} == before
    assert server.requests == []
    train, val = report.indexes
    assert train.classes == val.classes == class_names()
    assert listed(train) == [
        (f"{s}/{s}_{i}.JPEG", k) for s, k in ((TENCH, 0), (GOLDFISH, 1), (CRANE, 134)) for i in (0, 1)
    ]
    assert listed(val) == [(f"ILSVRC2012_val_0000000{i}.JPEG", k) for i, k in ((1, 1), (2, 134), (3, 0), (4, 134))]
    assert class_names()[134] == f"crane ({CRANE})"


def test_an_unpacked_tree_is_preferred_to_archives_beside_it(tmp_path: Path, offer: Offer) -> None:
    archives = imagenet_archives()
    offer("imagenet", archives)
    source = tree(tmp_path / "mine", {**archives, f"val/{CRANE}/1.JPEG": jpeg()})
    report = prepare("imagenet", source, tmp_path / "root")
    assert report.prepared.source == str(source)
    assert report.prepared.splits == ("val",)
    assert not (tmp_path / "root" / "imagenet" / "source").exists()


def test_the_devkit_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"ILSVRC2012_devkit_t12.tar.gz": devkit()})
    monkeypatch.setattr(torchvision.datasets.imagenet, "_verify_archive", lambda *args: None)
    torchvision.datasets.imagenet.parse_devkit_archive(str(tmp_path))
    _, theirs = torchvision.datasets.imagenet.load_meta_file(str(tmp_path))
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz") as file:
        file.extractall(tmp_path, filter="data")
    kit = tmp_path / "ILSVRC2012_devkit_t12"
    root = tree(tmp_path / "val", {f"ILSVRC2012_val_0000000{i}.JPEG": b"" for i in (1, 2, 3, 4)})
    assert [synsets()[int(target)] for _, target in listed(read_flat_validation(root, kit))] == theirs
    tree(root, {"ILSVRC2012_val_00000005.JPEG": b""})
    with pytest.raises(DataError, match="has no line"):
        read_flat_validation(root, kit)


def test_renditions_are_labelled_by_synset_never_by_position(tmp_path: Path, offer: Offer) -> None:
    for name in ("imagenet-a", "imagenet-r"):
        chosen = [synsets(name)[i] for i in (0, 7, 199)]
        offer(name, {f"{name}.tar": tar({f"{name}/{s}/x.jpg": jpeg() for s in chosen} | {f"{name}/README.txt": b""})})
        report = fetched(name, tmp_path)
        assert listed(report.indexes[0]) == [(f"{s}/x.jpg", synsets().index(s)) for s in chosen]
        assert [target for _, target in listed(report.indexes[0])] == [subset_indices(name)[i] for i in (0, 7, 199)]
        assert len(report.indexes[0].classes) == 1000
        assert any("197 of 200 classes have no images" in warning for warning in report.warnings)
        assert report.prepared.roles == {"val": "val"}
        with pytest.raises(DataError, match="no split 'train'"):
            open_split(name, "train", tmp_path)
    stranger = next(s for s in synsets() if s not in synsets("imagenet-a"))
    source = tree(tmp_path / "s", {f"{stranger}/x.jpg": jpeg()})
    with pytest.raises(DataError, match=f"not a class of imagenet-a .{stranger}"):
        prepare("imagenet-a", source, tmp_path / "second")


def test_sketches_and_corruptions(tmp_path: Path, offer: Offer, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "sketches", {f"sketch/{CRANE}/sketch_1.JPEG": jpeg()})
    assert listed(prepare("imagenet-sketch", source, tmp_path).indexes[0]) == [(f"{CRANE}/sketch_1.JPEG", 134)]
    files: dict[str, dict[str, bytes]] = {}
    for corruption, group in CORRUPTIONS.items():
        for severity in range(1, 6):
            files.setdefault(f"{group}.tar", {})[f"{corruption}/{severity}/{GOLDFISH}/1.JPEG"] = jpeg(severity)
    offer("imagenet-c", {name: tar(content) for name, content in files.items()})
    report = fetched("imagenet-c", tmp_path)
    assert report.prepared.splits == DATASETS["imagenet-c"].splits
    everywhere = "brightness-1 to zoom_blur-5 (75 splits)"
    assert report.warnings == [f"{everywhere}: 1 samples, the official set has 50,000"]
    show(report, dry_run=False)
    shown = capsys.readouterr().out
    assert f"never in {everywhere}: tench, " in shown
    assert len(shown.splitlines()) < 20
    assert listed(open_split("imagenet-c", "snow-4", tmp_path)) == [(f"{GOLDFISH}/1.JPEG", 1)]
    grouped = tree(tmp_path / "grouped", {f"noise/shot_noise/2/{GOLDFISH}/1.JPEG": jpeg()})
    report = prepare("imagenet-c", grouped, tmp_path / "second")
    assert report.prepared.splits == ("shot_noise-2",)
    assert any("74 of 75 corruptions" in warning for warning in report.warnings)


def test_places_gets_its_classes_without_moving_a_image(tmp_path: Path, offer: Offer) -> None:
    offer(
        "places365",
        {
            "filelist_places365-standard.tar": tar(PLACES),
            "train_256_places365standard.tar": tar(
                {f"data_256/{name}/00000001.jpg": jpeg() for name in ("a/airfield", "b/beach")}
            ),
            "val_256.tar": tar({f"val_256/Places365_val_0000000{i}.jpg": jpeg(i) for i in (1, 2)}),
        },
    )
    train, val = fetched("places365", tmp_path).indexes
    assert train.classes == val.classes
    assert listed(train) == [("b/beach/00000001.jpg", 2), ("a/airfield/00000001.jpg", 0)]
    assert listed(val) == [("Places365_val_00000001.jpg", 1), ("Places365_val_00000002.jpg", 0)]
    assert {path.name for path in val.root.iterdir()} == {"Places365_val_00000001.jpg", "Places365_val_00000002.jpg"}
    broken = tree(tmp_path / "broken", {**PLACES, "places365_val.txt": b"x.jpg 7\n", "val_256/x.jpg": jpeg()})
    with pytest.raises(DataError, match=r"x\.jpg has class 7, of 3"):
        prepare("places365", broken, tmp_path / "second")


def inat(order: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    places = [("Aves/2", 7), ("Insecta/0", 3), ("Aves/1", 5)]
    images = [{"id": id, "file_name": f"train_val2018/{folder}/{id}.jpg"} for folder, id in places]
    annotations = [{"id": i, "image_id": places[i][1], "category_id": int(places[i][0][-1])} for i in order]
    return {"images": images, "annotations": annotations}


def test_inaturalist_is_joined_on_the_image_id(tmp_path: Path, offer: Offer) -> None:
    text = json.dumps(inat(order=(2, 0, 1))).encode()
    names = json.dumps([{"id": number, "name": f"species {number}"} for number in range(3)]).encode()
    offer(
        "inat2018",
        {
            "train_val2018.tar.gz": tar({image["file_name"]: jpeg() for image in inat()["images"]}, "w:gz"),
            "train2018.json.tar.gz": tar({"train2018.json": text}, "w:gz"),
            "val2018.json.tar.gz": tar({"val2018.json": text}, "w:gz"),
            "categories.json.tar.gz": tar({"categories.json": names}, "w:gz"),
        },
    )
    train, val = fetched("inat2018", tmp_path).indexes
    assert train.classes == ("species 0", "species 1", "species 2")
    assert (
        listed(train)
        == listed(val)
        == [
            ("train_val2018/Aves/2/7.jpg", 2),
            ("train_val2018/Insecta/0/3.jpg", 0),
            ("train_val2018/Aves/1/5.jpg", 1),
        ]
    )


def test_inaturalists_classes_are_of_the_level_and_the_year_that_were_typed(tmp_path: Path) -> None:
    groups = [{"id": i, "name": f"species {i}", "genus": genus} for i, genus in enumerate("aba")]
    content = json.loads(json.dumps(inat()).replace("train_val2018", "train_val2019"))
    source = tree(
        tmp_path / "source",
        {
            "train2019.json": json.dumps(content).encode(),
            "val2019.json": json.dumps(content).encode(),
            "categories.json": json.dumps(groups).encode(),
            **{image["file_name"]: jpeg() for image in content["images"]},
        },
    )
    words = ("prepare-data", "inat2019", "--source", source, "--root", tmp_path / "root")
    attnbias(*words, "--level", "genus", expect=0)
    index = open_split("inat2019", "train", tmp_path / "root")
    assert index.classes == ("a", "b")
    assert [target for _, target in listed(index)] == [0, 0, 1]
    assert "was prepared with level genus; add --overwrite" in attnbias(*words, expect=3).line
    attnbias(*words, "--overwrite", expect=0)
    assert open_split("inat2019", "val", tmp_path / "root").classes == ("species 0", "species 1", "species 2")
    wrong = attnbias("prepare-data", "places365", "--level", "genus", "--root", tmp_path, expect=2).line
    assert wrong == "error: --level belongs to inat2018 and inat2019; 'places365' has no taxonomy"
    (source / "categories.json").unlink()
    missing = attnbias(*words, "--level", "genus", "--overwrite", expect=3).line
    assert "categories.json" in missing


def test_inaturalist_levels_order_and_contradictions(tmp_path: Path) -> None:
    groups = [{"id": i, "name": f"species {i}", "genus": genus} for i, genus in enumerate("aba")]
    write = {"train2018.json": inat(), "val2018.json": {**inat(), "annotations": []}, "categories.json": groups}
    tree(tmp_path, {name: json.dumps(content).encode() for name, content in write.items()})
    assert read_inaturalist(tmp_path, "train").classes == ("species 0", "species 1", "species 2")
    index = read_inaturalist(tmp_path, "val", level="genus")
    assert index.classes == ("a", "b")
    assert [target for _, target in listed(index)] == [0, 0, 1]
    (tmp_path / "train_val2018" / "2").mkdir(parents=True)
    assert listed(read_inaturalist(tmp_path, "val", level="name"))[0] == ("train_val2018/2/7.jpg", 0)
    for written, reason in (
        (inat()["annotations"][:2], "1 images have no annotation .id 5"),
        (inat()["annotations"] * 2, "3 images have more than one annotation"),
    ):
        (tmp_path / "val2018.json").write_text(json.dumps({**inat(), "annotations": written}))
        with pytest.raises(DataError, match=reason):
            read_inaturalist(tmp_path, "val")
    swapped = [{**a, "category_id": 0} for a in inat()["annotations"]]
    (tmp_path / "val2018.json").write_text(json.dumps({**inat(), "annotations": swapped}))
    with pytest.raises(DataError, match="2 images stand in another category's folder"):
        read_inaturalist(tmp_path, "val", level="genus")
    with pytest.raises(DataError, match="not a taxonomic level"):
        read_inaturalist(tmp_path, "val", level="genera")


def voc(year: str, lists: dict[str, str], names: tuple[str, ...]) -> dict[str, bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>8</ymax></bndbox>"
    annotation = f"<annotation><object><name>dog</name><difficult>0</difficult>{box}</object></annotation>".encode()
    folder = f"VOCdevkit/{year}"
    files = {f"{folder}/ImageSets/Main/{split}.txt": text.encode() for split, text in lists.items()}
    for name in names:
        files |= {f"{folder}/Annotations/{name}.xml": annotation, f"{folder}/JPEGImages/{name}.jpg": jpeg()}
    return files


def test_voc_and_coco_from_their_archives(tmp_path: Path, offer: Offer) -> None:
    offer(
        "voc07",
        {
            "VOCtrainval_06-Nov-2007.tar": tar(voc("VOC2007", {"trainval": "000001\n000003\n"}, ("000001", "000003"))),
            "VOCtest_06-Nov-2007.tar": tar(voc("VOC2007", {"test": "000002\n"}, ("000002",))),
        },
    )
    trainval, test = fetched("voc07", tmp_path).indexes
    assert [path for path, _ in listed(trainval)] == ["JPEGImages/000001.jpg", "JPEGImages/000003.jpg"]
    assert [path for path, _ in listed(test)] == ["JPEGImages/000002.jpg"]
    lists = {"train": "2008_000001\n", "val": "2008_000002\n"}
    offer("voc12", {"VOCtrainval_11-May-2012.tar": tar(voc("VOC2012", lists, ("2008_000001", "2008_000002")))})
    assert [len(index.records) for index in fetched("voc12", tmp_path).indexes] == [1, 1]
    images = {split: {"id": 1, "file_name": f"COCO_{split}2014_000000000001.jpg"} for split in ("train", "val")}
    box = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    content = {"categories": [{"id": 18, "name": "dog"}], "annotations": [box]}
    offer(
        "coco",
        {
            **{f"{s}2014.zip": pack_zip({f"{s}2014/{images[s]['file_name']}": jpeg()}) for s in images},
            "annotations_trainval2014.zip": pack_zip(
                {
                    f"annotations/instances_{s}2014.json": json.dumps({**content, "images": [images[s]]}).encode()
                    for s in images
                }
            ),
        },
    )
    report = fetched("coco", tmp_path)
    assert report.prepared.roles == {"train": "train", "val": "val"}
    assert (tmp_path / "coco" / "csra" / "train_coco2014.json").is_file()


def test_sketches_from_their_archive(tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", {"ImageNet-Sketch.zip": pack_zip({f"sketch/{CRANE}/sketch_1.JPEG": jpeg()})})
    assert listed(prepare("imagenet-sketch", source, tmp_path).indexes[0]) == [(f"{CRANE}/sketch_1.JPEG", 134)]


def test_real_voc_images_under_their_lists(tmp_path: Path, real_data: Path) -> None:
    mini = real_data / "voc_mini"
    names = sorted(path.stem for path in (mini / "JPEGImages").glob("*.jpg"))
    lists = {"train": f"{names[0]}\n", "val": "".join(f"{name}\n" for name in names[1:])}
    voc = tree(tmp_path / "VOC2012", {f"ImageSets/Main/{split}.txt": text.encode() for split, text in lists.items()})
    for folder in ("JPEGImages", "Annotations"):
        (voc / folder).symlink_to(mini / folder)
    indexes = prepare("voc12", tmp_path, tmp_path / "root", PrepareOptions(verify=True)).indexes
    assert [len(index.records) for index in indexes] == [1, len(names) - 1]
    for index in indexes:
        for record in index.records:
            text = (mini / "Annotations" / f"{Path(record.path).stem}.xml").read_text()
            found = {index.classes[box.label] for box in record.boxes}
            assert found == set(re.findall(r"<name>(\w+)</name>", text)) & set(index.classes)
            assert len(record.boxes) == text.count("<object>")
