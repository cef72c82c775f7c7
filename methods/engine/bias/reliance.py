"""`val --reliance`: how much a prediction rests on the context, told by taking the object or the context away.

Needs no attention map. An object that is painted over along its mask leaves its silhouette, by which it is still
recognised; so its box goes, with a margin, and what is put there comes from elsewhere: from another photograph
(`context_only`, the figure that counts), from another place of the same one, or blurred from what surrounds it. How far
the three lie apart tells how much the filling itself decides. The object alone stands on another photograph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from attnbias.data.datasets import ImageDataset
from attnbias.data.reading import Json
from attnbias.methods.engine.batches import evenly
from attnbias.methods.engine.bias.objects import (
    ObjectBatch,
    ObjectProbe,
    ResolvedTruth,
    Sample,
    measure_objects,
    regions,
    resolve_truth,
    write_samples,
)
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Measured, left_out_of
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Interval, Ratio, interval
from attnbias.methods.engine.stored_evaluations import RELIANCE_SAMPLES, RELIANCE_SHARES
from attnbias.methods.engine.text import figure
from attnbias.methods.engine.types import Truth

FILLS = ("context_only", "context_only_tile", "context_only_blur")
COLUMNS = ("probability", "object_only", *FILLS)

MARGIN = 1 / 16
"""Around an object's box, of the image's longer side: its shadow and blur go too."""
DONORS = 32
"""Images of the split that others are filled from."""


class Scored(NamedTuple):
    """One sample's scores."""

    image: int
    label: int
    values: list[float]
    """In the order of COLUMNS."""


class Donor(NamedTuple):
    """An image that others are filled from."""

    position: int
    image: Tensor
    """(3, H, W), transformed."""
    objects: NDArray[np.bool_]
    """(H, W): boxes of all that is annotated in it."""


@dataclass(frozen=True)
class Donors:
    """Images of a split that others are filled from: the same ones whatever the batches and processes."""

    dataset: ImageDataset
    donors: Sequence[Donor]

    @classmethod
    def of(cls, dataset: ImageDataset, positions: Sequence[int], truth: Truth) -> Donors:
        """At most DONORS of the images at these positions, evenly."""
        donors = []
        for position in (positions[number] for number in evenly(len(positions), DONORS)):
            image, found, _ = regions(dataset, position, truth)
            planes = [region.box for region in found]
            objects = np.any(planes, axis=0) if planes else np.zeros(image.shape[1:], dtype=bool)
            donors.append(Donor(position, image, objects))
        return cls(dataset, donors)

    def choose(self, sample: Sample, hidden: NDArray[np.bool_]) -> Tensor | None:
        """An image (3, H, W) that does not show the sample's class, with as little as can be of an object where
        `hidden` is; None where all show it, or may."""
        label, task = sample.region.label, self.dataset.index.task
        start = sample.image % len(self.donors)
        turned = [*self.donors[start:], *self.donors[:start]]
        targets = [self.dataset.targets[donor.position] for donor in turned]
        without = [
            donor
            for donor, target in zip(turned, targets, strict=True)
            if donor.position != sample.image and (target[label] == 0 if task == "multilabel" else target != label)
        ]
        return min(without, key=lambda donor: int((donor.objects & hidden).sum())).image if without else None


