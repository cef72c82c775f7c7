"""The index format: what is written is what is read, whole or refused by name; labels equal a plain recount."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record, Text
from attnbias.data.sets.coco import read_coco
from attnbias.data.summary import summarize

numbers = st.floats(-50, 500, width=32) | st.integers(-50, 500)
sides = st.floats(0, 500, width=32) | st.integers(0, 500)


def texts(min_size: int = 0, max_size: int | None = None) -> st.SearchStrategy[str]:
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(letters, min_size=min_size, max_size=max_size)


def paths() -> st.SearchStrategy[str]:
    return texts(min_size=1, max_size=12).filter(lambda path: not path.startswith("/"))


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    classes = draw(st.integers(1, 5))
    several = draw(st.booleans())
    targets = st.tuples(*[st.sampled_from([1, 0, -1])] * classes) if several else st.integers(0, classes - 1)
    columns = draw(st.lists(texts(min_size=1, max_size=5), max_size=2, unique=True))
    boxes = st.builds(Box, st.integers(0, classes - 1), numbers, numbers, sides, sides, st.booleans(), st.booleans())
    records = st.builds(
        Record,
        path=paths(),
        target=targets,
        boxes=st.lists(boxes, max_size=3).map(tuple),
        crop=st.none() | st.tuples(numbers, numbers, sides, sides),
        image_id=st.none() | st.integers(0, 10**9),
        group=st.none() | texts(max_size=5),
        label_map=st.none() | paths(),
        metadata=st.tuples(*[texts(max_size=5)] * len(columns)),
        text=st.none()
        | st.builds(
            Text,
            sentence=texts(),
            answers=st.lists(st.tuples(st.integers(0, classes - 1), st.floats(0, 1)), max_size=3).map(tuple),
            second_path=st.none() | paths(),
            identifier=st.none() | texts(),
        ),
    )
    return Index(
        dataset="some",
        split="train",
        task="multilabel" if several else "singlelabel",
        classes=tuple(f"class {k}" for k in range(classes)),
        root=Path("/pictures"),
        records=tuple(draw(st.lists(records, min_size=1, max_size=6))),
        annotations=draw(st.none() | st.just(Path("/elsewhere/instances.json"))),
        metadata=tuple(columns),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(index=indexes())
def test_what_is_written_is_what_is_read(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "some" / "index" / "train.json"
    index.write(path)
    first = path.read_bytes()
    assert Index.read(path) == index
    Index.read(path).write(path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["train.json"]


@st.composite
def coco_files(draw: st.DrawFn) -> dict[str, list[dict[str, object]]]:
    images = draw(st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True))
    categories = draw(st.lists(st.integers(1, 90), min_size=1, max_size=5, unique=True))
    boxes = st.lists(st.floats(0, 90, width=32), min_size=4, max_size=4)
    annotation = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(images),
            "category_id": st.sampled_from(categories),
            "bbox": boxes,
            "iscrowd": st.integers(0, 1),
        }
    )
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in images],
        "categories": [{"id": category, "name": f"c{category}"} for category in categories],
        "annotations": draw(st.lists(annotation, max_size=12)),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(content=coco_files(), by_id=st.booleans())
def test_labels_equal_a_plain_recount(content: dict[str, list[dict[str, object]]], by_id: bool, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    index = read_coco(path, tmp_path, class_order="id" if by_id else "file")
    order = [category["id"] for category in content["categories"]]
    order = sorted(order) if by_id else order
    assert index.classes == tuple(f"c{category}" for category in order)
    assert [record.image_id for record in index.records] == sorted(image["id"] for image in content["images"])
    for record in index.records:
        mine = [one for one in content["annotations"] if one["image_id"] == record.image_id]
        assert record.target == tuple(int(any(one["category_id"] == c for one in mine)) for c in order)
        assert [order[box.label] for box in record.boxes] == [one["category_id"] for one in mine]
        assert [list(box[1:5]) for box in record.boxes] == [one["bbox"] for one in mine]
        assert [box.crowd for box in record.boxes] == [bool(one["iscrowd"]) for one in mine]
    summary = summarize(index)
    assert summary.labels == sum(sum(record.target) for record in index.records)
    assert summary.unlabelled == sum(not any(record.target) for record in index.records)
    assert summary.boxes == len(content["annotations"])


def test_classes_and_groups_that_come_together_are_found_in_either_task() -> None:
    single = [Record(f"{k}.jpg", k % 2, group="water" if k % 10 else "land") for k in range(40)]
    single += [Record(f"{k}.jpg", 2, group="land") for k in range(40, 60)]
    several = [record._replace(target=tuple(int(k == record.target) for k in range(3))) for record in single]
    for task, records in (("singlelabel", single), ("multilabel", several)):
        summary = summarize(Index("some", "train", task, ("a", "b", "c"), Path("/pictures"), tuple(records)))
        best = summary.pairs[0]
        assert (best.first, best.second, best.given_first, best.given_second) == ("c", "land", 1.0, 20 / 24)
        both = np.array([(record.group == "land", record.target == 2) for record in single], dtype=float)
        assert best.correlation == pytest.approx(np.corrcoef(both.T)[0, 1])
        assert {pair.second for pair in summary.pairs} == {"land", "water"}
        assert summary.labels == 60


def test_a_set_inside_its_own_folder_can_be_moved(tmp_path: Path) -> None:
    old = tmp_path / "old" / "demo"
    index = Index("demo", "val", "multilabel", ("a",), old / "images", (Record("1.jpg", (1,)),), old / "a.json")
    index.write(old / "index" / "val.json")
    old.rename(tmp_path / "demo")
    moved = Index.read(tmp_path / "demo" / "index" / "val.json")
    assert (moved.root, moved.annotations) == (tmp_path / "demo" / "images", tmp_path / "demo" / "a.json")


@pytest.mark.parametrize("path", ["/etc/1.jpg", "//1.jpg", "../../x.jpg", "a/../../../x.jpg", "a/../.."])
@pytest.mark.parametrize("field", ["path", "label_map", "second"])
def test_no_path_leads_out_of_a_set_in_its_own_folder_nor_is_absolute(tmp_path: Path, path: str, field: str) -> None:
    """A table of one's own may list images beside its folder; a folder that is passed on holds all that it names."""
    given = {"label_map": {"label_map": path}, "second": {"text": Text("", second_path=path)}, "path": {}}[field]
    record = Record(path if field == "path" else "1.jpg", 0, **given)
    for root in (tmp_path / "set", tmp_path / "elsewhere"):
        index = Index("set", "val", "singlelabel", ("a",), root, (Record("1.jpg", 0), record))
        index.write(tmp_path / "set" / "index" / "val.json")
        if root.name == "elsewhere" and not path.startswith("/"):
            assert Index.read(tmp_path / "set" / "index" / "val.json").records == index.records
            continue
        with pytest.raises(DataError, match=r"record 1: the (.*path|label map)") as refused:
            Index.read(tmp_path / "set" / "index" / "val.json")
        assert repr(path) in str(refused.value)


