"""From the samples of an audit to its figures: of the whole, of classes, of parts of the objects. NumPy alone.

`Table` holds the rows of samples.csv as columns; every figure is computed from it, and can be computed again from the
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.audit.measures import BY_NAME, CENTRE, AuditMeasure
from attnbias.methods.engine.audit.result import Cell, ClassRow, Figure, Kind, Sample, Subset
from attnbias.methods.engine.statistics import Estimate, Ratio, interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEW = 10
"""Objects below which a class or a group says too little."""

OF_PARTS = ("accuracy", "position_biased", "energy", "context_share")
"""Figures of a class, and of other parts of the objects."""
SCORES = ("probability", "object_only", "context_only")


class Table:
    """The samples of an audit as columns (N,), NaN where a sample has none."""

    def __init__(self, samples: Sequence[Sample], kind: Kind = "measured") -> None:
        self.samples = samples
        self.kind = kind
        self.image = np.array([sample.image for sample in samples])
        self.label = np.array([sample.label for sample in samples])
        self.right = np.array([sample.right for sample in samples], dtype=np.bool_)
        self.score = np.array([sample.score for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def known(self) -> Bools:
        """Which rows are of a true class."""
        return np.asarray(self.label >= 0)

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that any sample has."""
        return frozenset(name for sample in self.samples for name in sample.values)

    def column(self, name: str) -> Floats:
        """A column of samples.csv, or one of these made of them: `right`, `right_measured` (right, of the objects that
        a map was held against), `right_elsewhere` (those of them whose focus lies wholly outside; also of the map at
        the middle)."""
        if name not in self._columns:
            self._columns[name] = self._made(name)
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, Floats]:
        return {}

    def _made(self, name: str) -> Floats:
        if name == "right":
            return np.where(self.known, self.right, np.nan)
        if name == "right_measured":
            return np.where(np.isnan(self.column("position_biased")), np.nan, self.right)
        if name.endswith("right_elsewhere"):
            of = name.removesuffix("right_elsewhere")
            return np.asarray(self.column(f"{of}position_biased") * self.right)
        if name not in self.names:
            return np.full(len(self), np.nan)
        return np.array([sample.values.get(name, np.nan) for sample in self.samples], dtype=np.float64)

    def figure(self, measure: str | AuditMeasure, chosen: Bools | None = None) -> Figure | None:
        """A figure over the samples that have its columns, all or those that are `chosen` (N,); None where none has."""
        of = BY_NAME[measure] if isinstance(measure, str) else measure
        over = self.column(of.over)
        under = self.column(of.under) if of.under else np.ones(len(self))
        kept = ~np.isnan(over) & ~np.isnan(under)
        if of.under == "right_measured":
            kept &= under > 0  # a share of those that are right
        if chosen is not None:
            kept &= chosen
        if not kept.any():
            return None
        ratio = Ratio(over[kept], under[kept])
        chance = of.at_chance
        if of.chance and of.chance in self._known_columns:
            chance = Ratio(self.column(of.chance)[kept], under[kept]).value
        defined = bool(np.isfinite(ratio.value))
        return Figure(
            name=of.name,
            words=of.words,
            family=of.family,
            value=ratio.value if defined else None,
            interval_95=interval(ratio, self.image[kept], flags=of.flag) if defined else None,
            n=int(kept.sum()),
            better=of.better,
            chance=None if chance is None or not np.isfinite(chance) else chance,
            chance_words=of.chance_words,
            kind=self.kind if of.family in ("looks", "relies") else "measured",
            form=of.form,
        )

    @cached_property
    def _known_columns(self) -> frozenset[str]:
        made = {f"{CENTRE}right_elsewhere"} if f"{CENTRE}position_biased" in self.names else set()
        return self.names | made


