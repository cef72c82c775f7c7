"""A person's own tables, of every kind that spreadsheets write; and what a set may be called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.names import unfit_name
from attnbias.data.prepare import Report, prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.command_line import attnbias

NAMES = [f"p/sub dir/é{k}.png" for k in range(4)]
ROWS = [(name, "ab"[k % 2]) for k, name in enumerate(NAMES)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with four images."""
    for k, name in enumerate(NAMES):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (k * 40, 90, 20)).save(path)
    return tmp_path


def read(home: Path, text: str, encoding: str = "utf-8") -> Report:
    (home / "t.csv").write_bytes(text.encode(encoding))
    return prepare(str(home / "t.csv"), root=home / "root")


def seen(index: Index) -> list[tuple[str, str]]:
    """(path, class) of each sample with one label."""
    return [(record.path, index.classes[int(str(record.target))]) for record in index.records]


def rows(form: str, end: str = "\n") -> str:
    return "".join(form.format(name, label) + end for name, label in ROWS)


@pytest.mark.parametrize(
    ("text", "encoding", "remarks"),
    [
        ("path,label\r\n" + rows('"{}",{}', "\r\n"), "utf-8-sig", []),
        ("path,label\r" + rows("{},{}", "\r"), "utf-8", []),
        ("path;label\n" + rows("{};{}"), "utf-8", ["table whose values are separated by semicolons"]),
        ("path\tlabel\n" + rows("{}\t{}"), "utf-8", ["table whose values are separated by tabs"]),
        ("path , label\n" + rows(" {} , {} "), "utf-8", []),
        ("Path,LABEL\n" + rows("{},{}"), "utf-8", []),
        (",label,path,note\n" + rows('7,{1},{0},"x, y"'), "utf-8", ["column kept as metadata of the images"]),
        ("Filename,class\n" + rows("{},{}"), "utf-8", ["column read as 'path'", "column read as 'label'"]),
        ("path,label\n\n,\n" + rows("{},{}") + "\n\n", "utf-8", ["row without any value, left out"]),
        ("path,label,image\n" + rows("{},{},x"), "utf-8", ["column kept as metadata of the images"]),
        ("path,label,split\n" + rows("{},{},"), "utf-8", []),
    ],
)
def test_every_kind_of_table_gives_the_same_samples_and_says_what_it_is(
    text: str, encoding: str, remarks: list[str], home: Path
) -> None:
    report = read(home, text, encoding)
    assert seen(report.indexes[0]) == ROWS
    assert list(report.prepared.remarks) == remarks


def test_further_columns_stay_beside_each_image_and_a_table_without_them_is_stored_as_before(home: Path) -> None:
    text = "path,site,label,night shift,\n" + "".join(
        f"{name},s{k},{label},,9\n" for k, (name, label) in enumerate(ROWS)
    )
    report = read(home, text)
    assert report.prepared.remarks["column kept as metadata of the images"]["count"] == 2
    stored = Index.read(home / "root" / "t" / "index" / "train.json")
    assert (stored, stored.metadata) == (report.indexes[0], ("site", "night shift"))
    assert [record.metadata for record in stored.records] == [(f"s{k}", "") for k in range(4)]
    bare = read(home, "path,label\n" + rows("{},{}")).indexes[0]
    assert bare.metadata == ()
    content = json.loads((home / "root" / "t" / "index" / "train.json").read_text())
    assert "metadata" not in content
    assert {len(record) for record in content["records"]} == {8}


@pytest.mark.parametrize("metadata", [None, "s", ["s"], ["s", 3], ["s", "t", "u"]])
def test_metadata_that_do_not_fit_their_columns_are_refused(home: Path, metadata: object) -> None:
    read(home, "path,label,site,camera\n" + rows("{},{},north,a"))
    file = home / "root" / "t" / "index" / "train.json"
    content = json.loads(file.read_text())
    content["records"][2][8] = metadata
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="record 2: "):
        Index.read(file)


def test_the_group_of_a_row_goes_into_the_index_and_an_empty_one_is_none(home: Path) -> None:
    read(home, f"path,label,group\n{NAMES[0]},a,day\n{NAMES[1]},b,\n")
    stored = open_split("t", "train", home / "root")
    assert [record.group for record in stored.records] == ["day", None]


