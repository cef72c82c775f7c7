"""Pictures of what each measure sees, beside its line in methods/engine/bias/README.md.

`python -m tests.helpers.measure_pictures` draws them again. What an intervention shows to a model is what the program
itself makes of a drawn image; of the measures of maps, green counts for a map and red against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter, label
from torch import Tensor

from attnbias.methods.engine.attention_measures import BACKGROUND_FLAGS, FAITHFULNESS, TIE, Bools, Floats
from attnbias.methods.engine.bias import backgrounds, reliance
from attnbias.methods.engine.bias.attention_bias import TAUS, box_mask, squared_distances, stretched
from attnbias.methods.engine.bias.box_accuracy import NEIGHBOURS, best_overlap
from attnbias.methods.engine.bias.faithfulness import faithfulness_curves, moved
from attnbias.methods.engine.bias.objects import Region, Sample
from attnbias.methods.engine.bias.road import road

FOLDER = Path(__file__).parents[2] / "methods" / "engine" / "bias" / "pictures"
SIDE, GAP = 64, 4
"""Pixels of a panel, and of the white between two."""
STORED = 224
"""The side that the image is taken to have in its file, of which the pointing game's 15 pixels are."""

Pixels = NDArray[np.uint8]
"""(H, W, 3)"""
Planes = tuple[np.ndarray, np.ndarray]
"""(H, W) each, from 0 to 1: how much each pixel counts for a map, and against it."""

GREEN, RED = (26, 152, 80), (215, 48, 39)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] + 0.5
OBJECT: Bools = ((ROWS - 36) / 15) ** 2 + ((COLUMNS - 36) / 19) ** 2 <= 1
BOX = np.array([[17, 21, 55, 51]])
"""Around the object: x1, y1, x2, y2, half-open."""


def blob(row: float, column: float, sigma: float) -> Floats:
    """A map (SIDE, SIDE) with one peak."""
    return np.asarray(np.exp(-((ROWS - row) ** 2 + (COLUMNS - column) ** 2) / (2 * sigma**2)))


MAPS = (blob(32, 44, 10), blob(12, 13, 7), np.ones((SIDE, SIDE)))
"""One on the object and over its border, one beside it, and one that is constant."""


# Measures of maps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One map on the object."""

    energy: Floats

    @cached_property
    def level(self) -> Floats:
        return stretched(self.energy[None])[0]

    @cached_property
    def focus(self) -> Bools:
        return self.reaching(0.5)

    @cached_property
    def points(self) -> Bools:
        """The highest pixels, which a constant map has everywhere."""
        return np.asarray(self.level >= self.level.max() - TIE)

    def reaching(self, tau: float) -> Bools:
        return np.asarray(self.level >= tau - TIE)

    @cached_property
    def sweep(self) -> Bools:
        """(T, SIDE, SIDE): the focus at each threshold."""
        return np.array([self.reaching(tau) for tau in TAUS])


NOTHING = np.zeros((SIDE, SIDE))


def parted(weights: np.ndarray) -> Planes:
    """What counts for a map on the object, and against it elsewhere."""
    return weights * OBJECT, weights * ~OBJECT


def recall(example: Example) -> Planes:
    return example.focus & OBJECT, OBJECT & ~example.focus


def overlap(focus: Bools) -> Planes:
    return focus & OBJECT, focus ^ OBJECT


def position_bias(focus: Bools) -> Planes:
    return (NOTHING, focus) if not (focus & OBJECT).any() else (focus, NOTHING)


def range_bias(example: Example, most: float = 0.0) -> Planes:
    """What crosses the border, of a focus that meets the object, where it is more than a share of the focus."""
    on, off = parted(example.focus)
    return (on, off) if on.any() and off.sum() > most * example.focus.sum() else (on, NOTHING)


def both_biases(example: Example) -> Planes:
    _, off = parted(example.focus)
    return (NOTHING, example.focus) if off.any() else (example.focus, NOTHING)


def lift(example: Example) -> Planes:
    """By the mean of the map: four times it is full."""
    return parted((example.energy / example.energy.mean() / 4).clip(0, 1))


def pointing(tolerance: float) -> Callable[[Example], Planes]:
    def seen(example: Example) -> Planes:
        near = squared_distances(OBJECT[None])[0] <= tolerance**2
        point = example.points if example.points.all() else squared_distances(example.points[None])[0] <= 4
        hit = bool((example.points & near).any())
        return np.maximum(0.3 * near, point * hit), point & ~near

    return seen


