"""`val --backgrounds`: objects on the contexts of other images, contexts alone, and noise on either.

ImageNet-9's family (Xiao et al., Noise or Signal, ICLR 2021) from any set's masks or boxes: whether a class is still
named with its object on the context of another image of the class (`mixed_same`) or of one without it (`mixed_rand`),
or from the context alone (`only_bg_b`, `only_bg_t`). And relative foreground sensitivity (Moayeri et al., A
Comprehensive Study of Image Classification Model Sensitivity to Foregrounds, Backgrounds, and Visual Attributes, CVPR
2022): which of the two a model suffers more under noise on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isnan, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from attnbias.data.datasets import ImageDataset
from attnbias.data.reading import Json
from attnbias.data.transforms.basic import normalization
from attnbias.methods.engine.attention_measures import (
    BACKGROUND_FLAGS,
    BACKGROUNDS,
    background_gap,
    foreground_sensitivity,
)
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
from attnbias.methods.engine.bias.reliance import MARGIN, from_elsewhere, widened
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Measured, left_out_of
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Interval, Ratio, interval
from attnbias.methods.engine.stored_evaluations import BACKGROUNDS_SAMPLES
from attnbias.methods.engine.types import Truth

SIGMA = 0.25
"""Standard deviation that the noise would have on half of the image, of the range of a pixel's values."""

KEPT = 32
"""Contexts that are kept: samples that stand one after the other often have the same."""


class Contexts:
    """Images of a split without their objects, by what they show: the same ones whatever the batches and processes."""

    def __init__(self, dataset: ImageDataset, positions: Sequence[int], truth: Truth) -> None:
        self.dataset, self.truth = dataset, truth
        self.positions = np.asarray(positions)
        targets = np.asarray(dataset.targets)[self.positions]
        classes = np.arange(len(dataset.index.classes))
        self.shown = targets if targets.ndim == 2 else targets[:, None] == classes  # (N, C); -1 = unknown
        self._kept = lru_cache(KEPT)(self._context)

    def of_another(self, sample: Sample, *, same: bool) -> Tensor | None:
        """The context (3, H, W) of the next image, in the order of the split, that shows the sample's class (`same`),
        or does not; None where there is none, or nothing is left of it without its objects."""
        labels = self.shown[:, sample.region.label]
        others = self.positions[(labels == int(same)) & (self.positions != sample.image)]
        if not len(others):
            return None
        return self._kept(int(others[np.searchsorted(others, sample.image) % len(others)]))

    def _context(self, position: int) -> Tensor | None:
        """An image without its objects."""
        image, found, _ = regions(self.dataset, position, self.truth)
        planes = [widened(region.box) for region in found]
        hidden = np.any(planes, axis=0) if planes else np.zeros(image.shape[1:], dtype=bool)
        return None if hidden.mean() > 0.9 else without(image, torch.from_numpy(hidden))


def without(image: Tensor, hidden: Tensor) -> Tensor:
    """An image (3, H, W) with other places of itself where it is hidden (H, W)."""
    return torch.where(hidden, from_elsewhere(image, hidden), image)


def noise_like(image: Tensor, where: Tensor, std: Tensor, seed: int) -> Tensor:
    """Gaussian noise (3, H, W) on a part (H, W) of a normalised image, of one norm whatever the part's size; `std`
    (3, 1, 1) is what the pixels' range was divided by."""
    drawn = np.random.default_rng(seed).normal(size=tuple(image.shape))
    noise = torch.from_numpy(drawn) * where.cpu()
    whole = SIGMA * sqrt(image.numel() / 2)
    return (noise * (whole / noise.norm())).to(image) / std


def versions(
    image: Tensor, sample: Sample, same: Tensor, other: Tensor, normalisation: tuple[Tensor, Tensor]
) -> Tensor:
    """What is scored, (7, 3, H, W), in the order of BACKGROUND_FLAGS; `normalisation` is mean and std, (3, 1, 1)."""
    mean, std = normalisation
    mask, gone = (
        torch.from_numpy(plane).to(image.device) for plane in (sample.region.mask, widened(sample.region.box))
    )
    black, white = -mean / std, (1 - mean) / std
    noisy = [image + noise_like(image, where, std, sample.image) for where in (mask, ~mask)]
    return torch.stack(
        [
            image,
            torch.where(mask, image, same),
            torch.where(mask, image, other),
            torch.where(gone, black.expand_as(image), image),
            without(image, gone),
            *(torch.minimum(torch.maximum(each, black), white) for each in noisy),
        ]
    )


class OnContexts(NamedTuple):
    """One sample, and whether its class is named."""

    image: int
    label: int
    values: list[bool]
    """In the order of BACKGROUND_FLAGS."""


