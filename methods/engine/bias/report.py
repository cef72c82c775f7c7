"""`val --bias`: the attention of a model over a split, held against the objects' masks or boxes, sample by sample.

What the figures mean stands in attention_measures.py; here they are collected, exactly and whatever the number of
processes, beside baselines: maps that look nowhere in particular, at the middle, and as well as their grid allows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from attnbias.data.datasets import ImageDataset
from attnbias.data.language import LanguageDataset
from attnbias.methods.engine import attention_measures
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.attention_measures import between, between_name, shown_names
from attnbias.methods.engine.bias.asked_objects import AskedObjects, asked_objects, check_asked, words_of_asked
from attnbias.methods.engine.bias.attention_bias import (
    TAUS,
    PixelHistogram,
    aggregate,
    centre_map,
    measure_maps,
    oracle_maps,
    uniform_map,
)
from attnbias.methods.engine.bias.box_accuracy import LARGEST, OVERLAPS, BoxHits
from attnbias.methods.engine.bias.objects import (
    ObjectBatch,
    ObjectProbe,
    measure_objects,
    resolve_truth,
)
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Content, Measured, left_out_of
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import attention_maps, layer_name
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Interval, Ratio, interval, macro
from attnbias.methods.engine.text import figure, write_csv
from attnbias.methods.engine.types import Steering, Truth

BASELINES = ("uniform", "centre", "oracle")
"""Maps that know nothing of the image, that always look at its middle, and the best that the map's own grid allows."""

POINTING_RADIUS = 15.0
"""Tolerance of the pointing game, in pixels of the stored image (Zhang et al., ECCV 2016)."""

Columns = Mapping[str, NDArray[np.float64]]
Means = dict[str, float | None]
"""Means over samples by name; None where no sample is left to average."""


class Row(NamedTuple):
    """One sample's figures."""

    image: int
    label: int
    right: bool
    """Whether the model names the class: a score of at least one half, or the highest in single-label work; of a class
    of pixels, whether it finds half of it (`named_classes`); of a text, whether it answers it (`AskedObjects`)."""
    values: dict[str, float]


