"""Sets whose images have an attribute beside their label, from tiny archives and lists in the official layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.prepare import prepare
from attnbias.data.sets.grouped import read_celeba, read_urbancars, read_waterbirds
from tests.helpers.official_archives import Offer, fetched, jpeg, tar, tree

HEADER = "img_id,img_filename,y,split,place,place_filename"
BIRDS = (
    ("001.Albatross/a.jpg", 1, 0, 1),
    ("002.Finch/b.jpg", 0, 0, 0),
    ("001.Albatross/c.jpg", 1, 1, 0),
    ("002.Finch/d.jpg", 0, 2, 1),
)
"""Image, class, split, place."""


def metadata(rows: tuple[tuple[str, int, int, int], ...] = BIRDS) -> bytes:
    lines = [f"{n},{image},{y},{split},{place},/o/ocean/{n}.jpg" for n, (image, y, split, place) in enumerate(rows)]
    return "\n".join([HEADER, *lines, ""]).encode()


def test_waterbirds_from_its_archive(offer: Offer, tmp_path: Path) -> None:
    folder = "waterbird_complete95_forest2water2"
    files = {f"{folder}/{image}": jpeg(number) for number, (image, *_) in enumerate(BIRDS)}
    archive = tar({f"{folder}/metadata.csv": metadata(), **files}, "w:gz")
    offer("waterbirds", {f"{folder}.tar.gz": archive})
    report = fetched("waterbirds", tmp_path)
    train, val, test = report.indexes
    assert train.classes == ("landbird", "waterbird")
    assert [(r.path, r.target, r.group) for r in train.records] == [
        ("001.Albatross/a.jpg", 1, "water"),
        ("002.Finch/b.jpg", 0, "land"),
    ]
    assert [(r.target, r.group) for r in (*val.records, *test.records)] == [(1, "land"), (0, "water")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"img_filename,y,split\na.jpg,0,0\n", "has no column 'place'"),
        (metadata(((*BIRDS[0][:1], 7, 0, 0),)), "metadata.csv:2 is not a row of waterbirds: 0,001.Albatross/a.jpg,7"),
        (metadata(((*BIRDS[0][:1], 1, 3, 0),)), "metadata.csv:2"),
        (b"\xff\xfe", "it is not UTF-8 text: byte 0; expected a text in UTF-8"),
    ],
)
def test_a_damaged_metadata_file_is_named_with_its_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_waterbirds(tmp_path)


def celeba(root: Path) -> Path:
    attributes = "3\nBlond_Hair Male Smiling\n000001.jpg  1 -1  1\n000002.jpg -1  1 -1\n000003.jpg -1 -1  1\n"
    partition = "000001.jpg 0\n000002.jpg 2\n000003.jpg 0\n"
    files = {"Anno/list_attr_celeba.txt": attributes.encode(), "Eval/list_eval_partition.txt": partition.encode()}
    return tree(root, files | {f"Img/img_align_celeba/00000{n}.jpg": jpeg(n) for n in (1, 2, 3)})


def test_celeba_from_its_official_lists(tmp_path: Path) -> None:
    train, test = read_celeba(celeba(tmp_path))
    assert train.classes == ("Blond_Hair", "Male", "Smiling")
    assert [(r.path, r.target, r.group) for r in train.records] == [
        ("000001.jpg", (1, 0, 1), "not Male"),
        ("000003.jpg", (0, 0, 1), "not Male"),
    ]
    assert [(test.split, r.target, r.group) for r in test.records] == [("test", (0, 1, 0), "Male")]
    assert (train.root / "000001.jpg").is_file()
    for name in ("list_attr_celeba", "list_eval_partition"):  # as tables, which group_DRO reads
        (listed,) = tmp_path.glob(f"*/{name}.txt")
        lines = [line.split() for line in listed.read_text().splitlines()]
        head, rows = (["image_id", *lines[1]], lines[2:]) if "attr" in name else (["image_id", "partition"], lines)
        (tmp_path / f"{name}.csv").write_text("".join(f"{','.join(row)}\n" for row in (head, *rows)))
        listed.unlink()
    assert read_celeba(tmp_path) == [train, test]
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Smiling\n000001.jpg,1\n")
    with pytest.raises(DataError, match="its first line does not name the attributes, Male"):
        read_celeba(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("Anno/list_attr_celeba.txt", "000001.jpg  1", "000001.jpg  2", r"celeba.txt:3: 000001.jpg has attributes"),
        ("Anno/list_attr_celeba.txt", " Male", " Female", "does not name the attributes, Male among them"),
        ("Anno/list_attr_celeba.txt", "-1  1 -1\n", "-1  1\n", r"celeba.txt:4: expected 4 values, found 3"),
        ("Eval/list_eval_partition.txt", "000001.jpg 0\n", "", r"000001.jpg has no line in list_eval_partition.txt"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(file: str, old: str, new: str, words: str, tmp_path: Path) -> None:
    path = celeba(tmp_path) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=words):
        read_celeba(tmp_path)


def test_lists_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no list_attr_celeba.txt; expected the official lists"):
        read_celeba(tmp_path)


def test_urbancars_from_its_folders(tmp_path: Path) -> None:
    biased, even = "bg-0.95_co_occur_obj-0.95", "bg-0.5_co_occur_obj-0.5"
    cars = {
        f"{biased}/train/obj-urban_bg-urban_co_occur_obj-urban/1.jpg": jpeg(1),
        f"{biased}/train/obj-country_bg-urban_co_occur_obj-country/2.jpg": jpeg(2),
        f"{even}/val/obj-country_bg-country_co_occur_obj-urban/3.jpg": jpeg(3),
    }
    source = tree(tmp_path / "source", cars)
    report = prepare("urbancars", root=tmp_path / "data", source=source)
    train, val = report.indexes
    assert train.classes == ("urban", "country")
    assert [(record.target, record.group) for record in (*train.records, *val.records)] == [
        (1, "urban background, country object"),
        (0, "urban background, urban object"),
        (1, "country background, urban object"),
    ]
    alone = prepare("urbancars", root=tmp_path / "one", source=source / biased)
    assert [index.split for index in alone.indexes] == ["train"]
    (source / even / "val" / "cars").mkdir()
    with pytest.raises(DataError, match=r"val/cars is not named obj-PLACE_bg-PLACE_co_occur_obj-PLACE"):
        read_urbancars(source / even, "val")
    (source / even / "train").mkdir()
    with pytest.raises(DataError, match="holds train/ in 2 strengths of bias; name one: --source"):
        prepare("urbancars", root=tmp_path / "other", source=source)


def test_variants_of_imagenet9_have_one_order_of_classes(tmp_path: Path) -> None:
    names = ("00_dog", "01_bird", "02_wheeled vehicle")
    files = {
        f"bg_challenge/{variant}/val/{name}/{number}.JPEG": jpeg(number)
        for variant in ("original", "mixed_rand")
        for number, name in enumerate(names if variant == "original" else names[1:])
    }
    report = prepare("imagenet9", root=tmp_path / "data", source=tree(tmp_path / "source", files))
    original, mixed = report.indexes
    assert original.classes == mixed.classes == names
    assert [record.target for record in mixed.records] == [1, 2]
    with pytest.raises(DataError, match="holds no variant of ImageNet-9"):
        prepare("imagenet9", root=tmp_path / "other", source=tmp_path / "data")
