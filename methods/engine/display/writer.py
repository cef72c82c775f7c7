"""What `visualize` writes: overlays of every image, column and class (or question), panels, label maps, sheets of
questions, the gallery page, and the raw maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.summary import Suggestions
from attnbias.methods.engine.display.gallery import GalleryItem, GalleryPage, ShareBox, View, outcome, thumbnail
from attnbias.methods.engine.display.inference import Column, ImageSample, Prediction, gallery_item
from attnbias.methods.engine.display.overlay import DrawnBox, corners, draw, enlarged, published_overlay, seen_part
from attnbias.methods.engine.display.panels import draw_panels
from attnbias.methods.engine.display.segments import draw_segments, said_of_all
from attnbias.methods.engine.display.sheet import draw_sheet
from attnbias.methods.engine.metrics import THRESHOLD, by_formula
from attnbias.methods.engine.requests import VisualizeRequest

GALLERY, MAPS = "gallery.html", "maps.npz"
OVERLAYS, PANELS, SEGMENTS, SHEETS = "overlays", "panels", "segments", "sheets"

LONGEST = 100
"""Letters of a class or question in a file's name."""


class VisualizationWriter:
    """Collects images as they are looked at; overlays are written at once, the page and the maps at the end."""

    def __init__(
        self,
        folder: Path,
        columns: Sequence[Column],
        request: VisualizeRequest,
        names: Sequence[str],
        suggestions: Suggestions | None = None,
    ) -> None:
        self.folder, self.columns, self.request = folder, columns, request
        self.names = names
        """What is mapped, by number: the models' classes, or questions."""
        self.suggestions = suggestions
        self.items: list[GalleryItem] = []
        self.overlays = 0
        self._scored: list[tuple[NDArray[np.int64], tuple[NDArray[np.float32], ...]]] = []
        """Of each image that can be judged, its targets (C,) and each column's scores (C,)."""
        self._raw: list[list[tuple[int, int, NDArray[np.float32]]]] = [[] for _ in columns]

    def add(self, sample: ImageSample, prediction: Prediction) -> None:
        """Write overlays[/COLUMN]/POSITION_NAME.CLASS.png for every column and class, panels[/COLUMN]/POSITION_NAME.png
        where a method has panels to show, segments[/COLUMN]/POSITION_NAME.png where it tells the class of each pixel,
        sheets/POSITION_NAME.png with all of them, and keep the rest for the end."""
        position, request = len(self.items), self.request
        stem = f"{position:04d}_{file_name(Path(sample.name).stem)}"
        image = enlarged(sample.image)
        overlays: dict[int, list[Image.Image]] = {label: [] for label in prediction.views[0].maps}
        for column, view, raw, entries in zip(self.columns, prediction.views, prediction.raw, self._raw, strict=True):
            target = self._room(OVERLAYS, column)
            for label in view.maps:
                if request.style == "published":
                    published = published_overlay(np.asarray(sample.image), raw[label], (224, 224))
                    drawn = Image.fromarray(published.overlay)
                else:
                    boxes = sample.boxes if request.boxes else ()
                    name = self.names[label]
                    drawn = blended(image, view, label, name, boxes, request.opacity, contour=request.contour)
                path = target / f"{stem}.{file_name(self.names[label])[:LONGEST]}.png"
                drawn.save(path, compress_level=1)  # twice as quick as the default; photographs gain nothing by more
                overlays[label].append(drawn)
                self.overlays += 1
                entries.append((position, label, raw[label]))
        for column, panels in zip(self.columns, prediction.panels, strict=True):
            if panels:
                draw_panels(panels).save(self._room(PANELS, column) / f"{stem}.png")
        pairs = zip(self.columns[::-1], prediction.views[::-1], strict=True)
        for column, view in {id(column.loaded): (column, view) for column, view in pairs}.values():  # a model's first
            if view.segments is not None:
                draw_segments(image, view.segments).save(self._room(SEGMENTS, column) / f"{stem}.png")
        item = gallery_item(sample, thumbnail(sample.image), prediction.views, self.suggestions)
        sheet = draw_sheet(
            image,
            [column.name for column in self.columns],
            [self.names[label] for label in overlays],
            list(overlays.values()),
            [words_beside(item, [column.name for column in self.columns], label) for label in overlays],
        )
        (self.folder / SHEETS).mkdir(exist_ok=True)
        sheet.save(self.folder / SHEETS / f"{stem}.png", compress_level=1)
        self.items.append(item)
        if sample.true is not None and prediction.scores:
            self._scored.append((_targets(sample, len(self.names)), prediction.scores))

    def _room(self, kind: str, column: Column) -> Path:
        """The folder of a column's images of one kind; one column alone needs none of its own."""
        folder = self.folder / kind / (file_name(column.name) if len(self.columns) > 1 else "")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_page(self, source: str) -> None:
        """Write gallery.html; `source` says where the images come from."""
        names = [column.loaded.method.name.upper() for column in self.columns]
        page = GalleryPage(
            title=f"Where {' and '.join(dict.fromkeys(names))} look{'s' if len(set(names)) == 1 else ''}",
            source=source,
            date=date.today().isoformat(),
            classes=tuple(self.names),
            runs=tuple(
                replace(
                    column.describe(self.request.normalisation),
                    figures=self._figures(position),
                    accuracy=self._accuracy(column, position),
                )
                for position, column in enumerate(self.columns)
            ),
            items=tuple(self.items),
            opacity=self.request.opacity,
            boxes=self.request.boxes,
            threshold=THRESHOLD if self.columns[0].loaded.task == "multilabel" else None,
        )
        (self.folder / GALLERY).write_text(page.html(), encoding="utf-8")

    def _figures(self, position: int) -> dict[str, str]:
        """What is measured of a column over all its images."""
        views = [item.views[position] for item in self.items]
        return said_of_all([view.segments for view in views if view.segments is not None])

    def _accuracy(self, column: Column, position: int) -> tuple[str, float] | None:
        """The first metric of a column's kind of labels on the images that can be judged, where it has one."""
        metric = next(by_formula(column.loaded.task), None)
        if metric is None or not self._scored:
            return None
        targets = np.stack([targets for targets, _ in self._scored])
        scores = np.stack([columns[position] for _, columns in self._scored])
        value = metric.of(targets if metric.labels == "multilabel" else targets.argmax(axis=1), scores)
        return None if value is None else (metric.name, value)

    def write_maps(self) -> None:
        """Write maps.npz: maps as the methods give them, one table for each column k.

        `maps_k` (M, h, w) float32, `picture_k` and `class_k` (M,) say of what; `frame_k` (N, 4) says which part of
        each image the maps cover (x, y, width, height as shares). `pictures`, `classes`, `columns` are the names.
        """
        arrays: dict[str, Any] = {
            "pictures": np.array([item.name for item in self.items]),
            "classes": np.array(self.names),
            "columns": np.array([column.name for column in self.columns]),
        }
        for position, entries in enumerate(self._raw):
            images, labels, maps = zip(*entries, strict=True)
            arrays[f"picture_{position}"], arrays[f"class_{position}"] = np.array(images), np.array(labels)
            arrays[f"maps_{position}"] = np.stack(maps)
            arrays[f"frame_{position}"] = np.array([item.views[position].frame for item in self.items])
        np.savez_compressed(self.folder / MAPS, **arrays)


