"""Masks of a person's own images: PNG files, held against their images and kept in the set's own COCO file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.images import Header, turned
from attnbias.data.index import Box, Index, Orientation, Record
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import Json
from attnbias.data.tally import Tally, first_of

MASKS_FILE = "annotations/objects.json"
"""Where the masks of all splits are kept in the dataset's folder, as run lengths in COCO's layout."""

MASKED = "image with a mask of its object"
UNMASKED = "image without a mask of its object"
EMPTY = "mask without an object: every pixel is zero"
FULL = "mask of the whole image: no pixel is zero"
UNLABELLED = "mask of an image without a label, left out"


class _Drawn(NamedTuple):
    """The object of one record."""

    counts: str
    """Its run lengths, compressed as COCO's are."""
    box: tuple[int, int, int, int]
    """x, y, w, h around it."""
    area: int
    full: bool


def read_mask(path: Path, orientation: Orientation) -> NDArray[np.bool_]:
    """Read a mask, (H, W): every pixel that is not zero is the object's.

    Of a palette the index counts, not its colour; of colours any channel. The file's own EXIF orientation is followed
    where the images' is.

    Raises:
        DataError: the file is missing, broken, not a PNG, or has transparent pixels, which could mean either.
    """
    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                raise ValueError(f"it is a {image.format}")
            image.load()
            values = np.asarray(turned(image, orientation))
            bands = image.getbands()
    except FileNotFoundError:
        raise DataError(f"mask {path} is missing") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly any type
        raise DataError(f"mask {path} cannot be read ({error}); expected a PNG, not zero where the object is") from None
    if bands[-1] == "A":
        if values[..., -1].min() < values[..., -1].max():
            raise DataError(f"mask {path} has transparent pixels; save it in grey, not zero where the object is")
        values = values[..., :-1]
    return np.asarray(values != 0 if values.ndim == 2 else (values != 0).any(-1))


def with_masks(
    indexes: Sequence[Index],
    masks: Mapping[int, Path],
    headers: Mapping[str, Header | None],
    folder: Path,
    workers: int = 1,
    progress: ProgressCallback = silent,
) -> tuple[list[Index], str, Tally]:
    """Give images their masks: the object of every label of the image.

    Args:
        indexes: all splits, whose records have image ids.
        masks: image id -> file; images without one are counted.
        headers: of the images, by path.
        folder: the dataset's folder.

    Returns:
        The splits with boxes around the masks (where a record has none yet); the text of MASKS_FILE; what a person
        should know.

    Raises:
        DataError: masks are missing, cannot be read, or differ in size from their images as these are read.
    """
    records = [(index, record) for index in indexes for record in index.records]
    read = [headers.get(f"{index.root}/{record.path}") for index, record in records]
    _check_there(masks)
    drawn = _drawn([(*pair, header) for pair, header in zip(records, read, strict=True)], masks, workers)
    tally, found, images, annotations = Tally(), dict[int, _Drawn](), list[Json](), list[Json]()
    for number, ((index, record), header, mask) in enumerate(zip(records, read, drawn, strict=True)):
        progress("reading masks", number + 1, len(records))
        assert record.image_id is not None
        size = dict(zip(("width", "height"), header.size(index.orientation), strict=True)) if header else {}
        images.append({"id": record.image_id, "file_name": record.path, **size})
        mask = _counted(record, mask, masks.get(record.image_id), tally)
        if mask is not None:
            found[record.image_id] = mask
        annotations += _annotations(record, mask, size)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(indexes[0].classes)]
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    return [_with_objects(index, found, folder / MASKS_FILE) for index in indexes], text, tally


def _counted(record: Record, mask: _Drawn | None, path: Path | None, tally: Tally) -> _Drawn | None:
    """A record's mask, None where it is not an object of a label; counted by reason."""
    if path is None:
        tally.add(UNMASKED, record.path)
        return None
    if mask is None or not record.labels:
        tally.add(EMPTY if mask is None else UNLABELLED, path.name)
        return None
    tally.add(MASKED, record.path)
    if mask.full:
        tally.add(FULL, path.name)
    return mask


def _annotations(record: Record, mask: _Drawn | None, size: Json) -> list[Json]:
    """The objects of a record in COCO's layout: its mask for each of its labels, else its boxes, which have no mask."""
    if mask is None:
        return [
            {"image_id": record.image_id, "category_id": box.label + 1, "bbox": [box.x, box.y, box.w, box.h]}
            for box in record.boxes
        ]
    segmentation = {"size": [size["height"], size["width"]], "counts": mask.counts}
    return [
        {"image_id": record.image_id, "category_id": label + 1, "bbox": mask.box, "area": mask.area, "iscrowd": 0}
        | {"segmentation": segmentation}
        for label in record.labels
    ]


def _with_objects(index: Index, found: Mapping[int, _Drawn], annotations: Path) -> Index:
    """A split with its file of masks, and a box around each mask where the record has none."""
    records = []
    for record in index.records:
        mask = found.get(record.image_id if record.image_id is not None else -1)
        boxes = record.boxes or (() if mask is None else tuple(Box(label, *mask.box) for label in record.labels))
        records.append(record._replace(boxes=boxes))
    return replace(index, records=tuple(records), annotations=annotations, truth_origin="measured")


def _check_there(masks: Mapping[int, Path]) -> None:
    if missing := [str(path) for path in dict.fromkeys(masks.values()) if not path.is_file()]:
        raise DataError(f"{len(missing):,} of {len(masks):,} masks are missing: {first_of(missing)}")


def _drawn(
    records: Sequence[tuple[Index, Record, Header | None]], masks: Mapping[int, Path], workers: int
) -> list[_Drawn | None]:
    """The object of each record; None where it has no mask, an empty one, or an image that cannot be read.

    Raises:
        DataError: masks cannot be read, or have another size than their images.
    """
    from pycocotools import mask as coco  # of no use to other sets

    wrong: list[str] = []
    turned_alone: list[bool] = []

    def draw(item: tuple[Index, Record, Header | None]) -> _Drawn | None:
        index, record, header = item
        path = masks.get(-1 if record.image_id is None else record.image_id)
        if path is None or header is None:
            return None
        plane = read_mask(path, index.orientation)
        height, width = plane.shape
        size = header.size(index.orientation)
        if size != (width, height):
            wrong.append(f"{path} has {width} x {height} and {record.path} {size[0]} x {size[1]}")
            turned_alone.append(size == (height, width) and header.orientation >= 5)
            return None
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        if not len(rows):
            return None
        top, left = int(rows[0]), int(columns[0])
        box = left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
        counts = coco.encode(np.asfortranarray(plane, dtype=np.uint8))["counts"].decode()
        return _Drawn(counts, box, int(plane.sum()), bool(plane.all()))

    with ThreadPoolExecutor(workers) as pool:  # Pillow decodes outside the interpreter lock
        drawn = list(pool.map(draw, records))
    if wrong:
        orientation = records[0][0].orientation
        rest = "stored" if orientation == "upright" else "upright"
        hint = f"; add --orientation {rest}, if they were drawn so" if any(turned_alone) else ""
        raise DataError(
            f"{len(wrong):,} of {len(masks):,} masks differ in size from their images as these are read "
            f"({orientation}): {first_of(sorted(wrong))}{hint}"
        )
    return drawn