@dataclass(frozen=True)
class BiasReport:
    """All samples of a split, in the order of image and class."""

    rows: Sequence[Row]
    skipped: dict[str, int]
    """Samples left out, by reason."""
    pxap: float
    """Pixel average precision of all maps together."""
    baselines: dict[str, Means]
    """Means, as in `summary`, of BASELINES."""
    beside: Mapping[str, Sequence[Row]]
    """The samples' figures of BASELINES."""
    map: str
    truth: Truth
    tau: float
    truth_reason: str | None = None
    """Why it is not what a set of that kind usually has."""
    maxboxacc: float = float("nan")
    """MaxBoxAccV2 of all maps together."""
    layer: str | None = None
    """The layer that an explainer looked at."""
    steering: Steering | None = None
    """What a second pass was told to look for; None where it looked as it does by itself."""
    amp: str = "no"
    """The precision of the passes through the network: no = float32."""
    asked: AskedObjects | None = None
    """The texts that the samples are of, where the model is asked in words."""
    drawn: str = "all"
    """Which of the split's samples were looked at."""

    def summary(self) -> Means:
        """Means over samples (the three biases as shares that sum to 1), and PxAP."""
        return {**_means(self.rows), **_together(self.pxap, self.maxboxacc)}

    def macro(self) -> dict[str, float]:
        """Means over classes of the means over a class's samples."""
        labels = np.array([row.label for row in self.rows])
        return {name: macro(values, labels) for name, values in _columns(self.rows).items()}

    def intervals(self) -> dict[str, Interval | None]:
        """95 % intervals of the means, over images."""
        images = np.array([self.asked.images[row.image] if self.asked else row.image for row in self.rows])
        columns = _columns(self.rows)
        figures = {
            measure.name: Ratio(*(columns[name] for name in measure.ratio))
            if measure.ratio
            else Ratio.mean(columns[measure.name])
            for measure in attention_measures.ATTENTION
            if measure.ratio or measure.name in columns
        }
        flags = {measure.name: measure.flag for measure in attention_measures.ATTENTION}
        return {name: interval(figure, images, flags=flags[name]) for name, figure in figures.items()}

    def groups(self) -> dict[str, Means]:
        """The summary, without PxAP, of samples that the model names or not, and of thirds by the object's size."""
        area = np.array([row.values["area_share"] for row in self.rows])
        small, large = np.quantile(area, [1 / 3, 2 / 3])
        right = np.array([row.right for row in self.rows])
        chosen = {
            "prediction right": right,
            "prediction wrong": ~right,
            "small objects": area <= small,
            "middling objects": (area > small) & (area <= large),
            "large objects": area > large,
        }
        return {
            name: {"samples": int(kept.sum())} | _means([row for row, k in zip(self.rows, kept, strict=True) if k])
            for name, kept in chosen.items()
            if kept.any()
        }

    def content(self) -> Content:
        """Means, intervals, groups, baselines, what was left out, and the settings: what bias.json holds."""
        return {
            "map": self.map,
            "layer": self.layer,
            **(self.steering.content() if self.steering else {}),
            **({} if self.amp == "no" else {"amp": self.amp}),
            **({} if self.drawn == "all" else {"drawn": self.drawn}),
            "truth": self.truth,
            "truth_reason": self.truth_reason,
            "tau": self.tau,
            "taus_of_sweep": TAUS,
            "pointing_radius": POINTING_RADIUS,
            "box_overlaps": OVERLAPS,
            "box_plane": LARGEST,
            "samples": len(self.rows),
            "skipped": self.skipped,
            **({"asked": self.asked.content()} if self.asked else {}),
            "means": self.summary(),
            "intervals_95": self.intervals(),
            "macro": self.macro(),
            "groups": self.groups(),
            "baselines": self.baselines,
            "between": self.between(),
        }

    def between(self) -> Means:
        """Where each mean lies between the centre map's (0) and that of the oracle of the map's own grid (1)."""
        own, centre, oracle = self.summary(), self.baselines["centre"], self.baselines["oracle"]
        names = [measure.name for measure in attention_measures.ATTENTION if measure.better]
        return {name: between(own[name], centre[name], oracle[name]) for name in names}

    def write(self, folder: Path, paths: Sequence[str], classes: Sequence[str]) -> None:
        """Write bias.json (everything but the samples) and bias_samples.csv (one row per sample)."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = [
            (f"{name}:{measure.name}", measure.name, self.beside[name])
            for name in ("centre", "oracle")
            for measure in attention_measures.ATTENTION
            if measure.between
        ]
        header: list[object] = [
            "picture",
            "path",
            "class",
            "right",
            *self.rows[0].values,
            *(column for column, _, _ in kept),
            *(["truth"] if self.truth == "estimated" else []),
        ]
        rows: list[list[object]] = [header]
        for number, row in enumerate(self.rows):
            beside = (of[number].values[name] for _, name, of in kept)
            figures = map(figure, (*row.values.values(), *beside))
            marked = [self.truth] if self.truth == "estimated" else []
            rows.append([row.image, paths[row.image], classes[row.label], int(row.right), *figures, *marked])
        write_csv(folder / "bias_samples.csv", rows)
        (folder / "bias.json").write_text(json.dumps(self.content(), indent=1) + "\n")


@torch.no_grad()
def measure_bias(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    kind: str | None = None,
    truth: Truth | None = None,
    tau: float = 0.5,
    batch_size: int = 16,
    workers: int = 0,
    asked: AskedObjects | None = None,
) -> BiasReport:
    """Map every positive class of every image that was scored, and measure.

    `kind` is a name of the method's maps or "gradcam"; `truth` is masks where the set has them, else boxes. Of a model
    that is asked in words, `asked` are the texts that are mapped, in place of the data set's images.

    Raises:
        DataError: the set has neither masks nor boxes. NothingToMeasureError: no sample says anything.
    """
    used = kind or loaded.method.default_map(loaded.recipe)
    if asked is None:
        ids, right, maps = evaluation.ids, named_classes(evaluation), partial(_of_classes, loaded, used)
    else:
        dataset, ids, right, maps = asked.dataset, asked.ids, asked.right, partial(asked.maps, loaded, used)
    against = resolve_truth(dataset, truth)
    counts_apart = [(PixelHistogram(), BoxHits()) for _ in range(1 + len(BASELINES))]

    rows, counts = measure_objects(
        *(loaded, dataset, ids, accelerator, against.kind),
        lambda batch, skipped: _measure(batch, maps(batch), tau, right, counts_apart),
        batch_size=batch_size,
        workers=workers,
        to="measure against",
    )
    apart = [_merged(*own) for own in counts_apart]
    baselines = {
        name: {**_means([each[position] for each in rows]), **_together(*apart[position])}
        for position, name in enumerate(BASELINES, start=1)
    }
    beside = {name: [each[position] for each in rows] for position, name in enumerate(BASELINES, start=1)}
    (pxap, maxboxacc), own = apart[0], [each[0] for each in rows]
    return BiasReport(
        *(own, counts, pxap, baselines, beside, used, against.kind, tau, against.reason, maxboxacc),
        layer_name(loaded.method, loaded.model, used),
        steering=loaded.steering,
        asked=asked,
    )


def _merged(pixels: PixelHistogram, boxes: BoxHits) -> tuple[float, float]:
    """PxAP and MaxBoxAccV2 of what all processes have counted."""
    histogram, hits = PixelHistogram(), BoxHits()
    mine = [(pixels.positives, pixels.totals, boxes.hits, boxes.samples)]
    for positives, totals, right, samples in Control().join(mine):
        histogram.positives += positives
        histogram.totals += totals
        hits.merge(right, samples)
    return histogram.value(), hits.value()


def _together(pxap: float, maxboxacc: float) -> Means:
    """What is counted of all samples together, by its name."""
    return {"pxap": pxap, "maxboxacc_v2": maxboxacc}


def named_classes(evaluation: Evaluation) -> dict[int, NDArray[np.bool_]]:
    """For each image, which classes (C,) the model names; of a model that labels pixels, which it has found: with half
    of the union of its pixels and theirs in common."""
    if "intersect" in evaluation.scores:
        common, predicted = evaluation.scores["intersect"], evaluation.scores["predicted"]
        named = 2 * common >= predicted + evaluation.targets - common
        return dict(zip(evaluation.ids.tolist(), named, strict=True))
    scores = evaluation.scores["scores"]
    named = scores >= 0.5 if evaluation.targets.ndim == 2 else scores.argmax(1)[:, None] == np.arange(scores.shape[1])
    return dict(zip(evaluation.ids.tolist(), named, strict=True))


def _of_classes(loaded: Loaded, kind: str, batch: ObjectBatch) -> np.ndarray:
    """The map of each sample's class, (N, h, w)."""
    images, samples = batch
    asked = [[s.region.label for s in samples if s.slot == slot] for slot in range(len(images))]
    most = max(map(len, asked))
    padded = torch.tensor([(labels + [0] * most)[:most] for labels in asked], device=images.device)  # (B, K)
    drawn = attention_maps(loaded.method, loaded.model, images, padded, kind, steering=loaded.steering)
    maps = drawn.cpu().numpy()  # (B, K, h, w)
    return np.stack([maps[s.slot, asked[s.slot].index(s.region.label)] for s in samples])