def blended(
    image: Image.Image,
    view: View,
    label: int,
    name: str,
    boxes: Sequence[ShareBox],
    opacity: float = 0.7,
    *,
    contour: bool,
) -> Image.Image:
    """The overlay of a class at the size of `image`, as it is or enlarged, with those of the `boxes` that are its."""
    return draw(
        image,
        view.maps[label],
        frame=seen_part(view.frame, image),
        opacity=opacity,
        contour=contour,
        boxes=[DrawnBox(*corners(box[1:], image), name) for box in boxes if box.label == label],
    )


def _targets(sample: ImageSample, classes: int) -> NDArray[np.int64]:
    """1 of true labels, -1 of unknown ones, else 0: (C,)."""
    targets = np.zeros(classes, dtype=np.int64)
    targets[list(sample.true or ())] = 1
    targets[list(sample.unknown)] = -1
    return targets


def words_beside(item: GalleryItem, columns: Sequence[str], label: int) -> list[str]:
    """What a sheet says beside the maps of a class or question: whether it is true, and a line for each column."""
    known = item.true is not None and label not in item.unknown
    lines = [] if not known else ["a true class" if label in (item.true or ()) else "not a true class"]
    for column, view in zip(columns, item.views, strict=True):
        nowhere = "" if view.maps[label].any() else "the map is 0 everywhere: no place speaks for the class"
        said = ", ".join(filter(None, (_said(view, label), outcome(item, view, label), nowhere)))
        if said:
            lines.append(f"{column}: {said}" if len(columns) > 1 else said)
    return lines


def _said(view: View, label: int) -> str:
    """A model's answers to a question, or its score of a class."""
    return view.figures.get(label) or (f"{view.scores[label]:.2f}" if label in view.scores else "")


def file_name(text: str) -> str:
    """Replace what a file system may not take."""
    return re.sub(r"[^\w.-]+", "_", text)
