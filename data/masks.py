"""Object masks of a set in COCO layout, read from its annotation file through pycocotools when they are asked for."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from attnbias.data.errors import DataError


class Masks(NamedTuple):
    """All annotated objects of one picture."""

    masks: NDArray[np.bool_]
    """(K, H, W), in pixels of the stored picture."""
    labels: NDArray[np.int64]
    """(K,) class numbers: places in the file's list of categories."""
    crowd: NDArray[np.bool_]
    """(K,) whether a mask covers a crowd instead of one object."""


def read_masks(annotations: Path, image_id: int) -> Masks:
    """Read the masks of one picture.

    Raises:
        DataError: the annotation file is missing or holds no such picture.
    """
    file, labels = _open(annotations)
    if image_id not in file.imgs:
        raise DataError(f"{annotations} holds no picture {image_id}; run prepare-data again")
    objects = file.imgToAnns[image_id]
    facts = file.imgs[image_id]
    masks = [file.annToMask(item).astype(bool) for item in objects]
    return Masks(
        np.stack(masks) if masks else np.zeros((0, facts["height"], facts["width"]), dtype=bool),
        np.array([labels[item["category_id"]] for item in objects], dtype=np.int64),
        np.array([bool(item.get("iscrowd", 0)) for item in objects], dtype=bool),
    )


def read_categories(annotations: Path) -> list[dict[str, Any]]:
    """Categories as the file lists them, each with its id, name and, in most files, supercategory."""
    categories: list[dict[str, Any]] = _open(annotations)[0].dataset["categories"]
    return categories


def draw_masks(annotations: Path, image_id: int) -> NDArray[np.uint8]:
    """Draw the masks of one picture as a label map (H, W): 0 = no object, k + 1 = category k, 255 = several categories.

    Raises:
        DataError: the annotation file is missing or holds no such picture.
    """
    masks, labels, _ = read_masks(annotations, image_id)
    highest = np.where(masks, labels[:, None, None] + 1, 0).max(axis=0, initial=0)
    lowest = np.where(masks, labels[:, None, None] + 1, 255).min(axis=0, initial=255)
    return np.where((highest > 0) & (lowest != highest), 255, highest).astype(np.uint8)


@lru_cache(maxsize=2)
def _open(annotations: Path) -> tuple[Any, dict[int, int]]:
    if not annotations.is_file():
        raise DataError(f"no annotation file {annotations}; run prepare-data again")
    with redirect_stdout(io.StringIO()):  # pycocotools reports its loading there
        file = COCO(annotations)
    return file, {category["id"]: place for place, category in enumerate(file.dataset["categories"])}
