"""What `compare --report` shows of a split: its classes, what suggests a class that is not there, the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.reading import Json
from attnbias.data.registry import open_split
from attnbias.data.summary import suggestions
from attnbias.methods.engine.display.comparison_page import figures_of_maps, load_models, seen_by
from attnbias.methods.engine.display.gallery import GalleryItem, image_json, opening_class, verdict, view_json
from attnbias.methods.engine.evaluation.comparison import Run
from attnbias.methods.engine.metrics import THRESHOLD, by_formula
from attnbias.methods.engine.requests import CompareRequest
from attnbias.methods.engine.stored_evaluations import Scores

WORST = 6
"""Images of the worst cases."""

TEMPTED = 4
"""Things that suggest a class, of which an image is shown."""

FEW = 5
"""Images that a share of is told."""

QUALITY = 82
"""Of the JPEGs."""


class Chosen(NamedTuple):
    """What the headline is about."""

    metric: str
    first: str
    """DATASET/SPLIT that decides."""
    hard: str
    """The one on which the reference is worst: where a bias costs most."""


def scores_of(run: Run, split: str) -> Scores | None:
    """What a run keeps of a split's scores."""
    stored = run.evaluations.get(split)
    return stored.scores() if stored is not None and stored.has_scores else None


# Classes --------------------------------------------------------------------------------------------------------------


def by_class(runs: Sequence[Run], chosen: Chosen | None) -> list[Json]:
    """Average precision of each class on the hard split, and the difference of each run to the first on the same
    images; the largest differences first."""
    tables = [scores_of(run, chosen.hard) for run in runs] if chosen else []
    if chosen is None or not tables or (first := tables[0]) is None:
        return []
    metric, rows = next(by_formula("multilabel")), []
    alike = [table if table is not None and first.differs(table) is None else None for table in tables]
    for label, name in enumerate(runs[0].evaluations[chosen.hard].content.get("classes", ())):
        if (own := _of_class(first, label)) is None:
            continue
        others = [_of_class(table, label) if table is not None else None for table in alike[1:]]
        changes = [metric.change(own, other) if other is not None else None for other in others]
        rows.append(
            {
                "name": name,
                "images": int((own[0] == 1).sum()),
                "values": [metric.of(*each) if each is not None else None for each in (own, *others)],
                "changes": [
                    change and {"difference": change.difference, "ci": change.interval_95} for change in changes
                ],
            }
        )
    return sorted(rows, key=lambda row: -max((abs(one["difference"]) for one in row["changes"] if one), default=0))


def _of_class(table: Scores, label: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Targets and scores (N, 1) of one class; None where no image shows it."""
    targets = (
        table.targets[:, [label]] if table.targets.ndim == 2 else (table.targets == label).astype(np.int64)[:, None]
    )
    return (targets, table.scores[:, [label]]) if (targets == 1).any() else None


# Images ---------------------------------------------------------------------------------------------------------------


def pictures(request: CompareRequest, runs: Sequence[Run], chosen: Chosen | None) -> tuple[Json, str]:
    """What suggests a class that is not there, and the worst cases, with images and maps; and why there are none."""
    nothing: Json = {"tempted": [], "worst": [], "pictures": {}, "classes": []}
    tables = [scores_of(run, chosen.hard) for run in runs] if chosen else []
    if chosen is None or any(table is None for table in tables):
        return nothing, "No images: not every run keeps scores of the split; run attnbias val with --store."
    known = [table for table in tables if table is not None]
    try:
        index = open_split(runs[0].recipe.dataset, chosen.hard.rpartition("/")[2], request.data_root)
        models = load_models(runs, request.data_root)
        same = all(model.classes == models[0].classes for model in models)
        paths = [record.path for record in index.records]
        if not same or any(table.paths.tolist() != paths for table in known):
            return nothing, "No images: the runs were evaluated on other images or classes."
        tempted = what_suggests(index, open_split(runs[0].recipe.dataset, "train", request.data_root), known)
        worst = _worst(known)
        positions = list(dict.fromkeys([*(each["image"] for each in tempted), *worst]))
        figures = [figures_of_maps(run, chosen.hard, request.map) for run in runs]
        items = dict(seen_by(models, runs, index, positions, request, figures))
    except DataError as error:
        return nothing, f"No images: {error}"
    return {
        "tempted": tempted,
        "worst": [
            {
                "image": position,
                "label": opening_class(items[position]),
                "says": _errors(items[position], runs, models[0].classes),
            }
            for position in worst
        ],
        "pictures": {
            position: {**image_json(item, QUALITY), "views": [view_json(view) for view in item.views]}
            for position, item in items.items()
        },
        "classes": list(models[0].classes),
    }, ""


def _worst(tables: Sequence[Scores]) -> list[int]:
    """The images on which all runs together err most, by the sum over classes of |score - target|."""
    targets = tables[0].targets
    if targets.ndim == 1:
        targets = (targets[:, None] == np.arange(tables[0].scores.shape[1])).astype(np.int64)
    errors = sum(np.where(targets < 0, 0, abs(table.scores - (targets == 1))).sum(1) for table in tables)
    return np.argsort(-np.asarray(errors), kind="stable")[:WORST].tolist()


def what_suggests(index: Index, train: Index, tables: Sequence[Scores]) -> list[Json]:
    """What came with a class in training, and how often it alone makes each run name the class: the shares of images
    that show it and not the class, and of those that show neither; the first run's worst first."""
    if tables[0].targets.ndim == 1:
        return []
    shown, groups = tables[0].targets == 1, np.array([record.group or "" for record in index.records])
    rows: list[Json] = []
    for thing, classes in suggestions(train).items():
        there = shown[:, train.classes.index(thing)] if thing in train.classes else groups == thing
        for label, share in classes:
            absent = tables[0].targets[:, label] == 0
            alone, neither = there & absent, ~there & absent
            if alone.sum() < FEW or neither.sum() < FEW:
                continue
            named = [table.scores[:, label] >= THRESHOLD for table in tables]
            lead = np.where(alone, tables[0].scores[:, label], -1)
            rows.append(
                {
                    "thing": thing,
                    "label": label,
                    "share": share,
                    "images": int(alone.sum()),
                    "alone": [float(each[alone].mean()) for each in named],
                    "neither": [float(each[neither].mean()) for each in named],
                    "image": int(lead.argmax()),
                }
            )
    return sorted(rows, key=lambda row: row["neither"][0] - row["alone"][0])[:TEMPTED]


def _errors(item: GalleryItem, runs: Sequence[Run], classes: Sequence[str]) -> str:
    """What each run misses and adds, in words."""
    parts = []
    for run, view in zip(runs, item.views, strict=True):
        found = verdict(item, view)
        assert found is not None
        words = [
            f"{kind} {', '.join(classes[n] for n in labels)}" for kind, labels in found._asdict().items() if labels
        ]
        parts.append(f"{run.path.name}: {'; '.join(words) or 'nothing named'}")
    return " \u00b7 ".join(parts)
