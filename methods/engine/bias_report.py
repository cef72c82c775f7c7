"""`val --bias`: the attention of a model over a split, held against the objects' masks or boxes, sample by sample.

A sample is one positive class of one picture. What the figures mean stands in bias.py; here they are collected, exactly
and whatever the number of processes, beside two baselines that look nowhere in particular and at the middle.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from attnbias.data.datasets import PictureDataset
from attnbias.data.errors import DataError
from attnbias.data.masks import read_masks
from attnbias.methods.engine.bias import (
    aggregate,
    bootstrap,
    box_mask,
    centre_map,
    measure_maps,
    skip_reason,
    uniform_map,
)
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.sampler import EvaluationSampler

Truth = Literal["masks", "boxes"]

POINTING_RADIUS = 15.0
"""Tolerance of the pointing game, in pixels of the stored picture (Zhang et al., ECCV 2016)."""

SHOWN = (
    "position_biased", "range_biased", "unbiased", "energy", "energy_lift",
    "pointing", "pointing_no_tolerance", "area_matched", "iou", "centroid_shift", "area_share", "degenerate",
)  # fmt: skip
"""The aggregates that a table shows; bias.json holds all."""


class Region(NamedTuple):
    """Where one class is in the network's input."""

    label: int
    mask: NDArray[np.bool_]
    """(H, W): the union of the class's objects."""
    ignore: NDArray[np.bool_]
    """(H, W): crowds and difficult objects of the class."""
    visible: float
    """The share of the objects' area that the transform left in sight."""

    def skip_reason(self) -> str | None:
        """Why this region says nothing about bias, or None."""
        return skip_reason(self.mask, ~self.ignore | self.mask, self.visible)


class Row(NamedTuple):
    """One sample's figures."""

    picture: int
    label: int
    values: dict[str, float]


