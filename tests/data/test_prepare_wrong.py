"""Archives that are cut, wrong, hostile or not there; interrupted and repeated preparations."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.prepare import prepare
from attnbias.data.prepared import is_ready
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.archive_server import ArchiveServer
from tests.helpers.command_line import attnbias
from tests.helpers.command_line import attnbias as in_process
from tests.helpers.listed import listed
from tests.helpers.official_archives import Offer, fetched, jpeg, pack_zip, tar, tree


def test_a_second_run_fetches_and_unpacks_nothing(tmp_path: Path, places: ArchiveServer) -> None:
    folder = fetched("places365", tmp_path).folder

    def state() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix == ".jpg"
        }

    before, asked = state(), len(places.requests)
    fetched("places365", tmp_path)
    prepare("places365", root=tmp_path)
    assert (state(), len(places.requests)) == (before, asked)
    for archive in (folder / "archives").glob("*.tar"):
        archive.unlink()  # the room may be needed: what is unpacked needs no archive
    fetched("places365", tmp_path)
    assert (state(), len(places.requests)) == (before, asked)


def test_interrupted_and_resumed(tmp_path: Path, places: ArchiveServer) -> None:
    places.break_after, places.ranges = [30_000], False
    with pytest.raises(DataError, match="run the same command to continue"):
        fetched("places365", tmp_path)
    assert not is_ready(tmp_path / "places365")
    places.break_after, places.ranges = [None], True
    fetched("places365", tmp_path)
    assert is_ready(tmp_path / "places365")


def test_a_wrong_checksum_is_never_ready(tmp_path: Path, places: ArchiveServer) -> None:
    content = bytearray(places.files["val_256.tar"])
    content[2000] ^= 1
    places.files["val_256.tar"] = bytes(content)
    with pytest.raises(DataError, match=r"val_256\.tar.*it was deleted"):
        fetched("places365", tmp_path)
    assert not is_ready(tmp_path / "places365")
    assert not (tmp_path / "places365" / "source").exists()


def test_a_hostile_archive_is_never_ready(tmp_path: Path, offer: Offer) -> None:
    archive = tar({"imagenet-a/../../../out": b"evil"})
    offer("imagenet-a", {"imagenet-a.tar": archive})
    with pytest.raises(DataError, match="leads out of the folder"):
        fetched("imagenet-a", tmp_path / "root")
    assert not is_ready(tmp_path / "root" / "imagenet-a")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_never_ready(tmp_path: Path, places: ArchiveServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(DataError, match="is full at"):
            fetched("places365", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not is_ready(tmp_path / "places365")
    fetched("places365", tmp_path)
    assert is_ready(tmp_path / "places365")


def test_offline_verifies_and_dry_run_writes_nothing(tmp_path: Path, places: ArchiveServer) -> None:
    with pytest.raises(DataError, match=r"dry run: train_256_places365standard\.tar \(.* kB\), .* would be fetched"):
        prepare("places365", root=tmp_path, options=PrepareOptions(download=True, dry_run=True))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"has no train_256_places365standard\.tar"):
        prepare("places365", root=tmp_path, options=PrepareOptions(offline=True))
    folder = fetched("places365", tmp_path).folder
    asked = len(places.requests)
    prepare("places365", root=tmp_path, options=PrepareOptions(offline=True))
    archive = folder / "archives" / "val_256.tar"
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="published"):
        prepare("places365", root=tmp_path, options=PrepareOptions(offline=True))
    assert len(places.requests) == asked


def test_archives_are_fetched_or_only_verified_as_typed(tmp_path: Path, places: ArchiveServer) -> None:
    typed = ("prepare-data", "places365", "--root", tmp_path)
    assert "--download" in in_process(*typed, expect=3).line
    assert "has no train_256_places365standard.tar" in in_process(*typed, "--offline", expect=3).line
    assert not places.requests
    in_process(*typed, "--download", expect=0)
    asked = len(places.requests)
    in_process(*typed, "--offline", expect=0)
    assert len(places.requests) == asked > 0


def test_chosen_splits_only(tmp_path: Path, places: ArchiveServer) -> None:
    report = prepare("places365", root=tmp_path, options=PrepareOptions(download=True, splits=("val",)))
    assert report.prepared.splits == ("val",)
    with pytest.raises(DataError, match="no split 'vall'; found: train, val"):
        prepare("places365", root=tmp_path, options=PrepareOptions(splits=("vall",), overwrite=True))


def test_what_needs_registration_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        prepare("imagenet", root=tmp_path)
    for part in ("https://image-net.org", "ILSVRC2012_img_train.tar (148 GB)", "--source THAT_FOLDER"):
        assert part in str(raised.value)
    with pytest.raises(DataError, match=r"needs --download \(25 GB\), or --source DIR"):
        prepare("places365", root=tmp_path)


def test_what_a_person_fetched_is_verified_unpacked_and_told_file_by_file(tmp_path: Path) -> None:
    person = {"bbox": [0, 0, 4, 6], "attribute": [1, -1, 0] + [-1] * 11}
    names = {"trainval": "train/0--Parade/a.jpg", "test": "test/0--Parade/b.jpg"}
    notes = {
        f"wider_attribute_annotation/wider_attribute_{split}.json": json.dumps(
            {"images": [{"file_name": name, "targets": [person]}]}
        ).encode()
        for split, name in names.items()
    }
    archives = {
        "wider_attribute_annotation.zip": pack_zip(notes),
        "wider_attribute_image.tgz": tar({f"Image/{name}": jpeg() for name in names.values()}, "w:gz"),
    }
    source = tree(tmp_path / "mine", archives)
    done = attnbias("prepare-data", "wider", "--source", source, "--root", "root", "--verify", cwd=tmp_path)
    assert done.code == 0, done.err
    assert listed(open_split("wider", "test", tmp_path / "root")) == [
        ("Image/" + names["test"], (1, 0, -1) + (0,) * 11)
    ]
    lines = done.err.splitlines()
    for name in archives:
        starts = [f"verifying {name} (", f"unpacking {name}", f"unpacked {name} into "]
        assert [sum(line.startswith(start) for line in lines) for start in starts] == [1, 1, 1], done.err
