"""Annotation files in COCO layout, read by one rule: every reader gets content that fits together, or one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from operator import mul, sub
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import collector_paused
from attnbias.data.index_check import LARGEST_SIDE
from attnbias.data.reading import (
    LARGEST_ANNOTATIONS,
    NOTHING,
    Json,
    check_entries,
    in_words,
    parse_json,
    read_bytes,
    shown,
)

KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "categories": {"id": (int, str), "name": (int, str), "supercategory": (int, str, NOTHING)},
    "images": {"id": (int, str), "file_name": (str,), "width": (int, NOTHING), "height": (int, NOTHING)},
    "annotations": {"image_id": (int, str), "category_id": (int, str), "iscrowd": (int, bool, NOTHING)},
}
"""What each entry of each list must have."""
MOST_PIXELS = 180_000_000
"""Of an image that Pillow reads."""
LONGEST = 8 * LARGEST_SIDE
"""Way along the sides of a polygon, in pixels: pycocotools takes 40 bytes for each of them."""
THIN = 1e-6
"""Twice the area, in pixels, of a polygon whose points are on one line but for rounding."""


@collector_paused()
def read_coco_file(path: Path) -> Json:
    """Read an instances file whose categories, images and annotations fit together.

    Image ids that are not whole numbers are replaced by the positions in the file's list.

    Raises:
        DataError: the file is missing, is not a COCO instances file, or contradicts itself.
    """
    try:
        written = read_bytes(path, LARGEST_ANNOTATIONS)
        content = parse_json(written.decode(json.detect_encoding(written)).removeprefix("\ufeff"))
    except OSError as error:
        raise DataError(f"annotation file {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"annotation file {path} is not a JSON, or cut short ({in_words(error)})") from None
    try:
        _check(content)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a COCO instances file: {error}") from None
    checked: Json = content
    return checked


def usable_segmentation(annotation: Json) -> list[list[float]] | Json | None:
    """The polygons of an annotated object that cover something, or its run lengths; None where it has neither."""
    found = annotation.get("segmentation")
    if isinstance(found, dict):
        return found if {"counts", "size"} <= found.keys() else None
    if not isinstance(found, list):
        return None
    return [polygon for polygon in found if _covers(polygon)] or None


def _check(content: Json) -> None:
    """Raise ValueError where the lists do not fit together; number the images where their ids are not numbers."""
    for kind, keys in KEYS.items():
        check_entries(content.get(kind) if isinstance(content, dict) else None, kind, **keys)
    categories, images, annotations = (content[kind] for kind in KEYS)
    for kind, key in (("categories", "id"), ("categories", "name"), ("images", "id")):
        counts = Counter(str(entry[key]) if key == "name" else entry[key] for entry in content[kind])
        if twice := [value for value, count in counts.items() if count > 1]:
            raise ValueError(f"it lists {kind} of the same {key}: {shown(twice[0])}")
    if nameless := [entry["id"] for entry in categories if not str(entry["name"]).strip()]:
        raise ValueError(f"category {shown(nameless[0])} has an empty name")
    number = {image["id"]: position for position, image in enumerate(images)}
    known = {category["id"] for category in categories}
    strays = {annotation["image_id"] for annotation in annotations} - number.keys()
    if strays:
        raise ValueError(f"annotations name {len(strays)} images that it does not list ({shown(min(strays, key=str))})")
    for annotation in annotations:
        if annotation["category_id"] not in known:
            raise ValueError(f"an annotation names category {shown(annotation['category_id'])}, which is not listed")
        if (crowd := annotation.get("iscrowd")) not in (None, 0, 1):
            raise ValueError(f"'iscrowd' of an object of image {shown(annotation['image_id'])} is {shown(crowd)}")
        if (box := annotation.get("bbox")) not in (None, []) and not _is_box(box):
            what = "expected x, y, width and height, the last two not negative"
            raise ValueError(f"a box of image {shown(annotation['image_id'])} is {shown(box)}; {what}")
    for image in images:
        if not image["file_name"]:
            raise ValueError(f"the file name of image {shown(image['id'])} is empty")
        size = [image.get(key) for key in ("width", "height")]
        stated = [side for side in size if side is not None]
        if any(side < 1 for side in stated) or prod(stated) > MOST_PIXELS:
            raise ValueError(f"width and height of image {shown(image['id'])} are {shown(size)}")
    if not all(type(image["id"]) is int for image in images):
        for annotation in annotations:
            annotation["image_id"] = number[annotation["image_id"]]
        for position, image in enumerate(images):
            image["id"] = position


def _is_box(box: object) -> bool:
    """Whether it is x, y, width and height, of a size that an index takes."""
    return isinstance(box, list) and len(box) == 4 and _are_pixels(box) and min(box[2:]) >= 0


def _covers(polygon: object) -> bool:
    """Whether it is three points or more that are not on one line, of a length that can be drawn."""
    if not (isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and _are_pixels(polygon)):
        return False
    x, y = polygon[::2], polygon[1::2]
    next_x, next_y = x[1:] + x[:1], y[1:] + y[:1]
    length = sum(map(abs, map(sub, x, next_x))) + sum(map(abs, map(sub, y, next_y)))
    area = sum(map(mul, x, next_y)) - sum(map(mul, y, next_x))
    return length <= LONGEST and abs(area) > THIN


def _are_pixels(values: Sequence[object]) -> bool:
    """Whether they are numbers within an image of any size; no other number is, NaN neither."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST_SIDE <= value <= LARGEST_SIDE
        for value in values
    )
