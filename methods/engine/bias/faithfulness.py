"""Faithfulness of a map to its model: deletion and insertion curves (Petsiuk et al., RISE, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.bias.objects import gathered, true_labels
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import attention_maps, upsample
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Ratio, interval
from attnbias.methods.engine.types import Metrics


class Curves(NamedTuple):
    """Score of the class after 0, 1, 2 ... steps, (n + 1,); the first is the untouched start image."""

    deletion: Tensor
    """Highest pixels first set to 0: a faithful map makes the score fall early."""
    insertion: Tensor
    """Highest pixels first restored in a blurred image: a faithful map makes the score rise early."""


def faithfulness_curves(
    image: Tensor,
    saliency: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    pixels_per_step: int | None = None,
    batch_size: int = 64,
) -> Curves:
    """Delete from and insert into a normalised image (3, H, W) in the order of its map (H, W), highest first.

    `score` takes images (B, 3, H, W) and gives the class's probabilities (B,). A step is a row of pixels (W) unless
    said otherwise. The start of insertion is blurred by a Gaussian (11 x 11, sigma 5, reflected borders; RISE pads with
    zeros). Equal values keep reading order.
    """
    _, height, width = image.shape
    order = saliency.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.view(height, width)
    size = pixels_per_step or width
    steps = range(0, height * width + size, size)
    blurred = gaussian_blur(image, [11, 11], [5.0, 5.0])

    def curve(start: Tensor, end: Tensor) -> Tensor:
        values = []
        for first in range(0, len(steps), batch_size):
            changed = torch.stack([rank < count for count in steps[first : first + batch_size]])  # (B, H, W)
            values.append(score(torch.where(changed[:, None], end, start)))
        return torch.cat(values)

    return Curves(deletion=curve(image, torch.zeros_like(image)), insertion=curve(blurred, image))


def area_under(curve: Tensor) -> float:
    """Area under a curve over steps scaled to [0, 1], by trapezoids."""
    return float(torch.trapezoid(curve.double()) / (len(curve) - 1))


@torch.no_grad()
def measure_faithfulness(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    count: int,
    *,
    kind: str | None = None,
    batch_size: int = 64,
) -> Metrics:
    """Areas under both curves, of the model's maps and of random ones, means over `count` samples.

    Samples (a positive class of a scored image) are taken evenly from the whole split. Each costs four times as many
    passes as the image has rows.
    """
    every = [(position, label) for position in evaluation.ids.tolist() for label in true_labels(dataset, position)]
    chosen = [
        every[position] for position in np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)
    ]
    method, model, device = loaded.method, loaded.model, accelerator.device
    mine = []
    for position, label in chosen[accelerator.process_index :: accelerator.num_processes]:
        image = dataset[position]["image"].to(device)
        size = (image.shape[1], image.shape[2])
        own = attention_maps(method, model, image[None], torch.tensor([label], device=device), kind)
        chance = torch.rand(size, generator=torch.Generator().manual_seed(position)).to(device)

        def score(images: Tensor, label: int = label) -> Tensor:
            return method.predict(model, images, loaded.task)["scores"][:, label]

        curves = [
            faithfulness_curves(image, saliency, score, batch_size=batch_size)
            for saliency in (upsample(own, size)[0, 0], chance)
        ]
        areas = [area_under(curve) for pair in curves for curve in pair]
        mine.append((position, label, areas))
    rows = sorted(gathered(accelerator, mine))
    image_ids = np.array([position for position, _, _ in rows])
    names = ("deletion", "insertion", "random_deletion", "random_insertion")
    columns = dict(zip(names, np.array([areas for _, _, areas in rows]).T, strict=True))
    return {
        "map": kind or method.default_map(loaded.recipe),
        "samples": len(rows),
        "means": {name: float(values.mean()) for name, values in columns.items()},
        "intervals_95": {name: interval(Ratio.mean(values), image_ids) for name, values in columns.items()},
    }


class FaithfulnessProbe(Probe):
    """`val --faithfulness N`."""

    name = "faithfulness"

    def wanted(self, request: ValRequest) -> bool:
        return request.faithfulness is not None

    def measure(self, measured: Measured) -> Content:
        request = measured.request
        assert request.faithfulness is not None
        return measure_faithfulness(
            measured.loaded,
            measured.dataset,
            measured.evaluation,
            measured.accelerator,
            request.faithfulness,
            kind=request.kind,
            batch_size=request.eval_batch_size,
        )

    def heading(self, content: Content) -> str:
        return f"faithfulness ({content['map']})"

    def figures(self, content: Content) -> Mapping[str, float]:
        means: Mapping[str, float] = content["means"]
        return means