@pytest.mark.parametrize("field", ["root", "annotations"])
def test_no_header_leads_out_of_the_datasets_folder(tmp_path: Path, field: str) -> None:
    path = tmp_path / "set" / "index" / "val.json"
    Index("set", "val", "multilabel", ("a",), tmp_path / "set", (Record("1.jpg", (1,)),)).write(path)
    content = json.loads(path.read_text()) | {field: "images/../../other"}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"'{field}' is 'images/../../other': expected an absolute path, or"):
        Index.read(path)


@pytest.mark.parametrize("keep", [0, 0.3, 0.99])
def test_a_truncated_index_is_refused_by_name(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "demo" / "index" / "val.json"
    Index("demo", "val", "multilabel", ("a",), tmp_path, (Record("1.jpg", (1,)),) * 5).write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=rf"{path} is damaged .*run prepare-data again"):
        Index.read(path)


def test_a_write_that_fails_leaves_the_old_index_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "index" / "val.json"
    good = Index("demo", "val", "multilabel", ("a",), tmp_path, (Record("1.jpg", (1,)),))
    good.write(path)
    unwritable = Record("2.jpg", (1,), group=b"no text")
    with pytest.raises(TypeError):
        Index("demo", "val", "multilabel", ("a",), tmp_path, (unwritable,)).write(path)
    assert Index.read(path) == good
    assert list(path.parent.iterdir()) == [path]


def test_tens_of_thousands_of_rare_classes_take_no_table_of_all_their_pairs() -> None:
    names = tuple(map(str, range(40_000)))
    target = tuple(int(label in (7, 9, 20_000)) for label in range(len(names)))
    others = tuple(int(label == 11) for label in range(len(names)))
    records = tuple(Record(f"{number}.jpg", target if number < 6 else others) for number in range(9))
    summary = summarize(Index("some", "train", "multilabel", names, Path("/pictures"), records))
    assert [(pair.first, pair.second) for pair in summary.pairs] == [("7", "9"), ("7", "20000"), ("9", "20000")]
    assert len(summary.absent) == len(names) - 4