def widened(box: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A plane of boxes (H, W) with the margin around each."""
    margin = ceil(MARGIN * max(box.shape))
    # Rows, then columns, each in one pass whatever the margin.
    return np.asarray(maximum_filter(box.view(np.uint8), 2 * margin + 1, mode="constant"), dtype=np.bool_)


def from_elsewhere(image: Tensor, hidden: Tensor) -> Tensor:
    """What fills the hidden part (H, W) of an image (3, H, W) from the image itself, moved so that as little as can be
    of what is hidden covers itself; what still does is blurred from what surrounds it."""
    height, width = hidden.shape
    steps = [(down * height // 8, across * width // 8) for down in range(8) for across in range(8)]
    shift = min(steps[1:], key=lambda step: int((hidden.roll(step, (0, 1)) & hidden).sum()))
    covered, filled = hidden.roll(shift, (0, 1)) & hidden, image.roll(shift, (1, 2))
    return torch.where(covered, blurred_in(image, hidden), filled) if covered.any() else filled


def blurred_in(image: Tensor, hidden: Tensor) -> Tensor:
    """What surrounds the hidden part (H, W), blurred into it; nothing of what is hidden itself."""
    sigma = max(hidden.shape) / 8
    size = 2 * min(ceil(2 * sigma), min(hidden.shape) - 1) + 1
    seen = (~hidden).to(image.dtype)[None]
    total, weight = (
        # Rows, then columns: the same as both at once, in a fiftieth of the time.
        gaussian_blur(gaussian_blur(each, [size, 1], [sigma, sigma]), [1, size], [sigma, sigma])
        for each in (image * seen, seen)
    )
    mean = (image * seen).sum((1, 2), keepdim=True) / seen.sum().clamp_min(1)
    return torch.where(weight > 1e-3, total / weight.clamp_min(1e-3), mean)


def versions(image: Tensor, sample: Sample, hidden: NDArray[np.bool_], other: Tensor) -> Tensor:
    """What is scored, (5, 3, H, W), in the order of COLUMNS."""
    mask, gone = (torch.from_numpy(plane).to(image.device) for plane in (sample.region.mask, hidden))
    fills = (other, from_elsewhere(image, gone), blurred_in(image, gone))
    return torch.stack([image, torch.where(mask, image, other), *(torch.where(gone, fill, image) for fill in fills)])


@dataclass(frozen=True)
class Reliance:
    """The scores of all samples, and how they were made."""

    rows: Sequence[Scored]
    truth: ResolvedTruth
    donors: int
    skipped: dict[str, int]

    def content(self) -> Json:
        """Means over all samples with their 95 % intervals, and the settings.

        `probability` of the class on the whole image, with the object alone, and with the context alone by each
        filling; `object_share` and `context_share` are what of the mean probability is left, `fill_spread` how far the
        fillings lie apart.
        """
        return {
            "truth": self.truth.kind,
            "truth_reason": self.truth.reason,
            "margin": MARGIN,
            "donors": self.donors,
            "samples": len(self.rows),
            "skipped": self.skipped,
            **_means(self.rows),
        }

    def write(self, path: Path, dataset: ImageDataset) -> None:
        """Write the scores of every sample as a table."""
        scores = ((image, label, map(figure, values)) for image, label, values in self.rows)
        write_samples(path, dataset, COLUMNS, scores)


@torch.no_grad()
def score_reliance(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    truth: Truth | None = None,
    batch_size: int = 16,
    workers: int = 0,
) -> Reliance:
    """Score the positive classes of all scored images, with their objects or their contexts taken away.

    Raises:
        DataError: the set has neither masks nor boxes. NothingToMeasureError: no sample says anything.
    """
    against = resolve_truth(dataset, truth)
    donors = Donors.of(dataset, evaluation.ids.tolist(), against.kind)
    found, skipped = measure_objects(
        loaded,
        dataset,
        evaluation.ids,
        accelerator,
        against.kind,
        partial(_score, loaded, donors),
        batch_size=batch_size,
        workers=workers,
        to="take away",
    )
    return Reliance(found, against, len(donors.donors), skipped)


def _score(loaded: Loaded, donors: Donors, batch: ObjectBatch, skipped: Counter[str]) -> list[Scored]:
    """The samples of a batch that can be filled from elsewhere; the others are counted in `skipped`."""
    images, shown, kept = batch.images, [], []
    for sample in batch.samples:
        hidden = widened(sample.region.box)
        other = donors.choose(sample, hidden)
        if other is None or hidden.mean() > 0.9:
            skipped["no image without the class" if other is None else "no context"] += 1
            continue
        shown.append(versions(images[sample.slot], sample, hidden, other.to(images.device)))
        kept.append(sample)
    if not kept:
        return []
    labels = torch.tensor([sample.region.label for sample in kept], device=images.device)[:, None]
    scores = [
        loaded.method.predict(loaded.model, version, loaded.task)["scores"].double().gather(1, labels)[:, 0]
        for version in torch.stack(shown, dim=1)  # (N, 3, H, W) each
    ]
    rows = torch.stack(scores, dim=1).cpu().tolist()
    return [Scored(s.image, s.region.label, values) for s, values in zip(kept, rows, strict=True)]


def _means(found: Sequence[Scored]) -> Json:
    """Means over all samples, and their intervals over images."""
    columns = dict(zip(COLUMNS, np.array([sample.values for sample in found]).T, strict=True))
    figures = {name: Ratio.mean(values) for name, values in columns.items()}
    figures |= {name: Ratio(columns[part], columns["probability"]) for name, part in RELIANCE_SHARES.items()}
    images = np.array([sample.image for sample in found])
    means = {name: figure.value for name, figure in figures.items()}
    fills = [means[name] for name in FILLS]
    edges: dict[str, Interval | None] = {name: interval(figure, images) for name, figure in figures.items()}
    return {"means": {**means, "fill_spread": max(fills) - min(fills)}, "intervals_95": edges}


class RelianceProbe(ObjectProbe):
    """`val --reliance`."""

    name = "reliance"

    def wanted(self, request: ValRequest) -> bool:
        return request.reliance

    def measure(self, measured: Measured) -> Json:
        request = measured.request
        found = score_reliance(
            *measured.scored,
            truth=request.truth,
            batch_size=request.eval_batch_size,
            workers=request.workers or 0,
        )
        if measured.stored:
            found.write(measured.stored / RELIANCE_SAMPLES, measured.dataset)
        return found.content()

    def remarks(self, content: Json) -> Sequence[str]:
        how = (
            f"reliance: objects' boxes go with a margin of {content['margin']:.4g} of the image's longer side; "
            f"context_only fills them from {content['donors']} other images of the split, _tile from another place of "
            "the same image, _blur from what surrounds them"
        )
        return [how, *left_out_of(self.name, content)]
