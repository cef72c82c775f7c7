"""What is in a split, in figures: sizes, labels, and which labels come together (where context bias comes from)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnbias.data.index import Index, Record, Task
from attnbias.data.label_maps import count_pixels
from attnbias.data.reading import Json


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


LEAST = 5
"""Samples that two things occur in together, from which on they are named."""


@dataclass(frozen=True)
class Summary:
    """Figures of one split."""

    split: str
    samples: int
    images: int
    labels: int
    """Positive labels."""
    boxes: int
    unlabelled: int
    """Samples without a positive label."""
    absent: tuple[str, ...]
    """Classes that are never positive."""
    pairs: tuple[Pair, ...]
    """The strongest co-occurrences, strongest first."""
    shares: tuple[tuple[str, float], ...] = ()
    """Classes by their share of the labelled pixels, largest first, where pixels are labelled."""
    ignored: float = 0
    """Share of the pixels that do not count."""
    texts: int = 0
    """Different texts."""


def summarize(index: Index, pairs: int = 5, pixels: NDArray[np.int64] | None = None) -> Summary:
    """Count what is in a split.

    Args:
        pixels: what `count_pixels` gives for a segmentation split, where that is known already. Its labels are the
            classes that an image shows.
    """
    targets = np.array([record.target for record in index.records], dtype=np.int64)  # (N, C) or (N,)
    if index.task == "segmentation":
        pixels = count_pixels(index) if pixels is None else pixels
        targets = (pixels[:, :-1] > 0).astype(np.int64)
    if targets.ndim == 2 or index.task == "multilabel":
        positive = targets.reshape(-1, len(index.classes)) == 1
        counts, unlabelled = positive.sum(axis=0), int((~positive.any(axis=1)).sum())
    else:
        labels = [_labels(index.task, record) for record in index.records]
        each = np.array([label for own in labels for label in own], dtype=np.int64)
        counts = np.bincount(each, minlength=len(index.classes))
        unlabelled = sum(not own for own in labels) if index.task == "vqa" else 0
    return Summary(
        split=index.split,
        samples=len(index.records),
        images=len({path for record in index.records for path in record.images}),
        labels=int(counts.sum()),
        boxes=sum(len(record.boxes) for record in index.records),
        unlabelled=unlabelled,
        absent=tuple(index.classes[label] for label in np.flatnonzero(counts == 0) if counts.any()),
        pairs=_strongest(index, targets, counts, pairs),
        texts=len({record.text.sentence for record in index.records if record.text}),
        **({} if pixels is None else _shares(index, pixels)),
    )


Suggestions = dict[str, list[tuple[int, float]]]
"""A class or a group, by name -> the classes that most samples with it have too, and the share of them that do."""

MOST_SUGGESTIONS = 1000
"""Pairs, the strongest, that `suggestions` looks at."""


def suggestions(index: Index) -> Suggestions:
    """What suggests what in a split: of a group or of another class, the classes that more than half of its samples
    have, and that come with it more often than by chance."""
    found: Suggestions = {}
    if index.task not in ("multilabel", "singlelabel"):
        return found
    number = {name: label for label, name in enumerate(index.classes)}
    for pair in summarize(index, pairs=MOST_SUGGESTIONS).pairs:
        for thing, other, share in (
            (pair.second, pair.first, pair.given_second),
            (pair.first, pair.second, pair.given_first),
        ):
            if other in number and share > 0.5:
                found.setdefault(thing, []).append((number[other], share))
    return found


def _shares(index: Index, pixels: NDArray[np.int64]) -> Json:
    """`shares` and `ignored` of a split with label maps."""
    *each, ignored = pixels.sum(axis=0)
    labelled = max(sum(each), 1)
    by_size = sorted(zip(index.classes, each, strict=True), key=lambda item: -item[1])
    return {
        "shares": tuple((name, float(count / labelled)) for name, count in by_size if count),
        "ignored": float(ignored / max(pixels.sum(), 1)),
    }


def _labels(task: Task, record: Record) -> Sequence[int]:
    """The positive labels of a sample with numbered classes; none where a caption tells all."""
    if task == "retrieval":
        return ()
    if task == "vqa":
        return [answer for answer, _ in record.text.answers] if record.text else ()
    return record.labels


def _strongest(index: Index, targets: NDArray[np.int64], counts: NDArray[np.int64], number: int) -> tuple[Pair, ...]:
    """The class-class and class-group pairs of the highest phi coefficient, seen together often enough."""
    classes, total = len(index.classes), len(index.records)
    groups = sorted({record.group for record in index.records if record.group is not None})
    group_of = np.array([record.group for record in index.records], dtype=object)
    in_group = group_of[:, None] == np.array(groups, dtype=object)  # (N, G)
    rows = np.arange(classes)
    if targets.ndim == 2 or index.task == "multilabel":
        rows = np.flatnonzero(counts >= LEAST)  # of tens of thousands of classes, most are rare
        things = np.hstack([targets.reshape(-1, classes)[:, rows] == 1, in_group]).astype(np.float32)  # (N, C + G)
        together = np.triu(things[:, : len(rows)].T @ things, k=1).astype(np.float64)  # (C, C + G)
        counts = counts[rows]
        names = [*(index.classes[row] for row in rows), *groups]
        others = np.concatenate([counts, in_group.sum(axis=0)])
    elif not groups:
        return ()
    else:  # no two classes meet, and there may be thousands of them
        together, names, others = np.zeros((classes, len(groups))), groups, in_group.sum(axis=0)  # (C, G)
        np.add.at(together, targets, in_group)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.outer(np.sqrt(counts * (total - counts)), np.sqrt(others * (total - others)))
        phi = (total * together - np.outer(counts, others)) / spread
    phi[~np.isfinite(phi) | (together < LEAST)] = -1
    best = np.argsort(-phi, axis=None, kind="stable")[:number]
    return tuple(
        Pair(index.classes[rows[a]], names[b], phi[a, b], together[a, b] / counts[a], together[a, b] / others[b])
        for a, b in zip(*np.unravel_index(best, phi.shape), strict=True)
        if phi[a, b] > 0
    )
