"""Object masks of a set in COCO layout, read from its annotation file through pycocotools when they are asked for."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.coco import COCO

from attnbias.data.coco_file import read_coco_file, usable_segmentation
from attnbias.data.errors import DataError
from attnbias.data.reading import Json


class Masks(NamedTuple):
    """All annotated objects of one image."""

    masks: NDArray[np.bool_]
    """(K, H, W), in pixels of the stored image."""
    labels: NDArray[np.int64]
    """(K,) class numbers: positions in the file's list of categories."""
    crowd: NDArray[np.bool_]
    """(K,) whether a mask covers a crowd instead of one object."""


def read_masks(annotations: Path, image_id: int, size: tuple[int, int]) -> Masks:
    """Read the masks of one image.

    Args:
        size: width and height of the image as it is read, where the file does not state them.

    Raises:
        DataError: the annotation file is missing, holds no such image, or does not have a mask of one of its objects.
    """
    file, labels = _open(annotations)
    if image_id not in file.imgs:
        raise DataError(f"{annotations} holds no image {image_id}; run prepare-data again")
    objects = file.imgToAnns[image_id]
    image = file.imgs[image_id]
    width, height = image.get("width") or size[0], image.get("height") or size[1]
    try:
        masks = [_drawn(item, height, width) for item in objects]
    except (ValueError, TypeError) as error:
        raise DataError(f"{annotations}: a mask of image {image_id} cannot be drawn ({error})") from None
    return Masks(
        np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool),
        np.array([labels[item["category_id"]] for item in objects], dtype=np.int64),
        np.array([bool(item.get("iscrowd", 0)) for item in objects], dtype=bool),
    )


def count_unmasked(annotations: Path) -> tuple[int, int]:
    """How many annotated objects have no mask, and how many there are."""
    objects = _open(annotations)[0].dataset["annotations"]
    return sum(usable_segmentation(item) is None for item in objects), len(objects)


def _drawn(item: Json, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (H, W) of one object: the union of its polygons, or its run lengths, compressed or not.

    Raises:
        ValueError, TypeError: it has neither, or they do not fit the image.
    """
    shape = usable_segmentation(item)
    if shape is None:
        raise ValueError("it has no polygon of three points and no run lengths")
    if isinstance(shape, list):
        runs = mask.merge(mask.frPyObjects(shape, height, width))
    else:
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"its run lengths are for {shape['size']}, the image is {[height, width]}")
        lengths = shape["counts"] if isinstance(shape["counts"], list) else _run_lengths(shape["counts"])
        if sum(lengths) != height * width or min(lengths) < 0:  # pycocotools would read on beyond them
            raise ValueError(f"its run lengths do not sum to {height * width} pixels")
        runs = mask.frPyObjects({"counts": lengths, "size": [height, width]}, height, width)
    drawn: NDArray[np.bool_] = mask.decode(runs).astype(bool)
    return drawn


def _run_lengths(text: str) -> list[int]:
    """Run lengths out of COCO's compressed form: six bits a character, differences to the last but one after the third
    (rleFrString of pycocotools, which does not check them)."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last of this number, whose highest bit is its sign
            value -= (bits & 0x10) << (shift - 4)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def read_categories(annotations: Path) -> list[Json]:
    """Categories as the file lists them, each with its id, name and, in most files, supercategory."""
    categories: list[Json] = _open(annotations)[0].dataset["categories"]
    return categories


def draw_masks(annotations: Path, image_id: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the masks of one image as a label map (H, W): 0 = no object, k + 1 = category k, 255 = several categories.

    Args:
        size: see `read_masks`.

    Raises:
        DataError: the annotation file is missing or holds no such image.
    """
    masks, labels, _ = read_masks(annotations, image_id, size)
    highest = np.where(masks, labels[:, None, None] + 1, 0).max(axis=0, initial=0)
    lowest = np.where(masks, labels[:, None, None] + 1, 255).min(axis=0, initial=255)
    return np.where((highest > 0) & (lowest != highest), 255, highest).astype(np.uint8)


def _open(annotations: Path) -> tuple[COCO, dict[int, int]]:
    if not annotations.is_file():
        raise DataError(f"no annotation file {annotations}; run prepare-data again")
    state = annotations.stat()
    return _read(annotations, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=2)
def _read(annotations: Path, written: int, number: int) -> tuple[COCO, dict[int, int]]:
    """Read a file once; one that prepare-data has replaced since is another file."""
    file = COCO()
    file.dataset = read_coco_file(annotations)
    for position, item in enumerate(file.dataset["annotations"]):
        item["id"] = position  # nothing here asks for an object by its own id; some files have none, or one twice
    with redirect_stdout(io.StringIO()):  # pycocotools reports its work there
        file.createIndex()
    return file, {category["id"]: position for position, category in enumerate(file.dataset["categories"])}
