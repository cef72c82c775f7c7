"""Which split trains and which one evaluates: by its name whatever the case, by a flag, or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.splits import assign_roles, hold_out, part_named
from tests.helpers.command_line import attnbias


def images(folder: Path, count: int = 12) -> list[str]:
    """Names of so many different images in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{k}.png" for k in range(count)]
    for k, name in enumerate(names):
        Image.new("RGB", (32, 32), (k * 20, 90, 20)).save(folder / name)
    return names


def table(folder: Path, trains: str, evaluates: str) -> Path:
    """A CSV of 12 images, whose first 4 rows are for evaluation."""
    rows = [
        f"{name},{'ab'[k % 2]},{evaluates if k < 4 else trains}" for k, name in enumerate(images(folder / "images"))
    ]
    path = folder / "mine.csv"
    path.write_text("path,label,split\n" + "".join(f"images/{row}\n" for row in rows))
    return path


def coco(folder: Path, trains: str, evaluates: str) -> Path:
    """The same in COCO layout."""
    names = images(folder / "mine" / "images")
    (folder / "mine" / "annotations").mkdir()
    for split, numbers in ((evaluates, range(4)), (trains, range(4, 12))):
        content = {
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "images": [{"id": k, "file_name": names[k]} for k in numbers],
            "annotations": [{"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [1, 1, 9, 9]} for k in numbers],
        }
        (folder / "mine" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder / "mine"


def class_folders(folder: Path, trains: str, evaluates: str) -> Path:
    """The same as a folder for each split and class."""
    for split, count in ((evaluates, 2), (trains, 4)):
        for name in ("a", "b"):
            images(folder / "mine" / split / name, count)
    return folder / "mine"


def label_maps(folder: Path, trains: str, evaluates: str) -> Path:
    """The same as images beside label maps."""
    for split, count in ((evaluates, 4), (trains, 8)):
        for name in images(folder / "mine" / "images" / split, count):
            path = folder / "mine" / "labels" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), 1).save(path)
    return folder / "mine"


@pytest.mark.parametrize("kind", [table, coco, class_folders, label_maps])
@pytest.mark.parametrize(
    ("trains", "evaluates"),
    [
        ("train", "test"),
        ("training", "validation"),
        ("Train", "Val"),
        ("TRAIN", "dev"),
        ("train2017", "val2017"),
        ("trainset", "hold-out"),
        ("trainval", "eval"),
        ("my_split", "valid"),
    ],
)
def test_each_reader_gives_the_rows_for_training_to_training(
    kind: Callable[[Path, str, str], Path], trains: str, evaluates: str, tmp_path: Path
) -> None:
    report = prepare(str(kind(tmp_path, trains, evaluates)), root=tmp_path / "root")
    found = {role: len(open_split("mine", role, tmp_path / "root").records) for role in ("train", "val")}
    assert found == {"train": 8, "val": 4}, report.prepared.roles


@pytest.mark.parametrize(
    ("splits", "roles"),
    [
        ("test train val", ("train", "val")),
        ("dev test train", ("train", "dev")),
        ("train test-dev2017", ("train", "test-dev2017")),
        ("train train_small validation", ("train", "validation")),
        ("pets-train pets-val pets-test", ("pets-train", "pets-val")),
        ("a val", ("a", "val")),
        ("train b", ("train", "b")),
        ("val test", (None, "val")),
        ("trainset_v2_final testset_v2_final", ("trainset_v2_final", "testset_v2_final")),
        ("a unlabeled val", ("a", "val")),
        ("anything", ("anything", "anything")),
    ],
)
def test_names_decide(splits: str, roles: tuple[str | None, str]) -> None:
    for order in (splits.split(), splits.split()[::-1]):
        found = assign_roles(order)
        assert (found.get("train"), found["val"]) == roles


@pytest.mark.parametrize(
    ("splits", "flag"),
    [
        ("a b", "--train-split"),
        ("train2014 train2017 val", "--train-split"),
        ("a b val", "--train-split"),
        ("train val valid", "--val-split"),
        ("train a b", "--val-split"),
        ("train test a", "--val-split"),
        ("train unlabelled", "--val-split"),
        ("train extra", "--val-split"),
    ],
)
def test_what_names_do_not_decide_is_refused_with_the_flag_that_does(splits: str, flag: str) -> None:
    with pytest.raises(DataError, match=rf"which of the splits .* with {flag} NAME"):
        assign_roles(splits.split())


def test_a_flag_decides_and_no_split_plays_two_parts_beside_a_free_one() -> None:
    assert assign_roles(["a", "b"], train="b") == {"train": "b", "val": "a"}
    assert assign_roles(["train", "val", "test"], val="test") == {"train": "train", "val": "test"}
    with pytest.raises(DataError, match="cannot train and evaluate"):
        assign_roles(["a", "b"], train="a", val="a")
    with pytest.raises(DataError, match="--val-split c: no such split; found: a, b"):
        assign_roles(["a", "b"], val="c")


def test_a_class_named_like_a_split_is_a_class(tmp_path: Path) -> None:
    for name in ("train", "car", "bus"):
        images(tmp_path / "vehicles" / name, 2)
    report = prepare(str(tmp_path / "vehicles"), root=tmp_path / "root")
    assert [index.classes for index in report.indexes] == [("bus", "car", "train")]


@pytest.mark.parametrize("names", [("Treino", "Teste"), ("learn", "check")])
def test_folders_that_may_be_splits_in_other_words_are_said_to_be_taken_for_classes(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for number, (split, label) in enumerate(product(names, ("cat", "dog"))):
        (tmp_path / "own" / split / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "own" / split / label / "0.png")
    source = str(tmp_path / "own")
    (said, _) = prepare(source, root=tmp_path / "root").warnings
    assert "are taken for classes, and all hold the same folders (cat, dog)" in said
    assert "--train-split NAME and --val-split NAME" in said
    options = PrepareOptions(train_split=names[0], val_split=names[1])
    told = prepare(source, root=tmp_path / "told", options=options)
    assert told.prepared.roles == {"train": names[0], "val": names[1]}
    assert told.indexes[0].classes == ("cat", "dog")
    assert not told.warnings
    contexts = PrepareOptions(settings={"contexts": "below"})
    assert not [
        said for said in prepare(source, root=tmp_path / "groups", options=contexts).warnings if "taken" in said
    ]


def test_words_within_a_name_count_where_they_agree() -> None:
    assert part_named("myTrainImages") == "train"
    assert part_named("train_without_val") is None
    assert part_named("contest") is None
    assert part_named("test tube", whole=True) is None


def index_of(labels: list[list[int]], classes: int, copies: int = 1) -> Index:
    """Samples with these labels, `copies` of each file."""
    records = tuple(
        Record(f"{k}.png", tuple(int(label in own) for label in range(classes)))
        for k, own in enumerate(labels)
        for _ in range(copies)
    )
    return Index("mine", "all", "multilabel", tuple("abcdef"[:classes]), Path(), records)


def test_a_held_out_part_is_seeded_stratified_and_cut_by_file() -> None:
    labels = [[0]] * 50 + [[1]] * 10 + [[0, 2]] * 20 + [[]] * 20
    index = index_of(labels, 3, copies=3)
    train, val = hold_out(index, 0.2, 7, ("train", "val"))
    assert (train.split, val.split) == ("train", "val")
    assert not {record.path for record in train.records} & {record.path for record in val.records}
    assert sorted((*train.records, *val.records)) == sorted(index.records)
    counts = Counter(label for record in val.records for label, positive in enumerate(record.target) if positive)
    assert {label: count / 3 for label, count in counts.items()} == pytest.approx({0: 14, 1: 2, 2: 4}, abs=1)
    assert hold_out(index, 0.2, 7, ("train", "val")) == (train, val)
    assert hold_out(index, 0.2, 8, ("train", "val")) != (train, val)


def test_a_held_out_part_leaves_training_a_file_of_each_label() -> None:
    labels = [[0]] + [[1]] * 2 + [[2]] * 9
    for seed in range(20):
        train, _ = hold_out(index_of(labels, 3), 0.5, seed, ("train", "val"))
        assert {label for record in train.records for label, positive in enumerate(record.target) if positive} == {
            0,
            1,
            2,
        }
    with pytest.raises(DataError, match="each label needs a file"):
        hold_out(index_of([[0], [1]], 2), 0.5, 0, ("train", "val"))


def test_val_fraction_divides_the_training_split_and_is_kept_with_the_set(tmp_path: Path) -> None:
    path, root = table(tmp_path, "train", "test"), tmp_path / "root"
    report = prepare(str(path), root=root, options=PrepareOptions(val_fraction=0.25))
    assert {index.split: len(index.records) for index in report.indexes} == {"train": 6, "val": 2, "test": 4}
    assert report.prepared.roles == {"train": "train", "val": "val"}
    assert report.prepared.settings == {"val_fraction": 0.25, "val_seed": 0}
    with pytest.raises(DataError, match=r"was prepared with val_fraction 0\.25, val_seed 0; add --overwrite"):
        prepare(str(path), root=root)
    other = table(tmp_path / "other", "train", "dev")
    with pytest.raises(DataError, match="split 'dev' is there for that"):
        prepare(str(other), root=tmp_path / "second", options=PrepareOptions(val_fraction=0.25))


def test_a_run_says_that_it_evaluates_on_what_it_trains_on(tmp_path: Path) -> None:
    path = table(tmp_path, "all", "all")
    run = ["train", "csra", "--recipe", "demo", "--dataset", "mine", "--gpus", 0]
    run += ["--batch-size", 4, "--image-size", 32, "--epochs", 1, "--data-root", tmp_path / "root"]
    for options, warned in ((PrepareOptions(), True), (PrepareOptions(val_fraction=0.25, overwrite=True), False)):
        report = prepare(str(path), root=tmp_path / "root", options=options)
        assert any("only one split, 'all'" in warning for warning in report.warnings) == warned
        out = tmp_path / f"run-{warned}"
        done = attnbias(*run, "--out", out, expect=0)
        assert ("evaluates on what it trains on, split 'all' of 'mine'" in done.out) == warned, done.out
        stored = json.loads((out / "environment.json").read_text())["data"]
        assert stored["evaluates_on_training_data"] == warned
        assert stored["evaluated"] == {"val": "all" if warned else "val"}
