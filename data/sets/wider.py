"""WIDER-Attribute: 14 attributes of one person a sample, the person given as a box of an image."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import LARGEST_ANNOTATIONS, Json, Unfit, check_entries, in_words, read_json, shown
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing

# "Tshiirt" is the annotation files' own spelling.
# fmt: off
CLASSES = (
    "Male", "longHair", "sunglass", "Hat", "Tshiirt", "longSleeve", "formal", "shorts", "jeans", "longPants",
    "skirt", "faceMask", "logo", "stripe",
)
# fmt: on

LABELS = {1: 1, -1: 0, 0: -1}
"""The files' value -> ours; 0 is "unspecified" there."""


def read_wider(annotation_file: Path, root: Path, split: str, *, dataset: str = "wider") -> Index:
    """Read an annotation file: one record a person in the order of the file, the person's box as its crop.

    Images are not looked for here.

    Args:
        annotation_file: wider_attribute_{trainval,test}.json.
        root: the folder with Image/.

    Raises:
        DataError: the file is missing, or is not a WIDER-Attribute file.
    """
    try:
        content = read_json(annotation_file, LARGEST_ANNOTATIONS)
        records = tuple(
            _record(image["file_name"], person)
            for image in check_entries(content["images"], "images", file_name=(str,), targets=(list,))
            for person in check_entries(image["targets"], "targets", attribute=(list,), bbox=(list,))
        )
    except OSError as error:
        raise DataError(f"annotation file {annotation_file}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{annotation_file} is not a WIDER-Attribute file: {in_words(error)}") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotation_file} is not a WIDER-Attribute file: {type(error).__name__} {error}") from None
    return Index(dataset, split, "multilabel", CLASSES, root, records)


def _record(name: str, person: Json) -> Record:
    """A person of an image, whose file is called `name`."""
    values, box = person["attribute"], person["bbox"]
    if len(values) != len(CLASSES) or not all(type(value) is int and value in LABELS for value in values):
        raise Unfit(f"attributes of a person in {shown(name)} are {shown(values)}; expected {len(CLASSES)} of 1, 0, -1")
    if len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise Unfit(f"the box of a person in {shown(name)} is {shown(box)}; expected x, y, width and height")
    x, y, width, height = box
    return Record(f"Image/{name}", tuple(LABELS[value] for value in values), crop=(x, y, width, height))


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read both splits; annotations stand in Annotations/ or in wider_attribute_annotation/ as they were unpacked."""
    annotations = first_existing([source / "Annotations", source / "wider_attribute_annotation"])
    if annotations is None:
        raise DataError(f"{source} holds no Annotations/ folder; expected {info.layout}")
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {split}", done, len(info.splits))
        indexes.append(read_wider(annotations / f"wider_attribute_{split}.json", source, split, dataset=info.name))
    return Reading(indexes, check_counts(info, indexes))
