"""The class of each pixel of a person's own images: areas, and label maps and overlays as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.label_maps import IGNORE
from attnbias.data.reading import Json
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.display.segments import Segments, paint
from attnbias.methods.engine.display.writer import file_name
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.prediction.said import Found, Said
from attnbias.methods.engine.requests import PredictRequest

MOST_CLASSES = IGNORE
"""A label map's pixel is one byte, whose last value stands for no class."""

LABELS, OVERLAYS = "labels", "overlays"
"""Folders of `predict --out`: class numbers in PNGs that hold their colours, and these colours over the images."""


class Areas(NamedTuple):
    """What is known of one image's label map."""

    path: str
    width: int
    height: int
    pixels: NDArray[np.int64]
    """Of each class (K,)."""
    file: str | None
    """The label map, below the folder that was asked for."""


@dataclass(frozen=True)
class LabelMaps(Said):
    """The label maps of several images."""

    found: Found
    images: list[Areas]
    top_k: int | None
    threshold: float | None

    def named(self, areas: Areas) -> dict[str, float]:
        """The classes of an image that are worth naming -> their shares of its pixels, the largest first."""
        shares = areas.pixels / (areas.width * areas.height)
        order = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label]]
        least, most = self.threshold or 0, len(order) if self.top_k is None else self.top_k
        classes = self.found.loaded.classes
        return {classes[label]: round(float(shares[label]), 6) for label in order[:most] if shares[label] >= least}

    def items(self) -> list[Json]:
        return [
            {
                "path": areas.path,
                "width": areas.width,
                "height": areas.height,
                "classes": [{"class": name, "share": share} for name, share in self.named(areas).items()],
                "label_map": areas.file,
            }
            for areas in self.images
        ]

    def lines(self) -> Iterator[str]:
        for areas in self.images:
            words = ", ".join(f"{name.strip()} {share:.1%}" for name, share in self.named(areas).items())
            yield f"{areas.path}: {words or '-'}"

    def rows(self) -> Iterator[list[str]]:
        yield ["path", *self.found.loaded.classes]
        for areas in self.images:
            yield [areas.path, *(f"{share:.6f}" for share in areas.pixels / (areas.width * areas.height))]


def label_images(
    request: PredictRequest, loaded: Loaded, paths: Sequence[str], accelerator: Accelerator, folder: Path | None
) -> tuple[list[Areas], list[str]]:
    """Label every pixel of every file once; the processes share them, and each has all areas in the end.

    Label maps and overlays go into `folder`, where there is one.

    Returns:
        What is known of each image that could be read, and why the others could not.

    Raises:
        DataError: an image cannot be read (with "error"; it is named), or none can.
    """
    assert isinstance(loaded.method, LabelsPixels)
    mine: list[tuple[int, Areas | str]] = []
    for place in range(accelerator.process_index, len(paths), accelerator.num_processes):
        try:
            image = read_image(Path(paths[place]), "upright")
        except DataError as error:
            if request.on_bad_image == "error":
                raise
            mine.append((place, str(error)))
            continue
        labels = loaded.method.label_map(loaded.model, np.asarray(image), loaded.recipe)
        name = None if folder is None else f"{place:04d}_{file_name(Path(paths[place]).stem)}.png"
        if folder is not None and name is not None:
            _write(folder, name, image, Segments(labels, None, tuple(loaded.classes)))
        pixels = np.bincount(labels.ravel(), minlength=len(loaded.classes))
        mine.append((place, Areas(paths[place], *image.size, pixels, name and f"{LABELS}/{name}")))
    parts = sorted(Control().join(mine), key=lambda part: part[0])
    skipped = [part for _, part in parts if isinstance(part, str)]
    images = [part for _, part in parts if isinstance(part, Areas)]
    if not images:
        raise DataError("no image could be read: " + "; ".join(skipped[:3]))
    return images, skipped


def _write(folder: Path, name: str, image: Image.Image, segments: Segments) -> None:
    """The label map in the image's own size, and the classes' colours over the image."""
    for part in (LABELS, OVERLAYS):
        (folder / part).mkdir(exist_ok=True)
    labels = Image.fromarray(segments.predicted.astype(np.uint8), "P")
    labels.putpalette(segments.colours.tobytes())
    labels.save(folder / LABELS / name)
    painted = paint(np.asarray(image), segments.predicted, segments.colours)
    Image.fromarray(painted).save(folder / OVERLAYS / name, compress_level=1)
