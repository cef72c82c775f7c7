"""Files that are read back: whatever a person or an accident made of them, the answer is one line that names it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record, Text
from attnbias.data.prepared import MANIFEST, Prepared
from attnbias.data.reading import LARGEST, Unfit, read_json, reading


def refused(read: Callable[[Path], Any], path: Path) -> str:
    """What is said of a file; it names the file, and is one short line."""
    begun = time.monotonic()
    with pytest.raises(DataError) as caught:
        read(path)
    said = str(caught.value)
    assert str(path) in said
    assert len(said.splitlines()) == 1
    assert len(said) < len(str(path)) + 400
    assert said.isprintable()
    assert time.monotonic() - begun < 5
    return said


def read(path: Path) -> Any:
    with reading(path, "mend it"):
        return read_json(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b'{"a": 1', "no valid JSON in line 1"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "key 'a' stands there twice"),
        (b'{"a": {"b": 1, "b": 2}}', "key 'b' stands there twice"),
        (b"9" * 5000, "too many digits"),
        (b'"\\u0000"', "holds a NUL"),
        (b'{"\\u0000": 1}', "holds a NUL"),
        (b'"\\ud800"', "half a character"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8"),
        ('"grün"'.encode("latin-1"), "not UTF-8"),
        (b"\x00" * 100, "no valid JSON"),
        (b"{} {}", "no valid JSON"),
    ],
)
def test_json_that_is_none_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert words in refused(read, path)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),  # an editor's byte-order mark
        ('"grün 鳥 🐦"'.encode(), "grün 鳥 🐦"),
        (b'"\\ud83d\\udc26"', "🐦"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"caf\\udce9.jpg"', os.fsdecode(b"caf\xe9.jpg")),  # a file's name in another encoding
    ],
)
def test_json_of_any_language_is_read(content: bytes, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert read(path) == value


def test_a_number_that_is_too_large_for_what_it_is_is_damage(tmp_path: Path) -> None:
    damaged = pytest.raises(DataError, match=r"table.csv is damaged \(.*\); write it again")
    with damaged, reading(tmp_path / "table.csv", "write it again"):
        np.array(["1" * 40]).astype(np.int64)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "loop", "device"):
        refused(read, tmp_path / name)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is needed
    assert f"larger than {LARGEST >> 20} MB" in refused(read, tmp_path / "huge")


def test_as_large_a_file_is_read_as_its_reader_says(tmp_path: Path) -> None:
    """A file of annotations may be larger than others."""
    path = tmp_path / "many.json"
    path.write_bytes(b"[1]".ljust(LARGEST + 1))
    assert read_json(path, LARGEST + 1) == [1]
    with pytest.raises(Unfit, match="larger than 64 MB"):
        read_json(path)


# The index ------------------------------------------------------------------------------------------------------------

GOOD = {
    "multilabel": Record("1.jpg", (1, 0, -1), (Box(2, 0, 0.5, 3, 4, True),), (0, 0, 5.5, 5), 7, "group"),
    "singlelabel": Record("1.jpg", 2),
    "segmentation": Record("1.jpg", 0, label_map="1.png"),
    "vqa": Record("1.jpg", 0, text=Text("why?", ((0, 1.0), (2, 0.3)), None, "9")),
    "nlvr2": Record("1.jpg", 1, text=Text("both", (), "2.jpg")),
}


def index_file(task: Any, folder: Path) -> tuple[Path, Index]:
    path = folder / "set" / "index" / "val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    index = Index("set", "val", task, ("a", "b", "c"), Path("/images"), (GOOD[task],) * 3)
    index.write(path)
    return path, index


def edited(path: Path, way: tuple[Any, ...], value: Any) -> None:
    content = json.loads(path.read_text())
    place = content
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("task", GOOD)
def test_an_index_is_read_as_it_was_written(task: str, tmp_path: Path) -> None:
    path, index = index_file(task, tmp_path)
    assert Index.read(path) == index


@pytest.mark.parametrize(
    ("task", "way", "value", "words"),
    [
        ("multilabel", (0,), None, "record 2: the path is None"),
        ("multilabel", (0,), "", "record 2: the path is empty"),
        ("multilabel", (1,), [1, 0], "record 2: the target is [1, 0], expected 3 labels, one a class"),
        ("multilabel", (1, 1), 2, "record 2: a label is 2, expected 1, 0 or -1"),
        ("multilabel", (1, 1), True, "record 2: a label is True"),
        ("multilabel", (1, 1), 1.0, "record 2: a label is 1.0"),
        ("multilabel", (1, 1), [1], "record 2: a label is [1]"),
        ("multilabel", (1,), 1, "record 2: the target is 1"),
        ("singlelabel", (1,), 3, "record 2: the target is 3, expected a class from 0 to 2"),
        ("singlelabel", (1,), -1, "record 2: the target is -1"),
        ("singlelabel", (1,), 10**30, "record 2: the target is 1000"),
        ("segmentation", (1,), 1, "record 2: the target is 1, expected 0"),
        ("multilabel", (2, 0, 0), 3, "record 2: a box's label is 3, expected a class from 0 to 2"),
        ("multilabel", (2, 0, 1), float("nan"), "record 2: a box's x is nan"),
        ("multilabel", (2, 0, 2), float("inf"), "record 2: a box's y is inf"),
        ("multilabel", (2, 0, 3), -1, "record 2: a box's width is -1"),
        ("multilabel", (2, 0, 4), 10**400, "record 2: a box's height is 1000"),
        ("multilabel", (2, 0), [1, 2], "record 2: a box is [1, 2]"),
        ("multilabel", (2,), None, "record 2: the list of boxes is None"),
        ("multilabel", (3, 3), "5", "record 2: the crop's height is '5'"),
        ("multilabel", (4,), 1.5, "record 2: the image id is 1.5"),
        ("multilabel", (5,), 3, "record 2: the group is 3"),
        ("segmentation", (6,), ["1.png"], "record 2: the label map is ['1.png']"),
        ("vqa", (7, 1, 1, 0), 3, "record 2: an answer is 3"),
        ("vqa", (7, 1, 1, 1), 1.5, "record 2: an answer's score is 1.5"),
        ("vqa", (7, 0), None, "record 2: the sentence is None"),
        ("nlvr2", (7, 2), 5, "record 2: the second path is 5"),
        ("nlvr2", (7,), ["x"], "record 2: the text is ['x']"),
    ],
)  # fmt: skip
def test_the_first_wrong_record_is_named(
    task: str, way: tuple[Any, ...], value: Any, words: str, tmp_path: Path
) -> None:
    path, _ = index_file(task, tmp_path)
    edited(path, ("records", 2, *way), value)
    said = refused(Index.read, path)
    assert words in said
    assert said.endswith("run prepare-data again")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 1),
        ("format", "2"),
        ("dataset", None),
        ("task", "detection"),
        ("classes", []),
        ("classes", [1, 2, 3]),
        ("classes", ["a", "b"]),
        ("classes", "abc"),
        ("classes", [str(number) for number in range(1_000_000)]),
        ("root", 5),
        ("annotations", ["x"]),
        ("label_values", [1, 2]),
        ("label_values", [256] * 256),
        ("orientation", "sideways"),
        ("records", []),
        ("records", {}),
        ("records", ["x"]),
        ("records", [[]]),
        ("strange", 1),
    ],
)
def test_a_wrong_header_is_named(name: str, value: Any, tmp_path: Path) -> None:
    path, _ = index_file("multilabel", tmp_path)
    edited(path, (name,), value)
    refused(Index.read, path)


@pytest.mark.parametrize("name", ["format", "dataset", "split", "task", "classes", "root", "records"])
def test_a_header_that_lacks_something_is_named(name: str, tmp_path: Path) -> None:
    path, _ = index_file("multilabel", tmp_path)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    assert name in refused(Index.read, path)


# The manifest of a set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", 5),
        ("splits", []),
        ("splits", "train"),
        ("splits", [1]),
        ("splits", ["train", "../../x"]),
        ("roles", []),
        ("roles", {"train": "gone"}),
        ("roles", {"train": 1}),
        ("source", 5),
        ("settings", []),
        ("remarks", {"a": {"count": "x", "first": []}}),
        ("strange", 1),
    ],
)
def test_a_wrong_manifest_is_named(name: str, value: Any, tmp_path: Path) -> None:
    Prepared(dataset="set", splits=("train", "val"), roles={"train": "train", "val": "val"}).write(tmp_path)
    edited(tmp_path / MANIFEST, (name,), value)
    said = refused(lambda path: Prepared.read(path.parent), tmp_path / MANIFEST)
    assert name[:-1] in said


def test_a_manifest_keeps_names_in_any_encoding(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    remarks: Any = {"left out": {"count": 1, "first": [name]}}
    prepared = Prepared(dataset=name, splits=("val",), roles={"val": "val"}, source=name, remarks=remarks)
    prepared.write(tmp_path)
    assert Prepared.read(tmp_path) == prepared
