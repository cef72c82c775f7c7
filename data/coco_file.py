"""Annotation files in COCO layout, read by one rule: every reader gets content that fits together, or one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import collector_paused
from attnbias.data.index_check import LARGEST_SIDE
from attnbias.data.reading import LARGEST_ANNOTATIONS, Json, read_bytes, shown

KEYS = {"categories": ("id", "name"), "images": ("id", "file_name"), "annotations": ("image_id", "category_id")}
"""What each entry of each list must have."""


@collector_paused()
def read_coco_file(path: Path) -> Json:
    """Read an instances file whose categories, images and annotations fit together.

    Image ids that are not whole numbers are replaced by the positions in the file's list.

    Raises:
        DataError: the file is missing, is not a COCO instances file, or contradicts itself.
    """
    try:
        content = json.loads(
            read_bytes(path, LARGEST_ANNOTATIONS)
        )  # in UTF-8, 16 or 32, with a byte-order mark or without
    except OSError as error:
        raise DataError(f"annotation file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} is not a JSON, or cut short ({error})") from None
    try:
        _check(content)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a COCO instances file: {error}") from None
    checked: Json = content
    return checked


def usable_segmentation(annotation: Json) -> list[list[float]] | Json | None:
    """The polygons of three points or more of an annotated object, or its run lengths; None where it has neither."""
    found = annotation.get("segmentation")
    if isinstance(found, dict):
        return found if {"counts", "size"} <= found.keys() else None
    if not isinstance(found, list):
        return None
    return [p for p in found if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and _finite(p)] or None


def _check(content: Json) -> None:
    """Raise ValueError where the lists do not fit together; number the images where their ids are not numbers."""
    for kind, keys in KEYS.items():
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"it has no list '{kind}'")
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                raise ValueError(f"entry {position} of '{kind}' has no {' or '.join(map(repr, keys))}")
            if any(not isinstance(entry[key], (str, int)) for key in keys):
                raise ValueError(f"entry {position} of '{kind}' has {shown([entry[key] for key in keys])} as {keys}")
    categories, images, annotations = (content[kind] for kind in KEYS)
    for kind, key in (("categories", "id"), ("categories", "name"), ("images", "id")):
        counts = Counter(str(entry[key]) if key == "name" else entry[key] for entry in content[kind])
        if twice := [value for value, count in counts.items() if count > 1]:
            raise ValueError(f"it lists {kind} of the same {key}: {shown(twice[0])}")
    number = {image["id"]: position for position, image in enumerate(images)}
    known = {category["id"] for category in categories}
    strays = {annotation["image_id"] for annotation in annotations} - number.keys()
    if strays:
        raise ValueError(f"annotations name {len(strays)} images that it does not list ({shown(min(strays, key=str))})")
    for annotation in annotations:
        if annotation["category_id"] not in known:
            raise ValueError(f"an annotation names category {shown(annotation['category_id'])}, which is not listed")
        if (box := annotation.get("bbox")) and not _is_box(box):
            what = "expected x, y, width and height, the last two not negative"
            raise ValueError(f"a box of image {shown(annotation['image_id'])} is {shown(box)}; {what}")
    for image in images:
        if not isinstance(image["file_name"], str) or "\0" in image["file_name"]:
            raise ValueError(f"the file name of image {shown(image['id'])} is {shown(image['file_name'])}")
        size = [image.get(key) for key in ("width", "height")]
        if any(side is not None and (not isinstance(side, int) or side < 1) for side in size):
            raise ValueError(f"width and height of image {shown(image['id'])} are {shown(size)}")
    if not all(type(image["id"]) is int for image in images):
        for annotation in annotations:
            annotation["image_id"] = number[annotation["image_id"]]
        for position, image in enumerate(images):
            image["id"] = position


def _is_box(box: object) -> bool:
    """Whether it is x, y, width and height, of a size that an index takes."""
    if not (isinstance(box, list) and len(box) == 4 and _finite(box)):
        return False
    return min(box[2:]) >= 0 and max(map(abs, box)) <= LARGEST_SIDE


def _finite(values: Sequence[object]) -> bool:
    return all(isinstance(value, (int, float)) and isfinite(value) for value in values)