def _measure(
    batch: ObjectBatch,
    chosen: np.ndarray,
    tau: float,
    right: Mapping[int, NDArray[np.bool_]],
    apart: Sequence[tuple[PixelHistogram, BoxHits]],
) -> list[tuple[Row, ...]]:
    """Rows of one batch and its maps (N, h, w), each the model's and those of BASELINES. Counts their pixels and boxes
    too."""
    samples = batch.samples
    masks = np.stack([sample.region.mask for sample in samples])  # (N, H, W)
    ignore = np.stack([sample.region.ignore for sample in samples])
    radius = POINTING_RADIUS * np.array([sample.scale for sample in samples])
    known = [np.broadcast_to(m, (len(samples), *m.shape[1:])) for m in (uniform_map(), centre_map(*masks.shape[1:]))]
    known.append(oracle_maps(masks, *chosen.shape[1:]))
    tables = []
    boxes = [sample.region.corners for sample in samples]
    for some, (histogram, hits) in zip((chosen, *known), apart, strict=True):
        tables.append(measure_maps(some, masks, ignore, tau=tau, tolerance=radius))
        histogram.add(some, masks, ignore)
        hits.add(some, boxes, *masks.shape[1:])

    def row(number: int, table: Columns) -> Row:
        image, label = samples[number].image, samples[number].region.label
        values = {name: float(column[number]) for name, column in table.items()}
        return Row(image, label, bool(right[image][label]), values)

    return [tuple(row(n, table) for table in tables) for n in range(len(samples))]


