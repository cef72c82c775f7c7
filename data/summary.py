"""What is in a split, in figures: sizes, labels, and which labels come together (where context bias comes from)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnbias.data.index import Index


@dataclass(frozen=True)
class Pair:
    """Two things that occur together: a class, and another class or a group."""

    first: str
    second: str
    correlation: float
    """Phi coefficient of the two, in [-1, 1]."""
    given_first: float
    """Share of the samples with `first` that have `second` too."""
    given_second: float


@dataclass(frozen=True)
class Summary:
    """Figures of one split."""

    split: str
    samples: int
    pictures: int
    labels: int
    """Positive labels."""
    boxes: int
    unlabelled: int
    """Samples without a positive label."""
    absent: tuple[str, ...]
    """Classes that are never positive."""
    pairs: tuple[Pair, ...]
    """The strongest co-occurrences, strongest first."""


def summarize(index: Index, pairs: int = 5) -> Summary:
    """Count what is in a split."""
    positive = positives(index)
    return Summary(
        split=index.split,
        samples=len(index.records),
        pictures=len({record.path for record in index.records}),
        labels=int(positive.sum()),
        boxes=sum(len(record.boxes) for record in index.records),
        unlabelled=int((~positive.any(axis=1)).sum()),
        absent=tuple(index.classes[label] for label in np.flatnonzero(~positive.any(axis=0))),
        pairs=_strongest(index, positive, pairs),
    )


def positives(index: Index) -> NDArray[np.bool_]:
    """Which classes each sample has, (N, C)."""
    targets = np.array([record.target for record in index.records], dtype=np.int64)
    if index.task == "multilabel":
        return targets.reshape(-1, len(index.classes)) == 1
    return targets[:, None] == np.arange(len(index.classes))


def _strongest(index: Index, positive: NDArray[np.bool_], count: int) -> tuple[Pair, ...]:
    """The class-class and class-group pairs of the highest phi coefficient, seen together at least five times."""
    groups = sorted({record.group for record in index.records if record.group is not None})
    group_of = np.array([record.group for record in index.records], dtype=object)
    in_group = group_of[:, None] == np.array(groups, dtype=object)  # (N, G)
    things = np.hstack([positive, in_group]).astype(np.float64)  # (N, C + G)
    names = [*index.classes, *groups]
    total = max(len(things), 1)
    together = things.T @ things
    alone = np.diag(together)
    spread = np.sqrt(alone * (total - alone))
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = (total * together - np.outer(alone, alone)) / np.outer(spread, spread)
    phi[~np.isfinite(phi) | (together < 5)] = -1
    rows, columns = np.triu_indices(len(names), k=1)
    rows, columns = rows[rows < len(index.classes)], columns[rows < len(index.classes)]
    order = np.argsort(-phi[rows, columns], kind="stable")[:count]
    return tuple(
        Pair(names[a], names[b], phi[a, b], together[a, b] / alone[a], together[a, b] / alone[b])
        for a, b in zip(rows[order], columns[order], strict=True)
        if phi[a, b] > 0
    )
