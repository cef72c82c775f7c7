"""WebDataset shards of one's own, read where they lie: the set of the same files in folders, or one line of refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from attnbias.data import members
from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.images import Decode
from attnbias.data.index import Index
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.sets.webdataset import split_of
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.batches import batches
from tests.helpers.command_line import attnbias
from tests.helpers.official_archives import jpeg, tar, tree

STAYS = PrepareOptions(in_place=True)
NAMES = ("ant", "bee", "cat")
Files = dict[str, bytes]


def samples(first: int, number: int, label: Callable[[int], Files]) -> Files:
    """Members of a shard: images one after the other, each with its label behind it."""
    found: Files = {}
    for position in range(first, first + number):
        key = f"{position:06d}"
        found |= {f"{key}.jpg": jpeg(position, 40)} | {key + end: text for end, text in label(position).items()}
    return found


def named(position: int) -> Files:
    return {".cls": NAMES[position % 3].encode() + b"\n"}


def numbered(position: int) -> Files:
    return {".cls": str(position % 3).encode()}


def shards(root: Path, label: Callable[[int], Files] = named) -> Path:
    """Two shards that train and one that evaluates, of six images each."""
    names = ("train-000000", "train-000001", "val-000000")
    return tree(root, {f"{name}.tar": tar(samples(6 * place, 6, label)) for place, name in enumerate(names)})


def indexes(root: Path) -> Iterator[Index]:
    for split in ("train", "val"):
        yield open_split("mine", split, root)


def read(index: Index, workers: int = 0, decode: Decode = "exact") -> list[object]:
    """What a loader reads, an image after the other."""
    dataset = ImageDataset(index, eval_transform(24, "unit"), decode=decode)
    (batch,) = batches(dataset, [list(range(len(dataset)))], workers=workers, device=torch.device("cpu"))
    return [batch["image"].tolist(), batch["target"].tolist()]


def test_shards_are_the_set_of_the_same_files_in_folders(tmp_path: Path) -> None:
    source, loose = shards(tmp_path / "mine"), tmp_path / "loose" / "mine"
    report = prepare(str(source), root=tmp_path / "root", options=PrepareOptions(in_place=True, verify=True))
    assert [index.classes for index in report.indexes] == [NAMES, NAMES]
    for position in range(18):
        split = "train" if position < 12 else "val"
        tree(loose, {f"{split}/{NAMES[position % 3]}/{position:06d}.jpg": jpeg(position, 40)})
    prepare(str(loose), root=tmp_path / "second")
    for own, files in zip(indexes(tmp_path / "root"), indexes(tmp_path / "second"), strict=True):
        names = [Path(record.path).name for record in own.records]
        assert names == sorted(names)  # as they lie in the shards
        order = [names.index(Path(record.path).name) for record in files.records]
        for workers, decode in ((0, "exact"), (1, "exact"), (0, "fast")):
            images, targets = (torch.tensor(values)[order] for values in read(own, workers, decode))
            assert [images.tolist(), targets.tolist()] == read(files, 0, decode)
    assert [path.name for path in (tmp_path / "root" / "mine" / "source").iterdir()] == [".members.npz"]


LABELS: dict[str, Callable[[int], Files]] = {
    "numbers": numbered,
    "names in json": lambda k: {".json": json.dumps({"label": NAMES[k % 3], "width": 40}).encode()},
    "numbers twice": lambda k: numbered(k) | {".json": json.dumps({"label": k % 3}).encode()},
    "further members": lambda k: named(k) | {".json": b'{"width": 40}', ".en.txt": b"a caption"},
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_numbers_or_names_in_cls_or_json(kind: str, tmp_path: Path) -> None:
    source = shards(tmp_path / "mine", LABELS[kind])
    report = prepare(str(source), root=tmp_path / "root", options=STAYS)
    expected = NAMES if "numbers" not in kind else ("class 0", "class 1", "class 2")
    for index in report.indexes:
        assert index.classes == expected
        assert [record.target for record in index.records] == [0, 1, 2] * (len(index.records) // 3)
    left_out = report.prepared.left_out
    assert {reason: each["count"] for reason, each in left_out.items()} == (
        {"file of another kind": 18} if kind == "further members" else {}
    )
    if "numbers" in kind:
        tree(source, {"classes.txt": b"wasp\nbee\nant\nlouse\n"})
        report = prepare(str(source), root=tmp_path / "root", options=STAYS)
        assert report.indexes[0].classes == ("wasp", "bee", "ant", "louse")


def test_a_shard_is_of_the_split_of_its_folder_or_of_the_words_before_its_number(tmp_path: Path) -> None:
    expected = {
        "val/000.tar": "val",
        "train-000000.tar": "train",
        "birds-train-0003.tar": "birds-train",
        "imagenet12k.tar": "imagenet12k",
        "test_00001-of-00100.tar": "test",
        "000004.tar": "train",
    }
    assert {shard: split_of(shard) for shard in expected} == expected
    one = tar(samples(0, 3, named))
    tree(tmp_path / "mine", {"first/0.tar": one, "first/1.tar": one, "second/0.tar": one})
    with pytest.raises(DataError, match="which of the splits 'first', 'second' trains"):
        prepare(str(tmp_path / "mine"), root=tmp_path / "root", options=STAYS)
    asked = PrepareOptions(in_place=True, train_split="first", val_split="second")
    report = prepare(str(tmp_path / "mine"), root=tmp_path / "root", options=asked)
    assert report.prepared.roles == {"train": "first", "val": "second"}
    assert [len(index.records) for index in report.indexes] == [6, 3]


IMAGE = jpeg(99)
WRONG: dict[str, tuple[Files, str]] = {
    "no label": ({"1.jpg": IMAGE}, r"sample '1' has no label, expected one: 1\.cls, or \"label\" in 1\.json"),
    "an empty label": ({"1.jpg": IMAGE, "1.cls": b" "}, r"'1\.cls' is no label: expected a number from 0 on or a name"),
    "two labels": (
        {"1.jpg": IMAGE, "1.cls": b"ant", "1.json": b'{"label": "bee"}'},
        r"has two labels \('ant', 'bee'\)",
    ),
    "a label that is none": ({"1.jpg": IMAGE, "1.json": b'{"label": [1]}'}, r"'1\.json' is no label: .* not \[1\]"),
    "no JSON": ({"1.jpg": IMAGE, "1.json": b"{"}, r"'1\.json' is no label: no valid JSON in line 1"),
    "no text": ({"1.jpg": IMAGE, "1.cls": b"\xff"}, r"'1\.cls' is no label: it is not UTF-8 text"),
    "two images": (
        {"1.jpg": IMAGE, "1.png": IMAGE, "1.cls": b"ant"},
        r"'1' has 2 images \(1\.jpg, 1\.png\), expected one",
    ),
    "no image": ({"1.cls": b"ant"}, "sample '1' has no image, expected one"),
    "one key twice": (
        {"1.jpg": IMAGE, "1.cls": b"ant", "2.jpg": IMAGE, "2.cls": b"ant", "1.txt": b"?"},
        "sample '1' comes twice, with others between",
    ),
    "nothing": ({"readme": b"?"}, "holds no samples; move it out of the folder"),
    "a way out": ({"../1.jpg": IMAGE}, r"member '\.\./1\.jpg' leads out of the folder"),
    "numbers and names": (
        {"1.jpg": IMAGE, "1.cls": b"7"},
        r"labels are numbers and names \('cat' of .* and 7 of train-9/1",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_sample_is_refused_and_the_set_stays(kind: str, tmp_path: Path) -> None:
    source, root = shards(tmp_path / "mine"), tmp_path / "root"
    prepare(str(source), root=root, options=STAYS)
    before = [read(index) for index in indexes(root)]
    files, words = WRONG[kind]
    tree(source, {"train-9.tar": tar(files)})
    with pytest.raises(DataError, match=words) as error:
        prepare(str(source), root=root, options=STAYS)
    assert "train-9" in str(error.value)
    assert "\n" not in str(error.value)
    assert [read(index) for index in indexes(root)] == before


def test_a_class_that_does_not_train_is_refused(tmp_path: Path) -> None:
    for label, shown in ((named, "'cat'"), (numbered, "2")):
        one = {"train-0.tar": tar(samples(0, 2, label)), "val-0.tar": tar(samples(0, 3, label))}
        source = tree(tmp_path / label.__name__, one)
        with pytest.raises(DataError, match=rf"val-0/000002\.jpg is of class {shown}, which is none of the 2 classes"):
            prepare(str(source), root=tmp_path / "root", options=STAYS)
        assert not (tmp_path / "root").exists()


def test_compressed_shards_are_refused_by_name(tmp_path: Path) -> None:
    packed = tar(samples(0, 2, named), "w:gz")
    for name, words in (
        ("train-0.tar.gz", r"train-0\.tar\.gz is compressed"),
        ("train-0.tar", r"'000000\.jpg' is compre"),
    ):
        source = tree(tmp_path / name, {name: packed})
        with pytest.raises(DataError, match=words):
            prepare(str(source), root=tmp_path / "root", options=STAYS)


def test_a_set_that_cannot_be_finished_leaves_no_list_of_members(tmp_path: Path) -> None:
    source = tree(tmp_path / "mine", {"train-0.tar": tar({"1.jpg": b"no image", "1.cls": b"ant"})})
    with pytest.raises(DataError, match=r"broken: image .*train-0/1\.jpg cannot be read"):
        prepare(str(source), root=tmp_path / "root", options=PrepareOptions(in_place=True, verify=True))
    assert not (tmp_path / "root").exists()
    shards(source)
    (source / "train-0.tar").unlink()
    prepare(str(source), root=tmp_path / "root", options=STAYS)
    before = [read(index) for index in indexes(tmp_path / "root")]
    tree(source, {"train-2.tar": tar({"1.jpg": b"no image", "1.cls": b"ant"})})
    with pytest.raises(DataError, match="broken"):
        prepare(str(source), root=tmp_path / "root", options=PrepareOptions(in_place=True, verify=True))
    assert [read(index) for index in indexes(tmp_path / "root")] == before


def test_shards_are_trained_on_seen_and_refused_where_they_changed(tmp_path: Path) -> None:
    source, root = shards(tmp_path / "mine"), ("--data-root", tmp_path / "root")
    assert "add --in-place" in attnbias("prepare-data", source, *root, expect=3).line
    assert "would be listed" in attnbias("prepare-data", source, *root, "--in-place", "--dry-run", expect=3).line
    shown = attnbias("prepare-data", source, *root, "--in-place", expect=0).out
    assert "archive read in place, not unpacked: 3" in shown
    small = ("--recipe", "demo", "--epochs", 1, "--batch-size", 6, "--image-size", 32, "--gpus", 0, "--threads", 1)
    attnbias("train", "csra", "--dataset", "mine", *root, *small, "--workers", 1, "--out", tmp_path / "run", expect=0)
    scored = ("val", "csra", "--load-from", tmp_path / "run", *root, "--gpus", 0)
    (result,) = json.loads(attnbias(*scored, "--json", "-", expect=0).out)
    assert (result["dataset"], result["samples"]) == ("mine", 6)
    drawn = ("visualize", "csra", "--load-from", tmp_path / "run", *root, "--split", "val", "--limit", 2, "--gpus", 0)
    attnbias(*drawn, "--out", tmp_path / "seen", expect=0)
    assert [*(tmp_path / "seen").rglob("*.png")]
    tree(source, {"val-000000.tar": tar(samples(0, 6, named))})
    members._members.cache_clear()  # as in a new process
    refused = attnbias(*scored, expect=3).line
    assert "val-000000.tar is not the archive whose images were listed" in refused
