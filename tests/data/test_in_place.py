"""`prepare-data --in-place`: images that stay in their archives are those of the same set unpacked, or are refused."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.fetch.unpack import unpack
from attnbias.data.fingerprint import Fingerprint
from attnbias.data.images import Decode, read_header
from attnbias.data.members import content_of
from attnbias.data.prepare import IN_PLACE, prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.batches import batches
from attnbias.methods.engine.evaluation.cache import use_cache
from tests.helpers.command_line import attnbias
from tests.helpers.listed import PLACES
from tests.helpers.official_archives import Offer, imagenet_archives, jpeg, pack_zip, tar, tree

CPU = torch.device("cpu")
READINGS: tuple[tuple[int, Decode], ...] = (0, "exact"), (1, "exact"), (0, "fast")
STAYS = PrepareOptions(in_place=True)


def coco_archives(compression: int = zipfile.ZIP_STORED) -> dict[str, bytes]:
    """The zips of COCO 2014, whose annotations are compressed, as theirs are."""
    found, annotations = {}, {}
    for first, split in ((1, "train"), (4, "val")):
        images = [{"id": id, "file_name": f"COCO_{split}2014_{id:012d}.jpg"} for id in (first + 1, first)]
        box = {"id": 1, "image_id": first, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        content = {"categories": [{"id": 18, "name": "dog"}], "annotations": [box], "images": images}
        annotations[f"annotations/instances_{split}2014.json"] = json.dumps(content).encode()
        files = {f"{split}2014/{image['file_name']}": jpeg(int(str(image["id"])), 40) for image in images}
        found[f"{split}2014.zip"] = pack_zip({f"{split}2014/": b"", **files}, compression)
    return {**found, "annotations_trainval2014.zip": pack_zip(annotations, zipfile.ZIP_DEFLATED)}


def places_archives() -> dict[str, bytes]:
    return {
        "filelist_places365-standard.tar": tar(PLACES),
        "train_256_places365standard.tar": tar(
            {f"data_256/{name}/00000001.jpg": jpeg(3, 40) for name in ("a/airfield", "b/beach")}
        ),
        "val_256.tar": tar({f"val_256/Places365_val_0000000{i}.jpg": jpeg(i, 40) for i in (1, 2)}),
    }


OFFICIAL: dict[str, Callable[[], dict[str, bytes]]] = {
    "imagenet": imagenet_archives,
    "coco": coco_archives,
    "places365": places_archives,
}


def samples(name: str, split: str, root: Path, workers: int = 0, decode: Decode = "exact") -> list[list[object]]:
    """What a loader reads of a split."""
    dataset = ImageDataset(open_split(name, split, root), eval_transform(24, "unit"), decode=decode)
    (batch,) = batches(dataset, [list(range(len(dataset)))], workers=workers, device=CPU)
    return [batch["image"].tolist(), batch["target"].tolist()]


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_set_in_its_archives_is_the_set_that_was_unpacked(name: str, tmp_path: Path, offer: Offer) -> None:
    archives = OFFICIAL[name]()
    offer(name, archives)
    source = tree(tmp_path / "mine", archives)
    loose, whole = tmp_path / "loose", tmp_path / "whole"
    prepare(name, source, loose, PrepareOptions(verify=True))
    report = prepare(name, source, whole, PrepareOptions(verify=True, in_place=True))
    images = [path.suffix for path in (whole / name / "source").rglob("*.*")]
    assert {".jpg", ".JPEG"} & {*images} == set()
    holding = [file for file in archives if "file" not in file and "devkit" not in file and "annotations" not in file]
    assert report.prepared.remarks[IN_PLACE]["count"] == len(holding)
    for split in ("train", "val"):
        one, other = (root / name / "index" / f"{split}.json" for root in (loose, whole))
        assert one.read_bytes() == other.read_bytes()
        index = open_split(name, split, whole)
        assert Fingerprint.of(open_split(name, split, loose)) == Fingerprint.of(index)
        for workers, decode in READINGS:
            read = [samples(name, split, root, workers, decode) for root in (loose, whole)]
            assert read[0] == read[1]
        assert read_header(index.root / index.records[0].path) == read_header(
            open_split(name, split, loose).root / index.records[0].path
        )


def test_a_set_in_its_archives_is_unpacked_once_that_is_asked_for(tmp_path: Path, offer: Offer) -> None:
    archives = coco_archives()
    offer("coco", archives)
    source = tree(tmp_path / "mine", archives)
    prepare("coco", source, tmp_path / "root", STAYS)
    expected = samples("coco", "train", tmp_path / "root")
    report = prepare("coco", source, tmp_path / "root")
    assert IN_PLACE not in report.prepared.remarks
    assert not [*(tmp_path / "root").rglob(".members.npz")]
    for file in archives:
        (source / file).unlink()
    assert samples("coco", "train", tmp_path / "root") == expected


def test_compressed_images_are_refused_by_name(tmp_path: Path, offer: Offer) -> None:
    archives = coco_archives(zipfile.ZIP_DEFLATED)
    offer("coco", archives)
    words = (
        r"train2014\.zip cannot be unpacked: member 'train2014/COCO_train2014_000000000002\.jpg' is compressed, and --"
        r".*; leave --in-place out$"
    )
    with pytest.raises(DataError, match=words):
        prepare("coco", tree(tmp_path / "mine", archives), tmp_path / "root", STAYS)
    outer = {**places_archives(), "val_256.tar": tar({"val_256/Places365_val_00000001.jpg": jpeg()}, "w:gz")}
    offer("places365", outer)
    with pytest.raises(DataError, match=r"'val_256/Places365_val_00000001\.jpg' is compressed"):
        prepare("places365", tree(tmp_path / "places", outer), tmp_path / "root", STAYS)


def test_another_archive_in_the_place_of_the_first_is_refused(tmp_path: Path, offer: Offer) -> None:
    archives = places_archives()
    offer("places365", archives)
    source = tree(tmp_path / "mine", archives)
    prepare("places365", source, tmp_path / "root", STAYS)
    before, file = samples("places365", "val", tmp_path / "root"), source / "val_256.tar"
    whole = file.read_bytes()
    moved = tar(
        {f"val_256/Places365_val_0000000{i}.jpg": jpeg(i, 40) for i in (2, 1)}
    )  # of the same size, in another order
    assert len(moved) == len(whole)
    for content in (moved, whole[:-512], whole + bytes(512)):
        file.write_bytes(content)
        forget()
        with pytest.raises(
            DataError, match=r"val_256\.tar is not the archive whose images were listed; put the archive"
        ):
            samples("places365", "val", tmp_path / "root")
    file.unlink()
    forget()
    with pytest.raises(DataError, match=r"val_256\.tar: No such file or directory; put the archive back"):
        samples("places365", "val", tmp_path / "root")
    file.write_bytes(whole)
    forget()
    assert samples("places365", "val", tmp_path / "root") == before


def test_an_archive_that_moved_or_is_another_one_is_listed_anew(tmp_path: Path, offer: Offer) -> None:
    archives, root, cache = places_archives(), tmp_path / "root", tmp_path / "cache"
    offer("places365", archives)
    source = tree(tmp_path / "mine", archives)
    prepare("places365", source, root, STAYS)

    def kept() -> list[object]:
        dataset = ImageDataset(open_split("places365", "val", root), eval_transform(24, "unit"))
        use_cache(cache, dataset, Accelerator(cpu=True), 0)
        return [dataset.as_bytes()[number]["image"].tolist() for number in range(2)]

    first, before = samples("places365", "val", root), kept()
    moved = source.rename(tmp_path / "elsewhere")
    forget()
    prepare("places365", moved, root, STAYS)
    assert samples("places365", "val", root) == first
    archives["val_256.tar"] = tar({f"val_256/Places365_val_0000000{i}.jpg": jpeg(i + 5, 40) for i in (1, 2)})
    tree(moved, archives)
    offer("places365", archives)
    forget()
    prepare("places365", moved, root, STAYS)
    assert samples("places365", "val", root) != first
    assert kept() != before  # the cache of images is not that of the other archive
    moved.rename(source)
    forget()
    prepare("places365", source, root)
    assert not [*root.rglob(".members.npz")]


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for pixel in (b"first", b"last!"):
            info = tarfile.TarInfo("a/1.jpg")
            info.size = len(pixel)
            archive.addfile(info, io.BytesIO(pixel))
    (tmp_path / "a.tar").write_bytes(content.getvalue())
    for in_place in (False, True):
        unpack(tmp_path / "a.tar", tmp_path / str(in_place), in_place=in_place)
    assert (tmp_path / "False" / "a" / "1.jpg").read_bytes() == b"last!"
    assert content_of(tmp_path / "True" / "a" / "1.jpg") == b"last!"


def forget() -> None:
    """Be a new process, as far as tables go."""
    from attnbias.data import members

    members._members.cache_clear()


def test_a_damaged_image_and_a_missing_one_are_named_as_files_are(tmp_path: Path, offer: Offer) -> None:
    archives = {**places_archives(), "val_256.tar": tar({"val_256/Places365_val_00000001.jpg": b"no image"})}
    offer("places365", archives)
    said = []
    for folder, how in (("unpacked", False), ("in-place", True)):
        with pytest.raises(DataError) as missing:
            prepare("places365", tree(tmp_path / "mine", archives), tmp_path / folder, PrepareOptions(in_place=how))
        root = tmp_path / folder / "places365" / "source" / "val_256"
        with pytest.raises(DataError) as broken:
            read_header(root / "Places365_val_00000001.jpg")
        said.append([str(error.value).replace(f"/{folder}/", "/") for error in (missing, broken)])
    assert said[0] == said[1]
    assert "1 of 2 images are missing" in said[0][0]


def test_it_is_typed_and_said(tmp_path: Path, offer: Offer) -> None:
    archives = imagenet_archives()
    offer("imagenet", archives)
    source = tree(tmp_path / "mine", archives)
    typed = ("prepare-data", "imagenet", "--root", tmp_path / "root", "--in-place")
    shown = attnbias(*typed, "--source", source, expect=0).out
    assert IN_PLACE in shown
    assert "ILSVRC2012_img_val.tar" in shown
    assert attnbias(*typed, "--source", tmp_path, expect=3).line.startswith("error: --in-place: ")
    for name in ("demo", "ade20k", "cifar10"):
        refused = attnbias("prepare-data", name, "--root", tmp_path / "root", "--in-place", expect=2).line
        assert refused.endswith(f"for archives of labelled images that would be unpacked; '{name}' has none")
    (tmp_path / "ant").mkdir()
    refused = attnbias("prepare-data", tmp_path / "ant", "--root", tmp_path / "root", "--in-place", expect=2).line
    assert refused.endswith("ant' holds none")