@pytest.mark.parametrize(
    ("text", "encoding", "reason"),
    [
        ("path,label\np/1.png,a\n", "utf-16", "is UTF-16, expected UTF-8"),
        ("path,label\np/1.png,a\n", "utf-16-le", "is not text, expected UTF-8"),
        ("path,label\np/1.png,a\np/é.png,a\n", "latin-1", r"t\.csv:3: no UTF-8"),
        ("path,label\np/1.png,a,b\n", "utf-8", r"t\.csv:2: expected 2 values, found 3"),
        ("path,label\np/1.png,a\np/2.png\n", "utf-8", r"t\.csv:3: expected 2 values, found 1"),
        ("path,label\np/1.png, \n", "utf-8", r"t\.csv:2: p/1\.png has no label"),
        ("path,label,label\np/1.png,a,b\n", "utf-8", "several columns for 'label'"),
        ("path,label,tint,tint\np/1.png,a,1,2\n", "utf-8", "several columns 'tint'; keep one of them"),
        ("file,image,label\np/1.png,p/1.png,b\n", "utf-8", "several columns for 'path'"),
        ("path,class,tags\np/1.png,a,b\n", "utf-8", "keep one of them"),
        ("path,label,split\np/1.png,a,train\np/2.png,a,\n", "utf-8", r"t\.csv:3: p/2\.png has no split"),
        ('path,label\n"p/1.png,a\n', "utf-8", "is a quote missing"),
        (f"path,label\np/1.png,{'a' * 200_000}\n", "utf-8", r"t\.csv:2: field larger than field limit"),
        ("path,labels\np/1.png,\n", "utf-8", "no row has a label"),
        ("path,label,split\np/1.png,a,../x\np/1.png,a,train\n", "utf-8", "holds a separator of folders"),
        ("path,label,split\np/1.png,a,train\np/1.png,a,Train\n", "utf-8", "differ in case alone"),
    ],
)
def test_what_a_table_lacks_is_one_line_that_says_where(text: str, encoding: str, reason: str, home: Path) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read(home, text, encoding)
    assert "\n" not in str(caught.value)
    assert not (home / "root").exists()


def test_paths_below_links_are_found_where_they_are(home: Path) -> None:
    (home / "real" / "deep").mkdir(parents=True)
    link = home / "link"
    link.symlink_to(home / "real" / "deep")
    for k, prefix in enumerate((f"{home}/", "../../", f"{link}/../../")):
        name = f"t{k}.csv"
        (link / name).write_text("path,label\n" + "".join(f"{prefix}{path},{label}\n" for path, label in ROWS))
        prepare(str(link / name), root=home / "root", options=PrepareOptions(verify=True))
        index = open_split(f"t{k}", "train", home / "root")
        assert [(index.root / record.path).resolve() for record in index.records] == [home / name for name in NAMES]


def test_a_set_is_called_after_its_whole_folder_or_as_asked(tmp_path: Path) -> None:
    for folder in ("pets.v1", "pets.v2", "coco"):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / folder / name / "0.png")
    root = tmp_path / "root"
    for folder in ("pets.v1", "pets.v2"):
        assert prepare(str(tmp_path / folder), root=root).folder == root / folder
        assert open_split(str(tmp_path / folder), "train", root) == open_split(folder, "train", root)
    for place in (".", "..", "cat/.."):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path / "pets.v1" / ("cat" if place == ".." else ""))
            assert prepare(place, root=tmp_path / f"root{len(place)}").info.name == "pets.v1"
    done = attnbias("prepare-data", "./coco", "--root", root, cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "'coco' is the name of a known dataset; call yours otherwise with --name" in done.err
    done = attnbias("prepare-data", "./coco", "--root", root, "--name", "mine", cwd=tmp_path)
    assert done.code == 0, done.err
    assert open_split("mine", "train", root).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", " ", "a/b", "a\\b", "/abs", "-x", ".hidden", "a\0b", "a\x1b[31m", "é" * 101, "NUL", "con.v1"],
)
def test_no_name_leads_out_of_the_data_root(name: str, tmp_path: Path) -> None:
    assert unfit_name(name) is not None
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "pets" / "cat" / "0.png")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="a dataset cannot be called"):
        prepare(str(tmp_path / "pets"), root=tmp_path / "root", options=PrepareOptions(name=name))
    assert sorted(tmp_path.rglob("*")) == before
    if name in ("..", "a/b", "-x"):
        done = attnbias("prepare-data", "pets", f"--name={name}", cwd=tmp_path)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err


def test_a_folder_with_other_things_in_it_is_no_place_for_a_set(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "pets" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "datasets" / "pets" / "cat" / "0.png")
    done = attnbias("prepare-data", "datasets/pets", cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (3, 1), done.err
    assert "datasets/pets/cat was not written by prepare-data; call the set otherwise with --name NAME" in done.err
    done = attnbias("prepare-data", "datasets/pets", "--name", "mine", cwd=tmp_path)
    assert done.code == 0, done.err


def test_a_person_who_works_in_the_folder_of_their_classes_gets_those_alone(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "cat" / "0.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for _ in range(2):  # the second time there is a folder "datasets" from the first
            report = prepare(".", options=PrepareOptions(name="mine"))
    assert report.indexes[0].classes == ("cat",)
    assert any("only one class, 'cat'" in warning for warning in report.warnings)
