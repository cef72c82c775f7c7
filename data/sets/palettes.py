"""Class names and colours of the segmentation sets, as mmsegmentation has them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from attnbias.data.sets.voc import CLASSES as VOC_OBJECTS

VOC = ("background", *VOC_OBJECTS)

CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}


@cache
def ade20k() -> dict[str, tuple[int, int, int]]:
    """ADE20K's 150 classes and their colours; a name is written as published, even with a space at its end."""
    rows = csv.DictReader(files("attnbias.data.sets").joinpath("ade20k.csv").read_text().splitlines())
    return {row["class"]: (int(row["red"]), int(row["green"]), int(row["blue"])) for row in rows}


def palette(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Colour of each class, (C, 3) RGB: Cityscapes' or ADE20K's own where these are its classes, else VOC's."""
    for colours in (CITYSCAPES, ade20k()):
        if tuple(classes) == tuple(colours):
            return np.array(list(colours.values()), np.uint8)
    return _voc_colours(len(classes))


def _voc_colours(count: int) -> NDArray[np.uint8]:
    """VOC's colours: bits 0, 3, 6 ... of the class number, lowest first, are red's bits, highest first; 1, 4, 7 ...
    green's and 2, 5, 8 ... blue's."""
    bits = ((np.arange(count)[:, None] >> np.arange(24)) & 1).reshape(count, 8, 3)
    return (bits << np.arange(7, -1, -1)[:, None]).sum(axis=1).astype(np.uint8)
