"""Before and after: the figures of two models on the objects that both were measured on, paired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.audit.answer import share
from attnbias.methods.engine.audit.examples import changed
from attnbias.methods.engine.audit.figures import Table, precision_figure
from attnbias.methods.engine.audit.measures import BY_NAME, MEASURES, AuditMeasure
from attnbias.methods.engine.audit.result import About, Against, Difference, Figure
from attnbias.methods.engine.statistics import Change, Estimate, Ratio, change, with_p_together

HEADLINES = {
    "position_biased": "objects looked wholly past",
    "energy": "map on the object",
    "context_share": "score left without the object",
    "accuracy": "true classes named",
}
"""The figures of the sentence, in its words."""


def against(
    before: Table,
    after: Table,
    about: About,
    name: str,
    precisions: tuple[Estimate | None, Estimate | None] | None,
    classes: Sequence[str],
    other_maps: str = "",
) -> Against:
    """Hold the figures of two models against each other; `about` is of the first, `name` words for it.

    `precisions` are both mean average precisions, over the same images, of a multi-label set. `other_maps` says, where
    the maps of the two are different things, which: figures of maps are then left out.
    """
    changes: list[tuple[AuditMeasure, Figure, Figure, Change]] = []
    first, second = _paired(before, after)
    for measure in MEASURES:
        if not measure.over:
            continue
        if measure.under == "right_measured":
            continue  # which objects it is of differs from model to model
        if other_maps and measure.family in ("looks", "trust"):
            continue
        one, other = _ratio(before, first, measure), _ratio(after, second, measure)
        kept = np.isfinite(np.array([*one, *other])).all(0)
        if not kept.any():
            continue
        found = change(
            Ratio(one.over[kept], one.under[kept]),
            Ratio(other.over[kept], other.under[kept]),
            before.image[first[kept]],
            flags=measure.flag,
        )
        figures = _over(before, measure, first[kept]), _over(after, measure, second[kept])
        changes.append((measure, *figures, found))
    if precisions is not None:
        changes += _precisions(*precisions, len(np.unique(after.image)))
    rows = _rows(changes)
    headlines = tuple(row.name for row in rows if row.name in HEADLINES)
    pictures = changed(before.samples, after.samples, classes, looks=not other_maps)
    return Against(about, rows, _text(rows, name) + other_maps, headlines, pictures)


def _precisions(
    before: Estimate | None, after: Estimate | None, images: int
) -> list[tuple[AuditMeasure, Figure, Figure, Change]]:
    one, other = precision_figure(before, images), precision_figure(after, images)
    if before is None or after is None or one is None or other is None:
        return []
    return [(BY_NAME[one.name], one, other, Change.of(after - before))]


def _paired(before: Table, after: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the true classes that both have, side by side."""
    place = {(sample.image, sample.label): row for row, sample in enumerate(before.samples) if sample.label >= 0}
    both = [
        (place[sample.image, sample.label], row)
        for row, sample in enumerate(after.samples)
        if (sample.image, sample.label) in place
    ]
    pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _ratio(table: Table, rows: NDArray[np.int64], measure: AuditMeasure) -> Ratio:
    over = table.column(measure.over)[rows]
    return Ratio(over, table.column(measure.under)[rows] if measure.under else np.ones(len(rows)))


def _over(table: Table, measure: AuditMeasure, rows: NDArray[np.int64]) -> Figure:
    chosen = np.zeros(len(table), dtype=np.bool_)
    chosen[rows] = True
    figure = table.figure(measure, chosen)
    assert figure is not None
    return figure


def _rows(changes: Sequence[tuple[AuditMeasure, Figure, Figure, Change]]) -> tuple[Difference, ...]:
    rows = []
    for (measure, one, other, _), found in zip(changes, with_p_together([found for *_, found in changes]), strict=True):
        assert found is not None
        edges = found.interval_95
        rows.append(
            Difference(
                measure.name, measure.words, one, other, found.difference, edges, found.p, found.paired, found.sure
            )
        )
    return tuple(rows)


def _text(rows: Sequence[Difference], name: str) -> str:
    """What has changed, and what cannot be told from no change."""
    shown = [row for each in HEADLINES for row in rows if row.name == each]
    if not shown:
        return f"No object was measured of both this model and {name}."
    changed = [
        f"{HEADLINES[row.name]} {share(row.after.value)} (before {share(row.before.value)}; "
        f"{100 * row.difference:+.0f} points{_points(row)})"
        for row in sorted(shown, key=lambda row: -abs(row.difference))
        if row.sure
    ]
    same = [HEADLINES[row.name] for row in shown if not row.sure]
    parts = [", ".join(changed)] if changed else []
    parts += [f"no difference can be told in {', '.join(same)}"] if same else []
    return f"Against {name}, on the same objects: {'; '.join(parts)}."


def _points(row: Difference) -> str:
    return "" if row.interval_95 is None else " [{:+.0f} to {:+.0f}]".format(*(100 * edge for edge in row.interval_95))
