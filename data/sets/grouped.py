"""Sets whose images have an attribute beside their label, for accuracies of groups: Waterbirds and CelebA.

The attribute is each record's `group`; `val` then measures every label under every attribute (Sagawa et al., ICLR
2020).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing

WATERBIRDS = ("landbird", "waterbird")
PLACES = ("land", "water")
SPLITS = ("train", "val", "test")
"""As both sets number them, from 0."""

METADATA = "metadata.csv"
WATERBIRDS_FOLDER = "waterbird_complete95_forest2water2"
"""What the official archive unpacks to."""

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
GENDER = "Male"
"""The attribute that CelebA's groups are made of."""


def prepare_waterbirds(info: DatasetInfo, source: Path | None, folder: Path, options: PrepareOptions) -> Reading:
    """Read metadata.csv, in SOURCE or in the folder of the official archive."""
    assert source is not None
    root = first_existing([path for path in (source, source / WATERBIRDS_FOLDER) if (path / METADATA).exists()])
    if root is None:
        raise DataError(f"{source} holds no {METADATA}; expected {info.layout}")
    options.progress(f"reading {METADATA}", 0, 1)
    indexes = read_waterbirds(root, dataset=info.name)
    return Reading(indexes, check_counts(info, indexes))


def read_waterbirds(root: Path, *, dataset: str = "waterbirds") -> list[Index]:
    """Read all splits: birds of land and water, each on a photograph of land or water (`group`), in the file's order.

    Raises:
        DataError: the file is missing or damaged; the message names the line.
    """
    path = root / METADATA
    records: dict[str, list[Record]] = {split: [] for split in SPLITS}
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    if missing := {"img_filename", "y", "split", "place"} - {*(reader.fieldnames or ())}:
        raise DataError(f"{path} has no column '{min(missing)}'; expected {dataset}'s official {METADATA}")
    for row in reader:
        try:
            label, place, split = (int(row[name]) for name in ("y", "place", "split"))
            if label not in (0, 1) or place not in (0, 1) or split not in (0, 1, 2) or not row["img_filename"]:
                raise ValueError
        except (TypeError, ValueError):
            raise DataError(f"{path}:{reader.line_num} is not a row of {dataset}: {_shown(row)}") from None
        records[SPLITS[split]].append(Record(row["img_filename"], label, group=PLACES[place]))
    return [
        Index(dataset, split, "singlelabel", WATERBIRDS, root, tuple(rows)) for split, rows in records.items() if rows
    ]


def prepare_celeba(info: DatasetInfo, source: Path | None, folder: Path, options: PrepareOptions) -> Reading:
    """Read the official lists, which stand in SOURCE or in its Anno/ and Eval/."""
    assert source is not None
    options.progress(f"reading {ATTRIBUTES}", 0, 1)
    indexes = read_celeba(source, dataset=info.name)
    return Reading(indexes, check_counts(info, indexes))


def read_celeba(root: Path, *, dataset: str = "celeba") -> list[Index]:
    """Read all splits: 40 attributes a face, of which `Male` is its group too, in the order of the list.

    Raises:
        DataError: a list or the folder of images is missing or damaged; the message names the line.
    """
    listed = first_existing([root / ATTRIBUTES, root / "Anno" / ATTRIBUTES])
    partition = first_existing([root / PARTITION, root / "Eval" / PARTITION])
    images = first_existing([root / IMAGES, root / "Img" / IMAGES])
    for name, path in ((ATTRIBUTES, listed), (PARTITION, partition), (f"{IMAGES}/", images)):
        if path is None:
            raise DataError(f"{root} holds no {name}; expected the official lists and images of {dataset}")
    assert listed is not None
    assert partition is not None
    assert images is not None
    split_of = {name: number for _, (name, number) in _rows(partition, 2, skip=0)}
    lines = _text(listed).splitlines()
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    if GENDER not in names or len({*names}) < len(names):
        raise DataError(f"{listed}: its second line does not name the attributes, {GENDER} among them")
    male = names.index(GENDER)
    records: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for number, (image, *values) in _rows(listed, 1 + len(names), skip=2):
        split = split_of.get(image)
        if split not in ("0", "1", "2") or not {*values} <= {"1", "-1"}:
            what = "attributes that are not 1 or -1" if split else f"no line in {partition.name}"
            raise DataError(f"{listed}:{number}: {image} has {what}")
        target = tuple(int(value == "1") for value in values)
        records[SPLITS[int(split)]].append(Record(image, target, group=GENDER if target[male] else f"not {GENDER}"))
    return [Index(dataset, split, "multilabel", names, images, tuple(rows)) for split, rows in records.items() if rows]


def _rows(path: Path, count: int, *, skip: int) -> list[tuple[int, list[str]]]:
    """Line number and values of each line after the first `skip`, all of one length."""
    rows = [(number, line.split()) for number, line in enumerate(_text(path).splitlines(), 1) if number > skip]
    for number, values in rows:
        if len(values) != count:
            raise DataError(f"{path}:{number}: expected {count} values, found {len(values)}")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text in UTF-8") from None


def _shown(row: dict[str, str]) -> str:
    return ",".join(str(value) for value in row.values())[:80]
