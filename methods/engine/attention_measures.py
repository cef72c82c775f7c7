"""What attention is measured by: one table, which `val`, `compare`, the pages and the documentation read. No torch.

A new measure is one entry of `ATTENTION`, with its formula above. Where no source is named, the measure is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.statistics import Ratio

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TIE = 1e-6

SCALED = 0.03
"""Tolerance of the pointing game, of the longer side."""

HEADLINE = "area_matched"
"""The one measure that a plot, and the order of a page of cases, go by."""


class Focus(NamedTuple):
    """Focus against object; arrays (N, T) over thresholds, or (N,) at one."""

    pixels: np.ndarray
    precision: Floats
    recall: Floats
    iou: Floats


@dataclass(frozen=True)
class HeldMaps:
    """N maps held against objects on one plane: what every measure of a sample is computed from."""

    energy: Floats
    """(N, H, W): the map's non-negative part."""
    level: Floats
    """(N, H, W): the same, stretched to [0, 1]."""
    masks: Bools
    """(N, H, W): the object."""
    valid: Bools
    """(N, H, W): what counts, as object or as context."""
    squared_distance: Floats
    """(N, H, W): of each pixel from the object, in pixels: whole numbers."""
    tolerance: Floats
    """(N,): of the pointing game, in pixels of the plane."""
    focus: Focus
    """At the threshold that was asked for, (N,)."""
    sweep: Focus
    """At the thresholds of the sweep, (N, T)."""

    @cached_property
    def share(self) -> Floats:
        """The object's share of what counts, (N,)."""
        return np.asarray(flat(self.masks).sum(1) / self.room)

    @cached_property
    def room(self) -> NDArray[np.int64]:
        """Pixels that count, (N,)."""
        return np.asarray(flat(self.valid).sum(1))

    @cached_property
    def on_object(self) -> Floats:
        """Share of the map's sum that lies on the object, (N,)."""
        total = (flat(self.energy) * flat(self.valid)).sum(1)
        inside = (flat(self.energy) * flat(self.masks)).sum(1)
        return np.where(total > 0, inside / np.where(total > 0, total, 1), self.share)


# Formulas -------------------------------------------------------------------------------------------------------------


def flat(planes: np.ndarray) -> np.ndarray:
    """Planes (N, H, W) as rows (N, P)."""
    return planes.reshape(len(planes), -1)


def _position_biased(held: HeldMaps) -> Floats:
    return (held.focus.precision <= 0).astype(np.float64)


def _range_biased(held: HeldMaps) -> Floats:
    return ((held.focus.precision > 0) & (held.focus.precision < 1)).astype(np.float64)


def _pointing(level: Floats, valid: Bools, target: Bools) -> Floats:
    """Share of the map's highest pixels that hit the target; ties made deterministic."""
    highest = np.where(valid, level, -np.inf).max(1, keepdims=True)
    points = valid & (level >= highest - TIE)
    return np.asarray((points & target).sum(1) / points.sum(1))


def _near(held: HeldMaps, radius: Floats) -> Floats:
    near = held.squared_distance <= (radius**2)[:, None, None]
    return _pointing(flat(held.level), flat(held.valid), flat(near))


def _area_matched(level: Floats, mask: Bools, valid: Bools) -> Floats:
    """Precision of as many highest pixels as the object has; pixels tied at the cut share what is left.

    No threshold, and unchanged by any increasing rescaling: 1 is exactly the object, its area share is chance.
    """
    area = mask.sum(1)
    ranked = np.sort(np.where(valid, level, -np.inf), axis=1)[:, ::-1]
    cut = np.take_along_axis(ranked, area[:, None] - 1, axis=1)
    above, tied = valid & (level > cut + TIE), valid & (np.abs(level - cut) <= TIE)
    weight = (area - above.sum(1)) / tied.sum(1)
    return ((above & mask).sum(1) + weight * (tied & mask).sum(1)) / area


def _centroid_shift(energy: Floats, masks: Bools, valid: Bools) -> Floats:
    """Distance between the map's centre of mass and the object's, over the image's diagonal."""
    height, width = masks.shape[1:]
    empty = energy.sum((1, 2)) <= 0
    weights = np.where(empty[:, None, None], valid, energy)
    rows, columns = np.arange(height), np.arange(width)

    def centre(mass: np.ndarray) -> tuple[Floats, Floats]:
        total = mass.sum((1, 2))
        return mass.sum(2) @ rows / total, mass.sum(1) @ columns / total

    (y, x), (object_y, object_x) = centre(weights), centre(masks)
    return np.hypot(y - object_y, x - object_x) / sqrt(height**2 + width**2)


