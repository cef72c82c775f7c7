"""PASCAL VOC 2007 and 2012: image lists and xml annotations read into an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import decimal_number, read_bytes, read_lines, shown
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def read_voc(
    voc2007: Path,
    split: str,
    *,
    lists: Sequence[str] | None = None,
    missing: Literal["error", "skip"] = "error",
    dataset: str = "voc07",
) -> Index:
    """Read one split of a VOC folder: one record a listed image, in the order of the list.

    A class is 1 where an object of it is not difficult, -1 where all its objects are difficult, else 0. Images are
    not looked for here.

    Args:
        voc2007: the folder with Annotations, ImageSets/Main and JPEGImages.
        split: its list ImageSets/Main/SPLIT.txt; a missing trainval.txt is replaced by train.txt and val.txt together.
        lists: other lists to read instead, such as CSRA's ("train", "val"); several are merged and sorted by name.
        missing: raise for a listed image without annotation file, or skip it as the papers' programs do.

    Raises:
        DataError: a list or an annotation is missing or damaged, or names an unknown class.
    """
    main = voc2007 / "ImageSets" / "Main"
    if lists is None:
        lists = ("train", "val") if split == "trainval" and not (main / "trainval.txt").exists() else (split,)
    names = [name for part in lists for name in _read_list(main / f"{part}.txt")]
    if len(lists) > 1:
        names = sorted(set(names))
    records = []
    for name in names:
        annotation = voc2007 / "Annotations" / f"{name}.xml"
        if annotation.is_file():
            records.append(_read_annotation(annotation))
        elif missing == "error":
            raise DataError(f"{annotation} is missing, though ImageSets/Main lists it in {' and '.join(lists)}")
    return Index(dataset, split, "multilabel", CLASSES, voc2007, tuple(records))


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read both splits; the source may be VOC2007 (or VOC2012) itself, VOCdevkit, or the folder above it."""
    year = {"voc07": "VOC2007", "voc12": "VOC2012"}[info.name]
    locations = [source, source / year, source / "VOCdevkit" / year, source / year / "VOCdevkit" / year]
    voc = first_existing([location / "ImageSets" / "Main" for location in locations])
    if voc is None:
        raise DataError(f"{source} holds no {year}/ImageSets/Main; expected {info.layout}")
    voc = voc.parent.parent
    if info.name == "voc07" and not (voc / "ImageSets" / "Main" / "test.txt").is_file():
        raise DataError(
            f"{voc}/ImageSets/Main/test.txt is missing: unpack VOCtest_06-Nov-2007.tar into the same folder"
        )
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {split}", done, len(info.splits))
        indexes.append(read_voc(voc, split, dataset=info.name))
    return Reading(indexes, check_counts(info, indexes))


def _read_list(path: Path) -> list[str]:
    """Image names of a list; ids that lost their leading zeros (both programs compare numbers) get them back."""
    return [line.split()[0].zfill(6) for line in read_lines(path, "image list")]


def _read_annotation(path: Path) -> Record:
    try:
        objects = ElementTree.fromstring(read_bytes(path)).findall("object")
        boxes = tuple(_read_object(element) for element in objects)
    except OSError as error:
        raise DataError(f"annotation {path}: {error.strerror or error}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last of an encoding that nobody knows
        raise DataError(f"annotation {path} is damaged ({error})") from None
    target = [0] * len(CLASSES)
    for box in boxes:
        target[box.label] = 1 if not box.difficult else target[box.label] or -1
    return Record(f"JPEGImages/{path.stem}.jpg", tuple(target), boxes)


def _read_object(element: ElementTree.Element) -> Box:
    """One object. VOC counts pixels from 1 and includes the last one. A missing `difficult` means no."""
    name = (element.findtext("name") or "").strip().lower()
    if name not in CLASSES:
        raise ValueError(f"unknown class '{name}'")
    sides = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in sides:
        raise ValueError(f"a {name} without bounding box")
    left, top, right, bottom = (decimal_number((side or "").strip()) for side in sides)
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"'difficult' of a {name} is {shown(difficult)}, expected 0 or 1")
    at = left - 1, top - 1, right - left + 1, bottom - top + 1
    return Box(CLASSES.index(name), *at, difficult=difficult == "1")
