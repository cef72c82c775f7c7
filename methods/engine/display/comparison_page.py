"""`compare --measure` and `--page`: models are loaded for their cost and for a page of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from attnbias.data.index import Index
from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.display.gallery import GalleryItem, GalleryPage, thumbnail
from attnbias.methods.engine.display.inference import Column, gallery_item, in_training, predict_samples, sample_of
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.comparison import Line, Run
from attnbias.methods.engine.evaluation.comparison_tables import number
from attnbias.methods.engine.evaluation.cost import measure_cost, milliseconds_per_image
from attnbias.methods.engine.load import Loaded, load_run, open_split_of
from attnbias.methods.engine.metrics import THRESHOLD
from attnbias.methods.engine.requests import SPLIT_LIMIT, CompareRequest
from attnbias.methods.engine.screen import counted
from attnbias.methods.engine.text import csv_text

BATCH = 16
"""Images shown to a model at once."""


def load_models(runs: Sequence[Run], data_root: Path | None = None) -> list[Loaded]:
    """The runs' models, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [load_run(run.method.name, str(run.path), {}, device, data_root=data_root) for run in runs]


def cost_lines(models: Sequence[Loaded]) -> list[Line]:
    """Parameters, multiply-accumulates and time of one image; the time is a figure of this machine."""
    costs = [measure_cost(loaded.model, loaded.recipe.image_size) for loaded in models]
    times = [milliseconds_per_image(loaded.model, loaded.recipe.image_size) for loaded in models]
    nothing = [None] * len(models)
    return [
        Line("", "parameters", [float(cost.parameters) for cost in costs], [*nothing]),
        Line("", "MACs", [float(cost.macs) for cost in costs], [*nothing]),
        Line("", "ms an image", [*times], [*nothing]),
    ]


def comparison_page(
    request: CompareRequest, runs: Sequence[Run], models: Sequence[Loaded], lines: Sequence[Line]
) -> GalleryPage:
    """The images of a split on which the runs' attention is worst, on average over runs and classes.

    Raises:
        UsageError: the runs know different classes, or one keeps no bias of this split.
    """
    split, kind, data_root = _chosen_split(request, lines), request.map, request.data_root
    if any(loaded.classes != models[0].classes for loaded in models):
        raise UsageError("--page needs runs that know the same classes")
    tables = [_samples(run, split, kind) for run in runs]
    index = open_split_of(models[0], split.rpartition("/")[2], data_root)
    dataset = models[0].method.open_dataset(models[0].recipe, index)
    ranked = [position for position in _worst_first(tables) if position < len(dataset)][: request.limit or SPLIT_LIMIT]
    figures = [_figures(table, models[0].classes) for table in tables]
    drawn = seen_by(models, runs, index, ranked, request, figures)
    items = [item for _, item in drawn]
    columns = _columns(models, runs, kind)
    return GalleryPage(
        title="Where the runs look, worst cases first",
        source=f"{split}, {len(items)} of {len(dataset)} images with the least attention on the object",
        date=date.today().isoformat(),
        classes=models[0].classes,
        runs=tuple(
            replace(column.describe("minmax"), figures=_run_figures(lines, split, position))
            for position, column in enumerate(columns)
        ),
        items=tuple(items),
        threshold=THRESHOLD if models[0].task == "multilabel" else None,
    )


def _columns(models: Sequence[Loaded], runs: Sequence[Run], kind: str) -> list[Column]:
    return [Column(run.name, loaded, run.map(kind), None) for run, loaded in zip(runs, models, strict=True)]


MapFigures = dict[int, dict[int, str]]
"""Image -> class -> what was measured of the map."""


def seen_by(
    models: Sequence[Loaded],
    runs: Sequence[Run],
    index: Index,
    positions: Sequence[int],
    request: CompareRequest,
    figures: Sequence[MapFigures],
) -> Iterator[tuple[int, GalleryItem]]:
    """Images of a split as a page shows them, with what each run says of them, by their position."""
    dataset = models[0].method.open_dataset(models[0].recipe, index)
    columns = _columns(models, runs, request.map)
    known = in_training(models[0], index, request.data_root)
    cuts = [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]
    with counted(cuts, "images of the page", of=len(positions)) as each_cut:
        for batch in each_cut:
            samples = [sample_of(dataset, position) for position in batch]
            predictions = predict_samples(samples, columns, [], "minmax")
            for position, sample, prediction in zip(batch, samples, predictions, strict=True):
                views = tuple(
                    replace(view, figures=found.get(position, {}))
                    for view, found in zip(prediction.views, figures, strict=True)
                )
                yield position, gallery_item(sample, thumbnail(sample.image), views, known)


def figures_of_maps(run: Run, split: str, kind: str) -> MapFigures:
    """What is kept of a run's maps on a split; nothing where no attention bias is."""
    stored = run.evaluations.get(split)
    if stored is None or stored.bias(run.map(kind)) is None:
        return {}
    return _figures(stored.bias_samples(run.map(kind)), stored.content.get("classes", ()))


def _chosen_split(request: CompareRequest, lines: Sequence[Line]) -> str:
    """DATASET/SPLIT of the page."""
    known = list(dict.fromkeys(line.split for line in lines if line.measure == HEADLINE))
    chosen = [name for name in known if request.split in (None, name, name.rpartition("/")[2])]
    if not chosen:
        have = f"there is: {', '.join(known)}" if known else "run attnbias val with --bias --store first"
        raise UsageError(f"no attention bias is kept of split '{request.split or 'val'}'; {have}")
    return chosen[0]


def _samples(run: Run, split: str, kind: str) -> dict[str, np.ndarray]:
    stored = run.evaluations.get(split)
    content = stored.bias(run.map(kind)) if stored else None
    if stored is None or content is None:
        raise UsageError(
            f"{run.name} keeps no attention bias of {split}; run: attnbias val {run.method.name} "
            f"--load-from {run.name} --split {split.rpartition('/')[2]} --bias --map {kind} --store"
        )
    if content["steered_by"]:
        raise UsageError(
            f"--page draws maps as models draw them by themselves, and {run.name} keeps those steered by "
            f"{content['steered_by']}; leave --page out, or run val --bias --store --overwrite without --prior"
        )
    return stored.bias_samples(run.map(kind))


def _worst_first(tables: Sequence[dict[str, np.ndarray]]) -> list[int]:
    """Images by ascending mean of HEADLINE over classes and runs; equal ones keep the order of the split."""
    images = np.concatenate([table["picture"] for table in tables])
    values = np.concatenate([table[HEADLINE] for table in tables])
    positions, inverse = np.unique(images, return_inverse=True)
    means = np.bincount(inverse, values) / np.bincount(inverse)
    return positions[np.argsort(means, kind="stable")].tolist()


def _figures(table: dict[str, np.ndarray], classes: Sequence[str]) -> MapFigures:
    found: MapFigures = {}
    written = [csv_text(name) for name in classes]
    for image, name, matched, energy in zip(
        table["picture"].tolist(), table["class"].tolist(), table[HEADLINE], table["energy"], strict=True
    ):
        text = f"on the object: {matched:.0%} area-matched, {energy:.0%} of the energy"
        found.setdefault(image, {})[written.index(name)] = text
    return found


def _run_figures(lines: Sequence[Line], split: str, position: int) -> dict[str, str]:
    """The measures of one run on the page's split, and its cost."""
    chosen = [line for line in lines if line.split in (split, "")]
    return {
        line.measure.replace("_", " "): number(value) for line in chosen if (value := line.values[position]) is not None
    }