@dataclass(frozen=True)
class Backgrounds:
    """What is named of all samples, and how they were made."""

    rows: Sequence[OnContexts]
    truth: ResolvedTruth
    skipped: dict[str, int]

    def content(self) -> Json:
        """The figures of BACKGROUNDS with their 95 % intervals, and the settings: shares of the samples whose class is
        named, by a score of at least one half, or the highest in single-label work."""
        return {
            "truth": self.truth.kind,
            "truth_reason": self.truth.reason,
            "margin": MARGIN,
            "sigma": SIGMA,
            "noise_seed": "the image's position in the split",
            "samples": len(self.rows),
            "skipped": self.skipped,
            **_means(np.array([row.image for row in self.rows]), np.array([row.values for row in self.rows])),
        }

    def write(self, path: Path, dataset: ImageDataset) -> None:
        """Write what is named of every sample as a table."""
        named = ((image, label, map(int, values)) for image, label, values in self.rows)
        write_samples(path, dataset, BACKGROUND_FLAGS, named)


@torch.no_grad()
def score_backgrounds(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    truth: Truth | None = None,
    batch_size: int = 16,
    workers: int = 0,
) -> Backgrounds:
    """Show every sample on other contexts, without its object, and under noise.

    Raises:
        DataError: the set has neither masks nor boxes. NothingToMeasureError: no sample has other images to lend their
            contexts.
    """
    against = resolve_truth(dataset, truth)
    contexts = Contexts(dataset, sorted(evaluation.ids.tolist()), against.kind)
    found, skipped = measure_objects(
        loaded,
        dataset,
        evaluation.ids,
        accelerator,
        against.kind,
        partial(_name, loaded, contexts),
        batch_size=batch_size,
        workers=workers,
        to="put elsewhere",
    )
    return Backgrounds(found, against, skipped)


def _name(loaded: Loaded, contexts: Contexts, batch: ObjectBatch, skipped: Counter[str]) -> list[OnContexts]:
    """The samples of a batch that have other contexts; the others are counted in `skipped`."""
    device, named = batch.images.device, []
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in normalization(loaded.recipe.normalize))
    for sample in batch.samples:
        same, other = (contexts.of_another(sample, same=wanted) for wanted in (True, False))
        if same is None or other is None:
            skipped["no other context"] += 1
            continue
        shown = versions(batch.images[sample.slot], sample, same.to(device), other.to(device), (mean, std))
        scores = loaded.method.predict(loaded.model, shown, loaded.task)["scores"].double()
        label = sample.region.label
        right = scores[:, label] >= 0.5 if loaded.task == "multilabel" else scores.argmax(1) == label
        named.append(OnContexts(sample.image, label, right.tolist()))
    return named


def _means(image_ids: NDArray[np.int64], named: NDArray[np.bool_]) -> Json:
    """The figures of BACKGROUNDS, and their intervals over images; `named` (N, 7) is in the order of
    BACKGROUND_FLAGS."""
    flags = dict(zip(BACKGROUND_FLAGS, named.T.astype(np.float64), strict=True))
    figures = {name: Ratio.mean(values) for name, values in flags.items()}
    figures |= {"bg_gap": background_gap(flags), "rfs": foreground_sensitivity(flags)}
    means = {name: None if isnan(figure.value) else figure.value for name, figure in figures.items()}
    edges: dict[str, Interval | None] = {
        name: None if means[name] is None else interval(figure, image_ids, flags=name in flags)
        for name, figure in figures.items()
    }
    return {"means": {figure.name: means[figure.name] for figure in BACKGROUNDS}, "intervals_95": edges}


class BackgroundsProbe(ObjectProbe):
    """`val --backgrounds`."""

    name = "backgrounds"

    def wanted(self, request: ValRequest) -> bool:
        return request.backgrounds

    def measure(self, measured: Measured) -> Json:
        request = measured.request
        found = score_backgrounds(
            *measured.scored,
            truth=request.truth,
            batch_size=request.eval_batch_size,
            workers=request.workers or 0,
        )
        if measured.stored:
            found.write(measured.stored / BACKGROUNDS_SAMPLES, measured.dataset)
        return found.content()

    def remarks(self, content: Json) -> Sequence[str]:
        how = (
            "backgrounds: shares of objects whose class is named; a context is the next other image of the split, with "
            "other places of the same image over the boxes of its objects, which go with a margin of "
            f"{content['margin']:.4g} of the longer side; noise has one norm on either, that of {content['sigma']} of "
            f"the range on half of the image, and is drawn from {content['noise_seed']}"
        )
        return [how, *left_out_of(self.name, content)]