@dataclass(frozen=True)
class BiasReport:
    """All samples of a split, in the order of picture and class."""

    rows: Sequence[Row]
    skipped: dict[str, int]
    """Samples left out, by reason: empty, full (bias.py), unannotated."""
    baselines: dict[str, dict[str, float]]
    map: str
    truth: Truth
    tau: float

    def summary(self) -> dict[str, float]:
        """Means over samples (the three biases as shares that sum to 1)."""
        return aggregate(self._columns())

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of the means, pictures resampled 1000 times."""
        pictures = np.array([row.picture for row in self.rows])
        return {name: bootstrap(values, pictures) for name, values in self._columns().items()}

    def write(self, folder: Path, paths: Sequence[str], classes: Sequence[str]) -> None:
        """Write bias.json (all aggregates, intervals, baselines, settings) and bias_samples.csv (one row a sample)."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "map": self.map,
            "truth": self.truth,
            "tau": self.tau,
            "samples": len(self.rows),
            "skipped": self.skipped,
            "means": self.summary(),
            "intervals_95": self.intervals(),
            "baselines": self.baselines,
        }
        (folder / "bias.json").write_text(json.dumps(content, indent=1) + "\n")
        with (folder / "bias_samples.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "class", *self.rows[0].values])
            for row in self.rows:
                writer.writerow([paths[row.picture], classes[row.label], *(f"{v:.8g}" for v in row.values.values())])

    def _columns(self) -> dict[str, NDArray[np.float64]]:
        return {name: np.array([row.values[name] for row in self.rows]) for name in self.rows[0].values}


def true_labels(dataset: PictureDataset, place: int) -> list[int]:
    """The positive classes of one sample."""
    target = dataset.targets[place]
    return np.flatnonzero(target == 1).tolist() if dataset.index.task == "multilabel" else [int(target)]


def regions(dataset: PictureDataset, place: int, truth: Truth) -> tuple[Tensor, list[Region], float]:
    """One transformed picture (3, H, W), where its annotated classes are in it, and its scale: pixels of the input for
    one of the stored picture, along the height.

    Pictures, boxes and masks go through the same transform.
    """
    record, picture = dataset.records[place], dataset.picture(place)
    if truth == "masks":
        assert dataset.index.annotations is not None
        assert record.image_id is not None
        found = read_masks(dataset.index.annotations, record.image_id)
        image, moved = dataset.transform(picture, tv_tensors.Mask(torch.from_numpy(found.masks)))  # type: ignore[call-arg]
        planes = moved.numpy().astype(bool)  # (K, H, W)
        labels, aside = found.labels, found.crowd
        scale = image.shape[1] / picture.height
        before = found.masks.sum((1, 2)) * scale * image.shape[2] / picture.width
        visible = np.divide(planes.sum((1, 2)), before, out=np.ones(len(before)), where=before > 0)
    else:
        image, boxes, numbers = dataset.with_boxes(place)
        height, width = image.shape[1:]
        x, y, w, h = boxes.double().numpy().T
        corners = np.stack([x, y, x + w, y + h], axis=1)  # (K, 4)
        planes = np.array([box_mask(box, height, width) for box in corners], dtype=bool).reshape(-1, height, width)
        labels, aside = numbers.numpy(), np.array([box.crowd or box.difficult for box in record.boxes], dtype=bool)
        scale = height / picture.height
        inside = np.clip(corners, 0, [width, height, width, height])
        area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
        visible = np.divide(area, w * h, out=np.ones(len(area)), where=w * h > 0)
    found_regions = []
    for label in np.unique(labels):
        own, crowd = (labels == label) & ~aside, (labels == label) & aside
        if own.any():
            share = float(np.average(visible[own], weights=np.maximum(planes[own].sum((1, 2)), 1)))
            found_regions.append(Region(int(label), planes[own].any(0), planes[crowd].any(0), share))
    return image, found_regions, scale


@torch.no_grad()
def measure_bias(
    loaded: Loaded,
    dataset: PictureDataset,
    accelerator: Accelerator,
    *,
    kind: str | None = None,
    truth: Truth | None = None,
    tau: float = 0.5,
    batch_size: int = 16,
) -> BiasReport:
    """Map every positive class of every picture of a split and measure.

    `kind` is a name of the method's maps or "gradcam"; `truth` is masks where the set has them, else boxes.

    Raises:
        DataError: the set has neither masks nor boxes.
    """
    truth = truth or ("masks" if dataset.index.annotations is not None else "boxes")
    if truth == "masks" and dataset.index.annotations is None:
        raise DataError(f"dataset '{dataset.index.dataset}' has no masks; use --truth boxes")
    if not any(record.boxes for record in dataset.records):
        raise DataError(f"dataset '{dataset.index.dataset}' has no boxes: attention cannot be held against objects")
    mine: list[tuple[Row, Row, Row]] = []
    skipped: Counter[str] = Counter()
    sampler = EvaluationSampler(len(dataset), batch_size, accelerator.process_index, accelerator.num_processes)
    for places in sampler:
        pictures = [regions(dataset, place, truth) for place in places]
        images = torch.stack([image for image, _, _ in pictures]).to(accelerator.device)
        kept = []
        for slot, (place, (_, found, scale)) in enumerate(zip(places, pictures, strict=True)):
            by_label = {region.label: region for region in found}
            for label in true_labels(dataset, place):
                if label not in by_label:
                    skipped["unannotated"] += 1
                elif reason := by_label[label].skip_reason():
                    skipped[reason] += 1
                else:
                    kept.append((slot, place, by_label[label], scale))
        if kept:
            mine += _measure(loaded, images, kept, kind, tau)
    everything = gather_object(mine) if accelerator.num_processes > 1 else mine
    counts = gather_object([dict(skipped)]) if accelerator.num_processes > 1 else [dict(skipped)]
    if not everything:
        raise DataError(f"{dataset.index.dataset}/{dataset.index.split} has no object to hold attention against")
    everything.sort(key=lambda rows: (rows[0].picture, rows[0].label))
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    baselines = {
        name: aggregate(
            {key: np.array([rows[place].values[key] for rows in everything]) for key in everything[0][place].values}
        )
        for place, name in ((1, "uniform"), (2, "centre"))
    }
    used = kind or next(iter(loaded.method.maps))
    return BiasReport([rows[0] for rows in everything], dict(total), baselines, used, truth, tau)


def _measure(
    loaded: Loaded, images: Tensor, kept: list[tuple[int, int, Region, float]], kind: str | None, tau: float
) -> list[tuple[Row, Row, Row]]:
    """Rows of one batch: the model's, the uniform baseline's, the centre baseline's."""
    asked = [[region.label for slot, _, region, _ in kept if slot == row] for row in range(len(images))]
    most = max(map(len, asked))
    padded = torch.tensor([(labels + [0] * most)[:most] for labels in asked], device=images.device)  # (B, K)
    maps = attention_maps(loaded.method, loaded.model, images, padded, kind).cpu().numpy()  # (B, K, h, w)
    chosen = np.stack([maps[slot, asked[slot].index(region.label)] for slot, _, region, _ in kept])  # (N, h, w)
    masks = np.stack([region.mask for _, _, region, _ in kept])  # (N, H, W)
    ignore = np.stack([region.ignore for _, _, region, _ in kept])
    radius = POINTING_RADIUS * np.array([scale for *_, scale in kept])
    height, width = masks.shape[1:]
    baselines = [np.broadcast_to(m, (len(kept), *m.shape[1:])) for m in (uniform_map(), centre_map(height, width))]
    tables = [measure_maps(m, masks, ignore, tau=tau, tolerance=radius) for m in (chosen, *baselines)]
    rows: list[list[Row]] = [
        [
            Row(place, region.label, {name: float(values[n]) for name, values in table.items()})
            for n, (_, place, region, _) in enumerate(kept)
        ]
        for table in tables
    ]
    return list(zip(*rows, strict=True))
