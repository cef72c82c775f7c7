"""One HTML file that shows where models looked: what is on the page, and how it is written. No torch, no network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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
    accuracy: tuple[str, float] | None = None
    """The metric that its scores on the page's images are measured by, and its value."""


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
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Class -> values of the map before it was normalised that are 0 and 1 now; where known, maps can share a scale."""


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
    suggested: Mapping[int, str] = field(default_factory=dict)
    """Class -> what else the image shows that came with it in training, in words."""


class Verdict(NamedTuple):
    """What a model's labels of an image are worth; labels that are unknown there are not judged."""

    found: tuple[int, ...]
    missed: tuple[int, ...]
    added: tuple[int, ...]

    @property
    def right(self) -> bool:
        """Whether all labels are."""
        return not self.missed and not self.added


def verdict(item: GalleryItem, view: View) -> Verdict | None:
    """Hold a view's labels against the true ones; None where nobody knows these."""
    if item.true is None:
        return None
    return Verdict(
        tuple(label for label in item.true if label in view.predicted),
        tuple(label for label in item.true if label not in view.predicted),
        tuple(label for label in view.predicted if label not in item.true and label not in item.unknown),
    )


def outcome(item: GalleryItem, view: View, label: int) -> Literal["found", "missed", "added", "refused", ""]:
    """What a view makes of one class; nothing where that cannot be said."""
    if item.true is None or label in item.unknown:
        return ""
    if label in item.true:
        return "found" if label in view.predicted else "missed"
    return "added" if label in view.predicted else "refused"


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
    threshold: float | None = None
    """The score from which on a label is predicted; None where scores do not decide so."""

    @property
    def one_label(self) -> bool:
        """Whether each image has exactly one label, and each model names one."""
        return all(
            len(item.true or (0,)) == 1 and len(view.predicted) == 1 for item in self.items for view in item.views
        )

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
            "threshold": self.threshold,
            "headline": headline(self),
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
                    "verdict": _counts(self, position),
                }
                for position, run in enumerate(self.runs)
            ],
            "items": [_item(item) for item in self.items],
        }


# In words -------------------------------------------------------------------------------------------------------------


def _verdicts(page: GalleryPage, position: int) -> list[tuple[GalleryItem, Verdict]]:
    pairs = ((item, verdict(item, item.views[position])) for item in page.items)
    return [(item, found) for item, found in pairs if found is not None]


def _counts(page: GalleryPage, position: int) -> str:
    """What a run is right on, and what is counted."""
    verdicts = [found for _, found in _verdicts(page, position)]
    if not verdicts:
        return ""
    right = f"{sum(found.right for found in verdicts)} of {len(verdicts)} images"
    if page.one_label:
        return f"{right} right"
    found, missed, added = (sum(len(labels) for labels in column) for column in zip(*verdicts, strict=True))
    return f"{found} of {found + missed} true labels found, {added} added \u00b7 {right} wholly right"


def headline(page: GalleryPage) -> str:
    """What the page shows, in one sentence made of figures of its own images; nothing where no labels are known."""
    parts = []
    for position, run in enumerate(page.runs):
        verdicts = _verdicts(page, position)
        if not verdicts:
            return ""
        added = [label in item.suggested for item, found in verdicts for label in found.added]
        figure = "" if run.accuracy is None else f"reaches {run.accuracy[0]} {run.accuracy[1]:.0f} and "
        if page.one_label:
            words = f"is right on {sum(found.right for _, found in verdicts)} and wrong on {len(added)}"
        else:
            words = f"adds {len(added)} label{'' if len(added) == 1 else 's'} that {_are(len(added))} not there"
        if added and any(item.suggested for item in page.items):
            words += f", {sum(added)} of them suggested by what else is in the image"
        parts.append(f"{run.name} {figure}{words}")
    number = sum(item.true is not None for item in page.items)
    return f"On {'this image' if number == 1 else f'these {number} images'}, {'; '.join(parts)}."


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def opening_class(item: GalleryItem) -> int:
    """The class whose maps are shown first: of an image that a run is wrong on, the one that is added with the highest
    score, else the one that is missed with the lowest; of another image, its first true one."""
    judged = [(view, found) for view in item.views if (found := verdict(item, view)) is not None]
    drawn = item.views[0].maps
    added = [(each.scores.get(label, 0.0), label) for each, found in judged for label in found.added if label in drawn]
    missed = [
        (view.scores.get(label, 0.0), label) for view, found in judged for label in found.missed if label in drawn
    ]
    if added:
        return max(added)[1]
    if missed:
        return min(missed)[1]
    return next(iter(drawn))


# As JSON --------------------------------------------------------------------------------------------------------------


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> Image.Image:
    """A copy for a page, its longest side at most `side` pixels."""
    small = image.convert("RGB")  # a copy of any image
    small.thumbnail((side, side))
    return small


def image_json(item: GalleryItem, quality: int = 88, of: Sequence[int] | None = None) -> Json:
    """An image and its boxes, for the script of any page; only boxes `of` these classes where that is given."""
    boxes = [box for box in item.boxes if of is None or box.label in of]
    return {
        "name": item.name,
        "picture": jpeg_address(item.image, quality),
        "width": item.image.width,
        "height": item.image.height,
        "true": item.true,
        "boxes": [{name: short(value) for name, value in box._asdict().items()} for box in boxes],
    }


def view_json(view: View, of: Sequence[int] | None = None) -> Json:
    """What a model says of an image, for the script of any page; only `of` these classes where that is given."""
    return {
        "predicted": view.predicted,
        "scores": {label: short(score) for label, score in view.scores.items() if of is None or label in of},
        "frame": [short(share) for share in view.frame],
        "maps": {label: map_levels(values) for label, values in view.maps.items() if of is None or label in of},
    }


def _item(item: GalleryItem) -> Json:
    return {
        **image_json(item),
        "unknown": item.unknown,
        "labels": list(item.views[0].maps),
        "opens": opening_class(item),
        "suggested": dict(item.suggested),
        "views": [
            {
                **view_json(view),
                "ranges": {label: [float(f"{edge:.4g}") for edge in edges] for label, edges in view.ranges.items()},
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