def _unbiased(columns: Mapping[str, Floats]) -> float:
    return float(((columns["position_biased"] == 0) & (columns["range_biased"] == 0)).mean())


def _range_biased_given_not_position(columns: Mapping[str, Floats]) -> float:
    rest = columns["range_biased"][columns["position_biased"] == 0]
    return float(rest.mean()) if len(rest) else float("nan")


def _range_biased_quarter(columns: Mapping[str, Floats]) -> float:
    return float(((columns["position_biased"] == 0) & (columns["spill"] > 0.25)).mean())


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionMeasure:
    """One measure: a figure of each sample, whose mean is reported (`of_sample`), or of all samples together."""

    name: str
    words: str
    """What it says, for the documentation."""
    better: Literal["higher", "lower"] | None
    """Which way is better; None where it only describes."""
    source: str = ""
    of_sample: Callable[[HeldMaps], Floats] | None = None
    """-> (N,): a column of bias_samples.csv."""
    of_all: Callable[[Mapping[str, Floats]], float] | None = None
    """From the columns of all samples. A measure with none of the three is counted apart: pixel by pixel (PxAP),
    or by the boxes around what is shown (MaxBoxAccV2)."""
    shown: int | None = None
    """Its place in the table of `val`, ascending; None: only in the files."""
    compared: Literal["paired", "value"] | None = None
    """Whether `compare` shows it, with differences on the samples that two runs have in common, or alone."""
    ratio: tuple[str, str] | None = None
    """Or the mean of one column by the mean of another."""
    between: bool = False
    """Whether its place between the centre map (0) and the oracle of the map's own grid (1) is shown and compared too;
    bias.json has it of all measures."""
    flag: bool = False
    """Whether it is true or false of each sample (or, of equal highest pixels, partly true): intervals are then those
    of shares."""


LSAS = "Zhong et al., ICME 2023"
ZHANG = "Zhang et al., ECCV 2016"

