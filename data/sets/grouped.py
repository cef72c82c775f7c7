"""Sets whose images have an attribute beside their label, for accuracies of groups: Waterbirds, CelebA, UrbanCars; and
the variants of ImageNet-9.

The attribute is each record's `group`; `val` then measures every label under every attribute (Sagawa et al., ICLR
2020). Layouts and class numbers are those of the authors' own readers: kohpangwei/group_DRO (Waterbirds), the lists of
CelebA's release, dataset/urbancars.py of facebookresearch/Whac-A-Mole, tools/datasets.py of
MadryLab/backgrounds_challenge.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import read_list, whole_number
from attnbias.data.sets.class_folders import read_class_folders
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing
from attnbias.data.tally import Tally
from attnbias.data.walk import list_folder, walk_images

WATERBIRDS = ("landbird", "waterbird")
PLACES = ("land", "water")
CARS = ("urban", "country")
"""As the authors number them."""
COMBINATION = re.compile(r"obj-(country|urban)_bg-(country|urban)_co_occur_obj-(country|urban)")
"""What a folder of UrbanCars is called after: car, background, co-occurring object."""

SPLITS = ("train", "val", "test")
"""As both sets number them, from 0."""

METADATA = "metadata.csv"
WATERBIRDS_FOLDER = "waterbird_complete95_forest2water2"
"""What the official archive unpacks to."""

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
CSV = ".csv"
"""How group_DRO names the same lists as tables, with a header each."""
GENDER = "Male"
"""The attribute that CelebA's groups are made of."""


