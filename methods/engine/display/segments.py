"""Label maps shown over their images: each class in its colour, a legend, and how well each class is covered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attnbias.data.label_maps import IGNORE
from attnbias.data.sets.palettes import palette

Labels = np.ndarray
"""Class of each pixel (H, W), 255 = none."""

OPACITY = 0.5
"""Strength of the colours, as in MMSegmentation's images."""

GAP, LINE, SWATCH, ENTRY = 10, 22, 14, 220
"""Pixels of a drawing: around each part, between the legend's lines, a colour's square, the least width of an entry."""


@dataclass(frozen=True)
class Segments:
    """What a model says about each pixel of an image, and what people said where that is known."""

    predicted: Labels
    labelled: Labels | None
    classes: tuple[str, ...]

    @property
    def colours(self) -> NDArray[np.uint8]:
        """Colour of each class, (K, 3) RGB."""
        return palette(self.classes)

    def table(self) -> NDArray[np.int64]:
        """Count the labelled pixels by their label and their prediction: (K, K)."""
        assert self.labelled is not None
        known, number = self.labelled != IGNORE, len(self.classes)
        pairs = self.labelled[known].astype(np.int64) * number + self.predicted[known]
        return np.bincount(pairs, minlength=number * number).reshape(number, number)

    @cached_property
    def overlaps(self) -> dict[int, float]:
        """Intersection over union of each class in this image; empty where nobody labelled it."""
        return {} if self.labelled is None else overlaps(self.table())

    def words(self, label: int) -> str:
        """What is known about one class of this image, as text."""
        parts = [f"IoU {self.overlaps[label]:.1%}"] if label in self.overlaps else []
        parts.append(f"{(self.predicted == label).mean():.1%} of the pixels predicted")
        if self.labelled is not None:
            parts.append(f"{(self.labelled == label).mean():.1%} labelled")
        return ", ".join(parts)

    def legend(self) -> dict[int, str]:
        """Every class that is predicted or labelled, the largest prediction first -> its name and its IoU."""
        labelled = () if self.labelled is None else by_size(self.labelled)
        return {
            label: self.classes[label].strip() + (f", IoU {self.overlaps[label]:.1%}" if label in self.overlaps else "")
            for label in dict.fromkeys((*by_size(self.predicted), *labelled))
        }


def overlaps(table: NDArray[np.int64]) -> dict[int, float]:
    """Intersection over union of each class that is predicted or labelled, from a table of pixels (K, K)."""
    both = table.diagonal()
    either = table.sum(axis=0) + table.sum(axis=1) - both
    return {int(label): float(both[label] / either[label]) for label in np.flatnonzero(either)}


def said_of_all(shown: Sequence[Segments]) -> dict[str, str]:
    """IoU over the pixels of several images: their mean, and each class's; nothing where no image is labelled."""
    tables = [segments.table() for segments in shown if segments.labelled is not None]
    if not tables:
        return {}
    found = overlaps(np.sum(tables, axis=0))
    names = shown[0].classes
    each = ", ".join(f"{names[label].strip()} {value:.1%}" for label, value in found.items())
    return {"mIoU of these images": f"{np.mean(list(found.values())):.1%}", "IoU by class": each}


def by_size(labels: Labels) -> tuple[int, ...]:
    """Classes of a label map, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return tuple(int(label) for label in np.argsort(-counts, kind="stable") if counts[label])


def paint(
    image: NDArray[np.uint8], labels: Labels, colours: NDArray[np.uint8], opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """Blend each pixel's class colour into an image (H, W, 3) RGB; levels are cut off, not rounded (MMSegmentation's).

    `labels` (H, W) are class numbers, `colours` (K, 3) RGB; pixels labelled 255 show the image.
    """
    known = labels < len(colours)
    over = np.where(known[..., None], colours[np.where(known, labels, 0)], image)
    return (image * (1 - opacity) + over * opacity).astype(np.uint8)


def draw_segments(image: Image.Image, segments: Segments) -> Image.Image:
    """Draw the predicted label map over the image, the labelled one beside it, and below them each class's colour
    and IoU.

    Label maps may be of another size than the image.
    """
    parts = {"predicted": segments.predicted}
    if segments.labelled is not None:
        parts["labelled"] = segments.labelled
    entries = segments.legend()
    width = len(parts) * (image.width + GAP) + GAP
    across = max(1, (width - GAP) // ENTRY)
    bottom = LINE + image.height + GAP
    sheet = Image.new("RGB", (width, bottom + LINE * -(-len(entries) // across) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for position, (name, labels) in enumerate(parts.items()):
        fitted = Image.fromarray(labels.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
        painted = paint(np.asarray(image.convert("RGB")), np.asarray(fitted), segments.colours)
        left = GAP + position * (image.width + GAP)
        pen.text((left, 3), name, font=font, fill="black")
        sheet.paste(Image.fromarray(painted), (left, LINE))
    for position, (label, words) in enumerate(entries.items()):
        left, top = GAP + position % across * ((width - GAP) // across), bottom + position // across * LINE
        red, green, blue = segments.colours[label].tolist()
        pen.rectangle((left, top + 2, left + SWATCH, top + 2 + SWATCH), fill=(red, green, blue), outline="black")
        pen.text((left + SWATCH + 6, top + 1), words, font=font, fill="black")
    return sheet