ATTENTION: tuple[AttentionMeasure, ...] = (
    AttentionMeasure(
        "degenerate",
        "share of maps that are constant: they have no focus",
        None,
        of_sample=lambda held: np.asarray(1.0 - flat(held.level).any(1)),
        shown=130,
        flag=True,
    ),
    AttentionMeasure(
        "area_share", "the object's share of the image: chance", None, of_sample=lambda held: held.share, shown=120
    ),
    AttentionMeasure(
        "focus_area",
        "the focus's share of the image; the focus is where the map, stretched to [0, 1], reaches tau",
        None,
        of_sample=lambda held: np.asarray(held.focus.pixels / held.room),
    ),
    AttentionMeasure(
        "precision", "share of the focus on the object", "higher", of_sample=lambda held: held.focus.precision
    ),
    AttentionMeasure("recall", "share of the object in the focus", "higher", of_sample=lambda held: held.focus.recall),
    AttentionMeasure(
        "iou",
        "focus and object: intersection over union",
        "higher",
        of_sample=lambda held: held.focus.iou,
        shown=90,
        compared="paired",
    ),
    AttentionMeasure("spill", "1 - precision", "lower", of_sample=lambda held: 1 - held.focus.precision),
    AttentionMeasure("miss", "1 - recall", "lower", of_sample=lambda held: 1 - held.focus.recall),
    AttentionMeasure(
        "position_biased",
        "share of samples whose focus is wholly outside the object",
        "lower",
        LSAS,
        of_sample=_position_biased,
        shown=10,
        compared="paired",
        flag=True,
    ),
    AttentionMeasure(
        "range_biased",
        "share of samples whose focus meets the object and crosses its border",
        "lower",
        LSAS,
        of_sample=_range_biased,
        shown=20,
        compared="paired",
        flag=True,
    ),
    AttentionMeasure(
        "energy",
        "share of the map's sum on the object",
        "higher",
        of_sample=lambda held: held.on_object,
        shown=40,
        compared="paired",
        between=True,
    ),
    AttentionMeasure(
        "energy_lift",
        "mean energy by mean area_share: 1 is chance",
        "higher",
        ratio=("energy", "area_share"),
        shown=50,
        compared="paired",
    ),
    AttentionMeasure(
        "energy_lift_of_samples",
        "mean of each sample's energy by its own area_share: the smallest objects weigh most",
        "higher",
        of_sample=lambda held: np.asarray(held.on_object / held.share),
    ),
    AttentionMeasure(
        "pointing",
        "pointing game: the highest pixel is on the object, or within 15 pixels of the stored image",
        "higher",
        ZHANG,
        of_sample=lambda held: _near(held, held.tolerance),
        flag=True,
    ),
    AttentionMeasure(
        "pointing_scaled",
        "the same, within 3 % of the longer side: 15 pixels of 500, as published, whatever the images' size",
        "higher",
        of_sample=lambda held: _near(held, np.full(len(held.masks), SCALED * max(held.masks.shape[1:]))),
        shown=60,
        compared="paired",
        flag=True,
    ),
    AttentionMeasure(
        "pointing_no_tolerance",
        "the same, on the object itself",
        "higher",
        ZHANG,
        of_sample=lambda held: _pointing(flat(held.level), flat(held.valid), flat(held.masks)),
        shown=70,
        compared="paired",
        flag=True,
    ),
    AttentionMeasure(
        "area_matched",
        "share of the object among as many of the highest pixels as it has: needs no threshold",
        "higher",
        of_sample=lambda held: _area_matched(flat(held.level), flat(held.masks), flat(held.valid)),
        shown=80,
        compared="paired",
        between=True,
    ),
    AttentionMeasure(
        "soft_iou",
        "the stretched map and the object: sum of minima over sum of maxima",
        "higher",
        of_sample=lambda held: np.asarray(
            np.minimum(flat(held.level), flat(held.masks)).sum(1)
            / (np.maximum(flat(held.level), flat(held.masks)) * flat(held.valid)).sum(1)
        ),
    ),
    AttentionMeasure(
        "centroid_shift",
        "distance of the centres of mass of map and object, over the image's diagonal",
        "lower",
        of_sample=lambda held: _centroid_shift(held.energy * held.valid, held.masks, held.valid),
        shown=110,
        compared="paired",
    ),
    AttentionMeasure(
        "position_biased_sweep",
        "position_biased, mean over thresholds from 0.05 to 0.95",
        "lower",
        of_sample=lambda held: np.asarray((held.sweep.precision <= 0).mean(1)),
    ),
    AttentionMeasure(
        "spill_sweep",
        "spill, mean over the same thresholds",
        "lower",
        of_sample=lambda held: np.asarray((1 - held.sweep.precision).mean(1)),
    ),
    AttentionMeasure(
        "iou_best",
        "iou at the best of the same thresholds",
        "higher",
        of_sample=lambda held: np.asarray(held.sweep.iou.max(1)),
    ),
    AttentionMeasure(
        "unbiased", "share of samples with neither position nor range bias", "higher", LSAS, of_all=_unbiased, shown=30
    ),
    AttentionMeasure(
        "range_biased_given_not_position",
        "range_biased among the samples without position bias",
        "lower",
        of_all=_range_biased_given_not_position,
    ),
    AttentionMeasure(
        "range_biased_quarter",
        "share of samples without position bias whose focus lies off the object by more than a quarter",
        "lower",
        of_all=_range_biased_quarter,
    ),
    AttentionMeasure(
        "pxap",
        "PxAP: average precision of the pixels of all stretched maps together",
        "higher",
        "Choe et al., CVPR 2020",
        shown=100,
        compared="value",
    ),
    AttentionMeasure(
        "maxboxacc_v2",
        "MaxBoxAccV2: share of samples with a box around a connected part of the map, at the best threshold for all, "
        "that overlaps one of the object's boxes by 0.3, 0.5, 0.7: the mean of the three",
        "higher",
        "Choe et al., TPAMI 2022",
        shown=105,
        compared="value",
    ),
)
"""In the order of the files."""


class Named(NamedTuple):
    """A figure of another probe than `--bias`."""

    name: str
    words: str
    better: Literal["higher", "lower"] | None
    source: str = ""


_ON_PIXELS = (
    Named(
        "deletion",
        "area under the score's curve while the map's highest pixels are set to 0 first",
        "lower",
        "Petsiuk et al., BMVC 2018",
    ),
    Named(
        "insertion",
        "the same while they come back first in a blurred image",
        "higher",
        "Petsiuk et al., BMVC 2018",
    ),
    Named(
        "aopc",
        "how far the score lies below its start, mean over the deletion curve",
        "higher",
        "Samek et al., TNNLS 2017",
    ),
    Named(
        "road",
        "half of what the score loses more where the highest 20 to 80 % are made up from what is around them, than "
        "where the lowest are",
        "higher",
        "Rong et al., ICML 2022",
    ),
)
"""Whether a map can be trusted, told by taking pixels away: random maps are measured beside it, as random_NAME."""