def prepare_waterbirds(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read metadata.csv, in SOURCE or in the folder of the official archive."""
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
    reader = csv.DictReader(io.StringIO(read_list(path, "list"), newline=""))
    try:
        columns, lines = {*(reader.fieldnames or ())}, [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}; expected {dataset}'s official {METADATA}") from None
    if missing := {"img_filename", "y", "split", "place"} - columns:
        raise DataError(f"{path} has no column '{min(missing)}'; expected {dataset}'s official {METADATA}")
    for number, row in lines:
        try:
            label, place, split = (whole_number(row[name]) for name in ("y", "place", "split"))
            if label not in (0, 1) or place not in (0, 1) or split not in (0, 1, 2) or not row["img_filename"]:
                raise ValueError
        except (TypeError, ValueError):
            raise DataError(f"{path}:{number} is not a row of {dataset}: {_shown(row)}") from None
        records[SPLITS[split]].append(Record(row["img_filename"], label, group=PLACES[place]))
    return [
        Index(dataset, split, "singlelabel", WATERBIRDS, root, tuple(rows)) for split, rows in records.items() if rows
    ]


def prepare_celeba(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the official lists, which stand in SOURCE or in its Anno/ and Eval/, or the same as CSV tables."""
    options.progress(f"reading {ATTRIBUTES}", 0, 1)
    indexes = read_celeba(source, dataset=info.name)
    return Reading(indexes, check_counts(info, indexes))


def read_celeba(root: Path, *, dataset: str = "celeba") -> list[Index]:
    """Read all splits: 40 attributes a face, of which `Male` is its group too, in the order of the list.

    Raises:
        DataError: a list or the folder of images is missing or damaged; the message names the line.
    """
    listed, partition = (
        first_existing([root / name, root / folder / name, (root / name).with_suffix(CSV)])
        for name, folder in ((ATTRIBUTES, "Anno"), (PARTITION, "Eval"))
    )
    images = first_existing([root / IMAGES / IMAGES, root / IMAGES, root / "Img" / IMAGES])
    for name, path in ((ATTRIBUTES, listed), (PARTITION, partition), (f"{IMAGES}/", images)):
        if path is None:
            raise DataError(f"{root} holds no {name}; expected the official lists and images of {dataset}")
    assert listed is not None
    assert partition is not None
    assert images is not None
    is_table = listed.suffix == CSV
    split_of = {name: number for _, (name, number) in _rows(partition, 2, skip=int(partition.suffix == CSV))}
    head = [_values(line, listed) for line in read_list(listed, "list").splitlines()[:2]]
    names = tuple(head[0][1:] if is_table and head else head[1] if len(head) > 1 else ())
    if GENDER not in names or len({*names}) < len(names):
        line = "first" if is_table else "second"
        raise DataError(f"{listed}: its {line} line does not name the attributes, {GENDER} among them")
    male = names.index(GENDER)
    records: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for number, (image, *values) in _rows(listed, 1 + len(names), skip=1 if is_table else 2):
        split = split_of.get(image)
        if split not in ("0", "1", "2") or not {*values} <= {"1", "-1"}:
            what = "attributes that are not 1 or -1" if split else f"no line in {partition.name}"
            raise DataError(f"{listed}:{number}: {image} has {what}")
        target = tuple(int(value == "1") for value in values)
        records[SPLITS[int(split)]].append(Record(image, target, group=GENDER if target[male] else f"not {GENDER}"))
    return [Index(dataset, split, "multilabel", names, images, tuple(rows)) for split, rows in records.items() if rows]


def prepare_urbancars(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read SPLIT/COMBINATION/, in SOURCE or in folders bg-RATIO_co_occur_obj-RATIO/ in it: the official training split
    stands in one of 0.95, the others in one of 0.5."""
    left_out = Tally()
    home = first_existing([source / "urbancars", source])
    assert home is not None
    strengths = [home, *sorted(path for path in home.glob("bg-*_co_occur_obj-*") if path.is_dir())]
    indexes = []
    for done, split in enumerate(info.splits):
        roots = [root for root in strengths if (root / split).is_dir()]
        if len(roots) > 1:
            raise DataError(f"{source} holds {split}/ in {len(roots)} strengths of bias; name one: --source {roots[0]}")
        options.progress(f"reading {split}", done, len(info.splits))
        indexes += [read_urbancars(root, split, dataset=info.name, left_out=left_out) for root in roots]
    if not indexes:
        raise DataError(f"{source} holds none of {', '.join(info.splits)}/; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes), left_out=left_out)


def read_urbancars(root: Path, split: str, *, dataset: str = "urbancars", left_out: Tally | None = None) -> Index:
    """Read one split: cars of town or country; the group is background and co-occurring object.

    Raises:
        DataError: a folder is not named after car, background and object.
    """
    left_out = Tally() if left_out is None else left_out
    records = []
    for name in list_folder(root / split, left_out, f"{split}/").folders:
        parts = COMBINATION.fullmatch(name)
        if parts is None:
            raise DataError(f"{root / split / name} is not named obj-PLACE_bg-PLACE_co_occur_obj-PLACE")
        car, background, object_ = parts.groups()
        for path in walk_images(root / split / name, left_out, f"{split}/{name}/"):
            group = f"{background} background, {object_} object"
            records.append(Record(f"{name}/{path}", CARS.index(car), group=group))
    return Index(dataset, split, "singlelabel", CARS, root / split, tuple(records))


def prepare_imagenet9(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read VARIANT/val/CLASS/, in SOURCE or in the bg_challenge/ of the official archive."""
    root = first_existing([source / "bg_challenge", source])
    assert root is not None
    left_out = Tally()
    indexes: list[Index] = []
    for done, variant in enumerate(variant for variant in info.splits if (root / variant / "val").is_dir()):
        options.progress(f"reading {variant}", done, len(info.splits))
        classes = indexes[0].classes if indexes else None
        indexes.append(
            read_class_folders(
                root / variant / "val", dataset=info.name, split=variant, classes=classes, left_out=left_out
            )
        )
    if not indexes:
        raise DataError(f"{source} holds no variant of ImageNet-9; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes), left_out=left_out)


def _rows(path: Path, count: int, *, skip: int) -> list[tuple[int, list[str]]]:
    """Line number and values of each line after the first `skip`, all of one length."""
    lines = enumerate(read_list(path, "list").splitlines(), 1)
    rows = [(number, _values(line, path)) for number, line in lines if number > skip]
    for number, values in rows:
        if len(values) != count:
            raise DataError(f"{path}:{number}: expected {count} values, found {len(values)}")
    return rows


def _values(line: str, path: Path) -> list[str]:
    return line.split("," if path.suffix == CSV else None)


def _shown(row: dict[str, str]) -> str:
    return ",".join(str(value) for value in row.values())[:80]
