"""Where the objects of an image are in a network's input: images of any shape, boxes and masks, crowds kept apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Box, Index, Record
from attnbias.data.sets.coco import read_coco
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.bias.objects import object_batches, regions
from attnbias.methods.engine.types import Truth

SIDE = 20
SIZES = [(80, 40), (40, 80), (400, 200), (20, 20), (1000, 1600)]
"""Widths and heights."""
PLACE = (0.1, 0.2, 0.5, 0.4)
"""x, y, width and height as shares of the image: columns 2 to 12 and rows 4 to 12 of a plane of 20 x 20."""
CROWD = (0.6, 0.6, 0.4, 0.4)


def pixels(place: tuple[float, ...], size: tuple[int, int]) -> list[int]:
    return [round(share * side) for share, side in zip(place, size * 2, strict=True)]


def annotation(label: int, place: tuple[float, ...], size: tuple[int, int], crowd: bool = False) -> dict[str, Any]:
    x, y, w, h = pixels(place, size)
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    found = {"image_id": 1, "category_id": label, "bbox": [x, y, w, h], "iscrowd": int(crowd), "area": w * h}
    return {**found, "segmentation": [outline]}


def coco(folder: Path, size: tuple[int, int]) -> ImageDataset:
    """One image with an object and a crowd of `cat`, and a crowd alone of `dog`; classes neither by id nor by name."""
    Image.new("RGB", size).save(folder / "1.png")
    content = {
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "images": [{"id": 1, "file_name": "1.png", "width": size[0], "height": size[1]}],
        "annotations": [annotation(4, PLACE, size), annotation(4, CROWD, size, True), annotation(9, CROWD, size, True)],
    }
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
    (folder / "pets.json").write_text(json.dumps(content))
    return ImageDataset(read_coco(folder / "pets.json", folder), eval_transform(SIDE, "unit"))


def plane(place: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    x, y, w, h = pixels(place, (SIDE, SIDE))
    found = np.zeros((SIDE, SIDE), dtype=bool)
    found[y : y + h, x : x + w] = True
    return found


@pytest.mark.parametrize("truth", ["masks", "boxes"])
@pytest.mark.parametrize("size", SIZES)
def test_objects_follow_their_image_into_the_input_and_crowds_stay_apart(
    size: tuple[int, int], truth: Truth, tmp_path: Path
) -> None:
    dataset = coco(tmp_path, size)
    assert dataset.index.classes == ("dog", "cat")
    assert dataset.targets.tolist() == [[1, 1]]
    image, found, scale = regions(dataset, 0, truth)
    assert image.shape == (3, SIDE, SIDE)
    assert scale == pytest.approx(SIDE / size[1])
    (cat,) = found  # no dog is annotated by itself
    assert cat.label == 1
    assert (cat.mask == plane(PLACE)).all()
    assert (cat.ignore == plane(CROWD)).all()
    assert cat.visible == pytest.approx(1)


def test_difficult_objects_are_neither_object_nor_background(tmp_path: Path) -> None:
    Image.new("RGB", (40, 80)).save(tmp_path / "1.png")
    boxes = (Box(0, *pixels(PLACE, (40, 80))), Box(0, *pixels(CROWD, (40, 80)), difficult=True))
    index = Index("voc", "val", "multilabel", ("dog",), tmp_path, (Record("1.png", (1,), boxes),))
    _, (dog,), _ = regions(ImageDataset(index, eval_transform(SIDE, "unit")), 0, "boxes")
    assert (dog.mask == plane(PLACE)).all()
    assert (dog.ignore == plane(CROWD)).all()


def test_objects_are_the_same_where_other_processes_read_them(tmp_path: Path) -> None:
    dataset = coco(tmp_path, (80, 40))
    knowing: Any = SimpleNamespace(knows=lambda label: True)
    found = []
    for workers in (0, 1):
        skipped: Counter[str] = Counter()
        accelerator = Accelerator(cpu=True)
        batches = object_batches(knowing, dataset, [0, 0], "masks", accelerator, skipped, batch_size=1, workers=workers)
        found.append([(batch.images, batch.samples[0].region.mask) for batch in batches])
        assert skipped == {"unannotated": 2}  # of the crowd alone
        assert len(found[-1]) == 2
    for (image, mask), (same_image, same_mask) in zip(*found, strict=True):
        assert torch.equal(image, same_image)
        assert np.array_equal(mask, same_mask)
