"""MS-COCO 2014 and 2017, and any folder in COCO layout: annotation files read into an index."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from attnbias.data.coco_file import read_coco_file
from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record, collector_paused
from attnbias.data.info import DatasetInfo
from attnbias.data.label_maps import IGNORE
from attnbias.data.reading import Json
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, chosen_settings, first_existing

OFFICIAL = {"coco": ("train2014", "val2014"), "coco17": ("train2017", "val2017")}
"""Dataset -> the endings of its official files."""


@collector_paused()
def read_coco(
    annotation_file: Path,
    image_folder: Path,
    *,
    dataset: str = "coco",
    split: str = "train",
    class_order: Literal["file", "id"] = "file",
    group: str | None = None,
) -> Index:
    """Read a COCO instances file: one record an image by ascending image id, unlabelled images included.

    A class is positive where any annotation names it, crowds included (both CSRA and IDA count them; `Box.crowd` marks
    them). The official files list their categories by ascending id, so `class_order` changes nothing there. An
    annotation with an empty box, or none, counts for the labels alone.

    Args:
        annotation_file: instances_*.json.
        image_folder: what its `file_name`s are relative to; not looked into here.
        class_order: classes as the file lists its categories (CSRA's rule), or by ascending category id (IDA's).
        group: key of an image entry that becomes the record's group.

    Raises:
        DataError: the file is missing, is not a COCO instances file, or contradicts itself.
    """
    content = read_coco_file(annotation_file)
    categories = content["categories"]
    try:
        if class_order == "id":
            categories = sorted(categories, key=lambda category: category["id"])
        images = sorted(content["images"], key=lambda image: image["id"])
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        positives, boxes = _by_image(content["annotations"], label_of)
        records = tuple(
            Record(
                path=image["file_name"],
                target=_target(positives[image["id"]], len(categories)),
                boxes=tuple(boxes[image["id"]]),
                image_id=image["id"],
                group=image[group] if group else None,
            )
            for image in images
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotation_file} is not a COCO instances file: {type(error).__name__} {error}") from None
    classes = tuple(str(category["name"]) for category in categories)
    return Index(dataset, split, "multilabel", classes, image_folder, records, annotation_file)


def _by_image(
    annotations: Sequence[Json], label_of: Mapping[int, int]
) -> tuple[defaultdict[int, set[int]], defaultdict[int, list[Box]]]:
    """The labels and the boxes of each image, by its id."""
    positives: defaultdict[int, set[int]] = defaultdict(set)
    boxes: defaultdict[int, list[Box]] = defaultdict(list)
    for annotation in annotations:
        label = label_of[annotation["category_id"]]
        positives[annotation["image_id"]].add(label)
        if annotation.get("bbox"):
            x, y, w, h = annotation["bbox"]
            boxes[annotation["image_id"]].append(Box(label, x, y, w, h, crowd=bool(annotation.get("iscrowd"))))
    return positives, boxes


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the official pair of files, or else whatever annotations/instances_*.json the source folder has."""
    found = {path.stem.removeprefix("instances_"): path for path in sorted(source.glob("annotations/instances_*.json"))}
    wanted = OFFICIAL.get(info.name, ())
    official = bool(wanted) and all(suffix in found for suffix in wanted)
    if official:
        found = {suffix: found[suffix] for suffix in wanted}
    if not found:
        raise DataError(f"{source} holds no annotations/instances_*.json; expected {info.layout}")
    indexes = []
    for done, (suffix, path) in enumerate(found.items()):
        options.progress(f"reading {path.name}", done, len(found))
        images = first_existing([source / "images" / suffix, source / suffix, source / "images"])
        if images is None:
            raise DataError(f"{source} holds no images for {path.name}; expected images/{suffix}/")
        indexes.append(read_coco(path, images, dataset=info.name, split=_split(suffix, found)))
    for index in indexes[1:]:
        if index.classes != indexes[0].classes:
            raise DataError(f"{index.annotations} and {indexes[0].annotations} list different categories")
    settings = chosen_settings(info, options)
    warnings = check_counts(info, indexes)
    if info.counts and not official:
        warnings = [f"not the official files {', '.join(wanted)}: found {', '.join(found)}"]
    if by := settings.get("masks"):
        return Reading([with_label_maps(index, by) for index in indexes], warnings, settings)
    return Reading(indexes, warnings, settings)


def with_label_maps(index: Index, by: Literal["category", "supercategory"]) -> Index:
    """The same images as a segmentation split, whose label maps are the objects' masks.

    Class 0 is the background, the others are the categories, or the supercategories, in the order of the file. Pixels
    of objects of several categories are ignored.

    Raises:
        DataError: an object has no mask, the file names no supercategories, or more classes than a label map can tell
            apart.
    """
    from attnbias.data.masks import count_unmasked, read_categories

    assert index.annotations is not None
    missing, objects = count_unmasked(index.annotations)
    if missing:
        raise DataError(f"{index.annotations}: {missing:,} of {objects:,} objects have no mask; --masks needs all")
    categories = read_categories(index.annotations)
    if nameless := [category["name"] for category in categories if by == "supercategory" and by not in category]:
        raise DataError(f"{index.annotations}: category '{nameless[0]}' names no supercategory; use --masks category")
    names = [str(category["name" if by == "category" else by]) for category in categories]
    classes = ("background", *dict.fromkeys(names))
    if len(names) >= IGNORE:
        raise DataError(f"{index.annotations} lists {len(names)} categories; label maps hold 254 beside the background")
    values = [0, *(classes.index(name, 1) for name in names)]
    return replace(
        index,
        task="segmentation",
        classes=classes,
        records=tuple(
            record._replace(target=0, boxes=tuple(box._replace(label=values[box.label + 1]) for box in record.boxes))
            for record in index.records
        ),
        label_values=(*values, *[IGNORE] * (256 - len(values))),
    )


def _target(positives: set[int], classes: int) -> tuple[int, ...]:
    target = [0] * classes
    for label in positives:
        target[label] = 1
    return tuple(target)


def _split(suffix: str, found: dict[str, Path]) -> str:
    """Name of the split: "train" for train2014, unless another file has that name too."""
    names = [re.sub(r"\d+$", "", other) for other in found]
    name = re.sub(r"\d+$", "", suffix)
    return name if name and names.count(name) == 1 else suffix