_ON_MAPS = (
    Named(
        "agreement",
        "rank correlation with another kind of map of the same class: the model's own of an explainer, "
        "else Grad-CAM; the next kind where both are one computation",
        "higher",
    ),
    Named(
        "untrained_agreement",
        "rank correlation with the map of the same network before training: a map that keeps it shows the network, "
        "not what it has learned",
        "lower",
        "Adebayo et al., NeurIPS 2018",
    ),
    Named(
        "shift_agreement",
        "rank correlation with the map of the image moved by 4 pixels, moved back: a map that is another one then "
        "shows more than the image",
        "higher",
    ),
)
"""The same, told by other maps."""

FAITHFULNESS: tuple[Named, ...] = (*_ON_PIXELS, *_ON_MAPS)
"""Of `val --faithfulness`, in the order of its table."""

ON_PIXELS, ON_MAPS = (tuple(each.name for each in part) for part in (_ON_PIXELS, _ON_MAPS))

XIAO = "Xiao et al., ICLR 2021"
MOAYERI = "Moayeri et al., CVPR 2022"

BACKGROUNDS: tuple[Named, ...] = (
    Named("original", "share of the objects whose class is named, in their own images", None),
    Named("mixed_same", "the same, on the context of another image of the class", "higher", XIAO),
    Named("mixed_rand", "the same, on the context of an image without the class", "higher", XIAO),
    Named("bg_gap", "mixed_same - mixed_rand: what the context's class decides", "lower", XIAO),
    Named("only_bg_b", "the same, with the object's box black", "lower", XIAO),
    Named("only_bg_t", "the same, with other places of the image in the object's box", "lower", XIAO),
    Named("noise_on_object", "the same, under noise on the object", None, MOAYERI),
    Named("noise_on_context", "the same, under noise of the same norm on the context", None, MOAYERI),
    Named(
        "rfs",
        "relative foreground sensitivity: how much more noise on the object costs, from -1 to 1",
        "higher",
        MOAYERI,
    ),
)
"""Of `val --backgrounds`, in the order of its table."""

BACKGROUND_FLAGS = tuple(figure.name for figure in BACKGROUNDS if figure.name not in ("bg_gap", "rfs"))
"""What is scored of each sample: whether its class is named. The other figures are made of these."""


def background_gap(flags: Mapping[str, Floats]) -> Ratio:
    """mixed_same - mixed_rand, of BACKGROUND_FLAGS (N,) each."""
    return Ratio.mean(flags["mixed_same"] - flags["mixed_rand"])


def foreground_sensitivity(flags: Mapping[str, Floats]) -> Ratio:
    """From the samples (N,) that are named under noise on the object and on the context: 1 = only the object matters,
    -1 = only the context; NaN where all are named or none, and neither could show."""
    on_object, on_context = flags["noise_on_object"], flags["noise_on_context"]
    both = on_object + on_context
    return Ratio(on_context - on_object, both if both.mean() <= 1 else 2 - both)


def between(value: float | None, centre: float | None, oracle: float | None) -> float | None:
    """Where a figure lies between that of the centre map (0) and that of the oracle (1); None where the oracle's is not
    another, or one of them is not defined."""
    if value is None or centre is None or oracle is None or abs(oracle - centre) < 1e-6:
        return None
    return (value - centre) / (oracle - centre)


def between_name(name: str) -> str:
    """How the position of a measure between both baselines is called."""
    return f"{name} (centre 0, oracle 1)"


def shown_names() -> list[str]:
    """The measures of `val`'s table, in its order."""
    placed = [(measure.shown, measure.name) for measure in ATTENTION if measure.shown is not None]
    return [name for _, name in sorted(placed, key=lambda each: each[0])]


def compared_measures() -> list[AttentionMeasure]:
    """The measures of `compare`: those with differences first, both in the order of `val`'s table, then the others."""
    chosen = [measure for measure in ATTENTION if measure.compared]
    return sorted(chosen, key=lambda each: (each.compared != "paired", each.shown is None, each.shown))