def precision_figure(found: Estimate | None, images: int) -> Figure | None:
    """The mean average precision as a figure; None without a positive image."""
    if found is None:
        return None
    measure = BY_NAME["mean_average_precision"]
    edges = found.interval_95
    clipped = None if edges is None else (max(edges[0], 0.0), min(edges[1], 1.0))
    return Figure(measure.name, measure.words, measure.family, found.value, clipped, images, "images", measure.better)


def quadrants(table: Table) -> tuple[Cell, ...]:
    """The two-by-two of right and on the object, over the objects that a map was held against."""
    biased = table.column("position_biased")
    measured = ~np.isnan(biased)
    if not measured.any():
        return ()
    hits = table.column("area_matched")
    cells = []
    for right in (True, False):
        for on_object in (True, False):
            inside = measured & (table.right == right) & ((biased == 0) == on_object)
            words = f"{'right' if right else 'wrong'}, and the focus {'meets' if on_object else 'is wholly outside'}"
            name = f"{'right' if right else 'wrong'}_{'on_object' if on_object else 'elsewhere'}"
            share = inside[measured].astype(np.float64)
            figure = Figure(
                f"share_{name}",
                f"share of the objects: {words} the object",
                "looks",
                float(share.mean()),
                interval(Ratio.mean(share), table.image[measured], flags=True),
                int(measured.sum()),
                kind=table.kind,
            )
            rows = np.flatnonzero(inside)
            order = np.argsort(-hits[rows] if on_object else hits[rows], kind="stable")
            cells.append(Cell(right, on_object, figure, int(inside.sum()), tuple(rows[order].tolist())))
    return tuple(cells)


def classes(table: Table, names: Sequence[str], precisions: Sequence[Estimate | None]) -> tuple[ClassRow, ...]:
    """One row a class that any image shows, in the order of the classes; `precisions` are of all classes of a
    multi-label set, or empty."""
    rows = []
    for number in np.unique(table.label[table.known]).tolist():
        own = np.asarray(table.label == number)
        accuracy, biased, energy, share = (table.figure(name, own) for name in OF_PARTS)
        assert accuracy is not None
        precision = precision_figure(precisions[number], accuracy.n) if precisions else None
        rows.append(
            ClassRow(
                name=names[number],
                number=number,
                objects=int(own.sum()),
                accuracy=accuracy,
                average_precision=precision
                and replace(precision, name="average_precision", words="average precision of the class"),
                position_biased=biased,
                on_object=energy,
                context_only=share,
                too_small=int(own.sum()) < FEW,
            )
        )
    return tuple(rows)


def subsets(table: Table) -> tuple[Subset, ...]:
    """Objects by size (thirds), by place (whether they cover the middle of the image), and by the answer."""
    area = table.column("area_share")
    measured = ~np.isnan(area)
    parts: list[tuple[Literal["object size", "place", "answer"], str, str, Bools]] = []
    if measured.any():
        low, high = np.quantile(area[measured], [1 / 3, 2 / 3])
        parts += [
            ("object size", "small objects", f"at most {low:.1%} of the image", area <= low),
            ("object size", "middling objects", f"from {low:.1%} to {high:.1%}", (area > low) & (area <= high)),
            ("object size", "large objects", f"more than {high:.1%}", area > high),
        ]
        middle = table.column(f"{CENTRE}pointing_no_tolerance")
        parts += [
            ("place", "in the middle", "the object covers the middle of the image", middle >= 0.5),
            ("place", "beside the middle", "it does not", middle < 0.5),
        ]
    parts += [
        ("answer", "right", "its class is named", table.known & table.right),
        ("answer", "wrong", "its class is not named", table.known & ~table.right),
    ]
    found = []
    for family, name, words, chosen in parts:
        wanted = [measure for measure in OF_PARTS if (family, measure) != ("answer", "accuracy")]
        figures = [figure for measure in wanted if (figure := table.figure(measure, chosen)) is not None]
        if chosen.any():
            rows = tuple(np.flatnonzero(chosen).tolist())
            found.append(Subset(family, name, words, len(rows), tuple(figures), rows))
    return tuple(found)