def _columns(rows: Sequence[Row]) -> Columns:
    return {name: np.array([row.values[name] for row in rows]) for name in rows[0].values}


def _means(rows: Sequence[Row]) -> Means:
    found = aggregate(_columns(rows))
    return {name: None if np.isnan(value) else value for name, value in found.items()}


class BiasProbe(ObjectProbe):
    """`val --bias`."""

    name = "bias"

    def wanted(self, request: ValRequest) -> bool:
        return request.measures_bias

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        if isinstance(dataset, LanguageDataset):
            check_asked(request, loaded, dataset)
            return
        if request.objects is not None:
            raise UsageError(f"--objects is of texts about images, and {loaded.source} is for {loaded.task}")
        if isinstance(loaded.method, LabelsPixels):
            resolve_truth(dataset, request.truth)
        else:
            super().check(request, loaded, dataset)

    def measure(self, measured: Measured) -> Content:
        request, dataset = measured.request, measured.dataset
        asked = None
        if isinstance(dataset, LanguageDataset) and request.objects is not None:
            asked = asked_objects(dataset, request.objects, measured.evaluation)
            dataset = asked.dataset
        report = measure_bias(
            *measured.scored,
            asked=asked,
            kind=request.kind,
            truth=request.truth,
            tau=request.tau,
            batch_size=request.eval_batch_size,
            workers=request.workers or 0,
        )
        report = replace(report, amp=request.amp, drawn=measured.dataset.index.how_drawn)
        folders = [measured.stored / f"bias-{report.map}"] if measured.stored else []
        if request.bias_out and measured.accelerator.is_main_process:
            folders.append(request.bias_out / measured.number)
        for folder in folders:
            report.write(folder, [record.path for record in dataset.records], dataset.index.classes)
        return report.content()

    def heading(self, content: Content) -> str:
        return f"attention ({content['map']}, {content['truth']})"

    def figures(self, content: Content) -> Mapping[str, float | None]:
        means, positions = content["means"], content["between"]
        extra = [measure.name for measure in attention_measures.ATTENTION if measure.between]
        return {name: means[name] for name in shown_names()} | {between_name(name): positions[name] for name in extra}

    def baselines(self, content: Content) -> Mapping[str, Mapping[str, float | None]]:
        ends: dict[str, float | None] = {"uniform": None, "centre": 0.0, "oracle": 1.0}
        names = [between_name(measure.name) for measure in attention_measures.ATTENTION if measure.between]
        return {name: means | dict.fromkeys(names, ends[name]) for name, means in content["baselines"].items()}

    def remarks(self, content: Content) -> Sequence[str]:
        how = (
            f"attention: the focus is where a map, stretched to [0, 1], reaches {content['tau']:g}; pointing allows "
            f"{content['pointing_radius']:g} pixels of the stored image; boxes (maxboxacc_v2) on at most "
            f"{content['box_plane']} pixels a side, at {len(content['taus_of_sweep'])} thresholds"
        )
        looked = [f"attention: {content['map']} at layer {content['layer']}"] if content["layer"] else []
        if "steered_by" in content:
            looked.append(f"attention: {content['map']} steered by {content['steered_by']}")
        if "asked" in content:
            looked.append(words_of_asked(content["asked"]))
        return [*looked, how, *left_out_of(self.name, content)]