def area_matched(example: Example) -> Planes:
    """As many of the highest pixels as the object has; those that are tied at the cut share what is left."""
    area = OBJECT.sum()
    cut = np.sort(example.level, axis=None)[-area]
    above, tied = example.level > cut + TIE, np.abs(example.level - cut) <= TIE
    return parted(above + tied * (area - above.sum()) / tied.sum())


def soft_overlap(example: Example) -> Planes:
    shared = np.minimum(example.level, OBJECT)
    return shared, np.maximum(example.level, OBJECT) - shared


def centres(example: Example) -> Planes:
    """The way from the object's centre of mass to the map's."""
    masses = (OBJECT, example.energy)
    ends = [np.array([(mass * axis).sum() / mass.sum() for axis in (ROWS, COLUMNS)]) for mass in masses]
    way = np.zeros((SIDE, SIDE), dtype=bool)
    for part in np.linspace(0, 1, 4 * SIDE):
        row, column = (ends[0] + part * (ends[1] - ends[0])).astype(int)
        way[row - 1 : row + 1, column - 1 : column + 1] = True
    return NOTHING, way


def swept(seen: Callable[[Bools], Planes]) -> Callable[[Example], Planes]:
    """The mean over the thresholds."""

    def mean(example: Example) -> Planes:
        counted, against = zip(*map(seen, example.sweep), strict=True)
        return np.mean(counted, axis=0), np.mean(against, axis=0)

    return mean


def best_of_sweep(example: Example) -> Planes:
    best = max(example.sweep, key=lambda focus: (focus & OBJECT).sum() / (focus | OBJECT).sum())
    return overlap(best)


def boxes(example: Example) -> Planes:
    """Boxes around what is shown at the map's best threshold: right by half, or not."""
    best = max(example.sweep, key=lambda focus: best_overlap(focus, BOX))
    parts, _ = label(best, NEIGHBOURS)
    drawn = [box_mask(np.array([x.start, y.start, x.stop, y.stop]), SIDE, SIDE) for y, x in find_objects(parts)]
    lines = np.any([frame(each) for each in drawn], axis=0) if drawn else NOTHING
    return (lines, NOTHING) if best_overlap(best, BOX) >= 0.5 else (NOTHING, lines)


SEEN: dict[str, Callable[[Example], Planes]] = {
    "degenerate": lambda example: (NOTHING, np.full((SIDE, SIDE), not example.level.any())),
    "area_share": lambda _: (OBJECT, NOTHING),
    "focus_area": lambda example: (example.focus, NOTHING),
    "precision": lambda example: parted(example.focus),
    "recall": recall,
    "iou": lambda example: overlap(example.focus),
    "spill": lambda example: parted(example.focus),
    "miss": recall,
    "position_biased": lambda example: position_bias(example.focus),
    "range_biased": range_bias,
    "energy": lambda example: parted(example.energy / example.energy.max()),
    "energy_lift": lift,
    "energy_lift_of_samples": lift,
    "pointing": pointing(15 * SIDE / STORED),
    "pointing_scaled": pointing(0.03 * SIDE),
    "pointing_no_tolerance": pointing(0.0),
    "area_matched": area_matched,
    "soft_iou": soft_overlap,
    "centroid_shift": centres,
    "position_biased_sweep": swept(position_bias),
    "spill_sweep": swept(parted),
    "iou_best": best_of_sweep,
    "unbiased": both_biases,
    "range_biased_given_not_position": range_bias,
    "range_biased_quarter": lambda example: range_bias(example, most=0.25),
    "pxap": lambda example: parted(example.level),
    "maxboxacc_v2": boxes,
}
"""By the name of the measure."""


def frame(plane: Bools) -> Bools:
    """The pixels of a plane (H, W) that lie at its border."""
    inner = np.pad(plane, 1)
    return plane & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


def of_map(seen: Callable[[Example], Planes], energy: Floats) -> Pixels:
    """A map in grey with what counts, and the object's border."""
    example = Example(energy)
    pixels = np.repeat((245 - 110 * example.level)[..., None], 3, axis=2)
    for plane, colour in zip(seen(example), (GREEN, RED), strict=True):
        weight = 0.85 * np.asarray(plane, dtype=np.float64)[..., None]
        pixels = pixels * (1 - weight) + np.array(colour) * weight
    pixels[frame(OBJECT)] = 0
    return pixels.round().astype(np.uint8)


# What a model is shown ------------------------------------------------------------------------------------------------


