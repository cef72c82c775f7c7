"""What an image is like without its objects: brightness, colour, sharpness, border, each place's colour; and what its
file and its row say of it. `causes.py` asks whether any of it tells the label, or the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.datasets import ImageDataset
from attnbias.data.images import read_header

GRID = 6
"""Places along each side of the image; even, so that each has mirrored ones."""

FEWEST = 10
"""Images on either side, below which nothing is asked."""

FRAME = 1 / 32
"""Of the image's side: how wide its border is."""

Place = tuple[int, int]
"""Row and column in the grid of GRID x GRID places."""


@dataclass(frozen=True)
class Trait:
    """One property of images, as a number of each."""

    name: str
    more: str
    """In words, an image with a high value: "brighter"."""
    less: str
    source: Literal["picture", "column"] = "picture"
    place: Place | None = None
    is_word: bool = False
    """Whether it says of each image that a column holds one word there, or not."""


OF_IMAGE = (
    ("brightness", "brighter", "darker"),
    ("redness", "redder", "greener"),
    ("yellowness", "yellower", "bluer"),
    ("detail", "busier", "plainer"),
)
"""Of the whole image and of each of its places: how the planes of `_planes` are called."""

OF_WHOLE = (
    ("contrast", "of more contrast", "of less contrast"),
    ("saturation", "more colourful", "paler"),
    ("sharpness", "sharper", "blurrier"),
    ("border", "busier at its border", "plainer at its border"),
)


def where(place: Place) -> str:
    """A place in words: "at the top left"."""
    row, column = (each * 3 // GRID for each in place)
    words = [("top", "", "bottom")[row], ("left", "", "right")[column]]
    return f"at the {' '.join(word for word in words if word) or 'middle'}"


def picture_traits() -> list[Trait]:
    """The columns of `picture_values`."""
    whole = [Trait(name, more, less) for name, more, less in (*OF_IMAGE, *OF_WHOLE)]
    places = [(row, column) for row in range(GRID) for column in range(GRID)]
    return whole + [
        Trait(f"{name} of place {row + 1},{column + 1}", f"{more} {at}", f"{less} {at}", place=(row, column))
        for name, more, less in OF_IMAGE
        for row, column in places
        for at in [where((row, column))]
    ]


def picture_values(images: Tensor) -> Tensor:
    """Properties (B, P) of images (B, 3, H, W) with pixels within 0..1, as a network sees them; see `picture_traits`.

    Redness is red - green, yellowness the mean of both - blue, detail the mean step from a pixel to its neighbours,
    sharpness the mean second difference by the mean first one (whatever the contrast).
    """
    planes, second = _planes(images)
    brightness, detail = planes[:, 0], planes[:, 3]
    width = max(1, round(FRAME * min(images.shape[-2:])))
    inner = torch.zeros_like(detail)
    inner[:, width:-width, width:-width] = 1
    whole = [
        *planes.mean((2, 3)).T,
        brightness.std((1, 2)),
        (images.amax(1) - images.amin(1)).mean((1, 2)),
        second.mean((1, 2)) / detail.mean((1, 2)).clamp_min(1e-6),
        (detail * (1 - inner)).sum((1, 2)) / (1 - inner).sum((1, 2)),
    ]
    places = F.adaptive_avg_pool2d(planes, GRID).flatten(1)
    return torch.cat([torch.stack(whole, dim=1), places], dim=1)


def _planes(images: Tensor) -> tuple[Tensor, Tensor]:
    """The planes of OF_IMAGE (B, 4, H, W), and the second differences of brightness (B, H, W)."""
    red, green, blue = images.unbind(1)
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    padded = F.pad(brightness[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    middle = padded[:, 1:-1, 1:-1]
    right, below = padded[:, 1:-1, 2:] - middle, padded[:, 2:, 1:-1] - middle
    left, above = middle - padded[:, 1:-1, :-2], middle - padded[:, :-2, 1:-1]
    planes = torch.stack([brightness, red - green, (red + green) / 2 - blue, (right.abs() + below.abs()) / 2], dim=1)
    return planes, ((right - left).abs() + (below - above).abs()) / 2


def file_values(dataset: ImageDataset, positions: Sequence[int]) -> tuple[list[Trait], NDArray[np.float64]]:
    """What is known of images without decoding them: traits and values (N, P). Size, aspect ratio, camera and format
    of their files, their `group`, and the further columns of the table that they were listed in."""
    records = [dataset.records[position] for position in positions]
    columns = {
        name: [record.metadata[number] for record in records] for number, name in enumerate(dataset.index.metadata)
    }
    columns["group"] = [record.group or "" for record in records]
    found: list[tuple[Trait, NDArray[np.float64]]] = []
    if not dataset.archived:
        headers = [read_header(dataset.index.root / record.path) for record in records]
        sizes = np.array([header.size(dataset.index.orientation) for header in headers], dtype=np.float64)
        found += [
            (Trait("size in pixels", "of more pixels", "of fewer pixels"), sizes.prod(1)),
            (Trait("aspect ratio", "wider", "taller"), sizes[:, 0] / sizes[:, 1]),
        ]
        columns.setdefault("camera", [header.camera for header in headers])
        columns.setdefault("file type", [header.format for header in headers])
    for name, values in columns.items():
        found += _of_column(name, values)
    if not found:
        return [], np.zeros((len(records), 0))
    return [trait for trait, _ in found], np.stack([own for _, own in found], axis=1)


def _of_column(name: str, values: Sequence[str]) -> list[tuple[Trait, NDArray[np.float64]]]:
    """The traits of a column of metadata: one number, missing ones taken as the middle one; or of words, each that
    FEWEST images have, and as many have not."""
    numbers = np.array([_number(value) for value in values])
    if not np.isinf(numbers).any() and len(np.unique(numbers[~np.isnan(numbers)])) > 2:
        middle = np.nanmedian(numbers)
        return [(Trait(name, f"of higher {name}", f"of lower {name}", "column"), np.nan_to_num(numbers, nan=middle))]
    found = []
    words, counts = np.unique(values, return_counts=True)
    for word, count in zip(words.tolist(), counts.tolist(), strict=True):
        if word and FEWEST <= count <= len(values) - FEWEST:
            said = f"{name} {word}"
            trait = Trait(said, f"more often of {said}", f"less often of {said}", "column", is_word=True)
            found.append((trait, np.array([each == word for each in values], dtype=np.float64)))
    return found


def _number(value: str) -> float:
    """A value of a column: NaN where it is empty, infinite where it is not a number."""
    try:
        return float(value) if isfinite(float(value)) else inf
    except ValueError:
        return inf if value else nan
