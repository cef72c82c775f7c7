"""One HTML file that shows where models looked: what is on the page, and how it is written. No torch, no network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.reading import Json
from attnbias.methods.engine.display.html_page import data_address, html_page, jpeg_address, map_levels, short
from attnbias.methods.engine.display.segments import Labels, Segments

THUMBNAIL = 360
"""Longest side of an image on the page, in pixels."""


@dataclass(frozen=True)
class GalleryRun:
    """One column of the page: a model and one of its maps."""

    name: str
    method: str
    checkpoint: str
    map: str
    """Which map is drawn, in words."""
    normalisation: str
    images: str
    """How images are made for the model, in words."""
    recipe: Json = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    """What was measured of the run: name -> value, as text."""


class ShareBox(NamedTuple):
    """An annotated box, as shares of the image's width and height."""

    label: int
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class View:
    """What one run says about one image."""

    scores: Mapping[int, float]
    """Class -> probability, for the classes worth listing."""
    predicted: tuple[int, ...]
    maps: Mapping[int, NDArray[np.float32]]
    """Class -> normalised map (h, w) in [0, 1]. Every view of an image has the same classes."""
    frame: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """The part of the image that the network saw (x, y, width, height), as shares of its size."""
    figures: Mapping[int, str] = field(default_factory=dict)
    """Class -> what was measured of its map, as text; shown below the map."""
    segments: Segments | None = None
    """The class of each pixel, where the run tells it."""


@dataclass(frozen=True)
class GalleryItem:
    """One image and what each run says about it, in the order of the page's runs."""

    name: str
    image: Image.Image
    """As large as the page shall hold it: see `thumbnail`."""
    views: tuple[View, ...]
    true: tuple[int, ...] | None = None
    """True labels, None where nobody knows them."""
    unknown: tuple[int, ...] = ()
    """Labels that are neither true nor false here and that no verdict counts."""
    boxes: tuple[ShareBox, ...] = ()


@dataclass(frozen=True)
class GalleryPage:
    """Everything on the page."""

    title: str
    source: str
    """Where the images come from: a data set and its split, or the person's own files."""
    date: str
    classes: tuple[str, ...]
    runs: tuple[GalleryRun, ...]
    items: tuple[GalleryItem, ...]
    opacity: float = 0.7
    boxes: bool = True

    def html(self) -> str:
        """Write the page as one self-contained HTML text that needs no other file."""
        return html_page("gallery", self.title, self._content())

    def _content(self) -> Json:
        return {
            "source": self.source,
            "date": self.date,
            "classes": self.classes,
            "opacity": self.opacity,
            "boxes": self.boxes,
            "runs": [
                {
                    "name": run.name,
                    "method": run.method,
                    "checkpoint": run.checkpoint,
                    "map": run.map,
                    "normalisation": run.normalisation,
                    "images": run.images,
                    "recipe": {name: str(value) for name, value in run.recipe.items()},
                    "figures": dict(run.figures),
                }
                for run in self.runs
            ],
            "items": [_item(item) for item in self.items],
        }


def thumbnail(image: Image.Image) -> Image.Image:
    """Return a copy for the page, its longest side at most THUMBNAIL pixels."""
    small = image.convert("RGB").copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def _item(item: GalleryItem) -> Json:
    return {
        "name": item.name,
        "picture": jpeg_address(item.image),
        "width": item.image.width,
        "height": item.image.height,
        "true": item.true,
        "unknown": item.unknown,
        "labels": list(item.views[0].maps),
        "boxes": [{name: short(value) for name, value in box._asdict().items()} for box in item.boxes],
        "views": [
            {
                "scores": {label: short(score) for label, score in view.scores.items()},
                "predicted": view.predicted,
                "frame": [short(value) for value in view.frame],
                "maps": {label: map_levels(values) for label, values in view.maps.items()},
                "figures": dict(view.figures),
                "segments": _segments(view.segments, item.image.size) if view.segments else None,
            }
            for view in item.views
        ],
    }


def _segments(segments: Segments, size: tuple[int, int]) -> Json:
    """Label maps as small PNGs in their classes' colours, and the legend's lines.

    They are clear where there is not a class, and where its colour is black (VOC's background).
    """
    alpha = bytes([255 if colour.any() else 0 for colour in segments.colours]).ljust(256, b"\0")

    def coloured(labels: Labels) -> str:
        small = Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        small.putpalette(segments.colours.tobytes().ljust(768, b"\0"))
        file = io.BytesIO()
        small.save(file, "PNG", transparency=alpha)
        return data_address("png", file.getvalue())

    return {
        "predicted": coloured(segments.predicted),
        "labelled": None if segments.labelled is None else coloured(segments.labelled),
        "legend": [
            ["#" + segments.colours[label].tobytes().hex(), words] for label, words in segments.legend().items()
        ],
    }