def scene(background: Sequence[float], stripes: float, thing: Sequence[float] | None = None) -> Tensor:
    """An image (3, SIDE, SIDE) in [-1, 1]: stripes of a colour, and an object."""
    pixels = np.asarray(background) + 0.25 * np.sin((ROWS + stripes * COLUMNS) / 3)[..., None]
    if thing is not None:
        pixels = np.where(OBJECT[..., None], np.asarray(thing) + 0.15 * np.sin(COLUMNS / 2)[..., None], pixels)
    return torch.from_numpy(pixels.clip(-1, 1).transpose(2, 0, 1).astype(np.float32))


IMAGE = scene((-0.2, 0.5, -0.4), 1.0, (0.8, 0.3, -0.5))
SAME, OTHER = scene((-0.1, 0.6, -0.3), -1.0), scene((0.1, 0.2, 0.7), 0.0)
"""Contexts: of another image of the class, and of one without it."""
SAMPLE = Sample(0, 0, Region(0, OBJECT, np.zeros_like(OBJECT), 1.0, box_mask(BOX, SIDE, SIDE)), 1.0)


def as_pixels(image: Tensor) -> Pixels:
    """An image (3, H, W) in [-1, 1]."""
    return ((image.permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round().astype(np.uint8)


def grey(level: Floats) -> Pixels:
    """A map in grey: dark is high."""
    return np.repeat((245 - 200 * level)[..., None], 3, axis=2).round().astype(np.uint8)


def on_other_contexts() -> dict[str, list[Tensor]]:
    """What `--backgrounds` scores."""
    half = torch.full((3, 1, 1), 0.5)
    shown = dict(zip(BACKGROUND_FLAGS, backgrounds.versions(IMAGE, SAMPLE, SAME, OTHER, (half, half)), strict=True))
    pairs = {"bg_gap": ("mixed_same", "mixed_rand"), "rfs": ("noise_on_object", "noise_on_context")}
    return {name: [image] for name, image in shown.items()} | {
        name: [shown[one], shown[other]] for name, (one, other) in pairs.items()
    }


def without_context() -> dict[str, list[Tensor]]:
    """What `--reliance` scores."""
    hidden = reliance.widened(SAMPLE.region.box)
    shown = dict(zip(reliance.COLUMNS, reliance.versions(IMAGE, SAMPLE, hidden, OTHER), strict=True))
    together = {
        "fill_spread": reliance.FILLS,
        "object_share": ("object_only", "probability"),
        "context_share": ("context_only", "probability"),
    }
    return {name: [image] for name, image in shown.items()} | {
        name: [shown[part] for part in parts] for name, parts in together.items()
    }


def of_the_map_itself() -> dict[str, list[Pixels]]:
    """What `--faithfulness` scores and compares: the images are those that its curves ask a model for."""
    asked: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        asked.extend(images)
        return torch.zeros(len(images))

    saliency = torch.from_numpy(MAPS[0])
    faithfulness_curves(IMAGE, saliency, score, pixels_per_step=SIDE * SIDE // 10)
    deletion, insertion = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    asked = []
    road(IMAGE, saliency, score, seed=0)
    highest, lowest = asked[0], asked[len(asked) // 2]
    noise = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    untrained = stretched(gaussian_filter(noise, 5)[None])[0]
    images = {
        "deletion": [deletion[1], deletion[3], deletion[6]],
        "insertion": [insertion[1], insertion[3], insertion[6]],
        "aopc": [deletion[0], deletion[1], deletion[3], deletion[6]],
        "road": [highest, lowest],
        "shift_agreement": [IMAGE, moved(IMAGE)],
    }
    maps = {
        "agreement": [MAPS[0], blob(34, 38, 13)],
        "untrained_agreement": [MAPS[0], untrained],
    }
    drawn = {name: [as_pixels(image) for image in row] for name, row in images.items()}
    return drawn | {name: [grey(each) for each in row] for name, row in maps.items()}


# Files ----------------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, Pixels]:
    """All pictures, by the name of the measure."""
    rows = {name: [of_map(seen, energy) for energy in MAPS] for name, seen in SEEN.items()}
    trust = of_the_map_itself()
    rows |= {each.name: trust[each.name] for each in FAITHFULNESS}
    for images in (on_other_contexts(), without_context()):
        rows |= {name: [as_pixels(image) for image in row] for name, row in images.items()}
    return {name: beside(row) for name, row in rows.items()}


def beside(panels: Sequence[Pixels]) -> Pixels:
    """Panels in a row."""
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, pixels in pictures().items():
        Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
