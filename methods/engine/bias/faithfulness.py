"""`val --faithfulness N`: can a map be trusted? What its highest pixels do to the score, whether it depends on what the
model has learned, and whether another kind of map says the same. FAITHFULNESS in attention_measures.py names the
figures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.attention_measures import ON_MAPS, ON_PIXELS
from attnbias.methods.engine.batches import evenly
from attnbias.methods.engine.bias.objects import NothingToMeasureError, check_classes, true_labels
from attnbias.methods.engine.bias.road import NOISE, SHARES, ranks, road
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.description import AT_LAYER, EXPLAINERS
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import attention_maps, layer_name, minmax, upsample
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Ratio, interval
from attnbias.methods.engine.types import Metrics, Steering

BLUR_SIZE, BLUR_SIGMA = 11, 5.0
"""Of the image that insertion starts from, in pixels."""

COMPARED = 4
"""Samples by which two kinds of map are told to be one computation, and ..."""
SAME = 1e-3
"""... how far these maps, stretched to 0..1, may then lie apart anywhere."""

UNTRAINED_SEED = 0

SHIFT = 4
"""Pixels of the network's input by which it is moved, down and to the right."""


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
    rank = ranks(saliency)
    size = pixels_per_step or width
    steps = range(0, height * width + size, size)
    blurred = gaussian_blur(image, [BLUR_SIZE] * 2, [BLUR_SIGMA] * 2)

    def curve(start: Tensor, end: Tensor) -> Tensor:
        values = []
        for first in range(0, len(steps), batch_size):
            changed = torch.stack([rank < count for count in steps[first : first + batch_size]])  # (B, H, W)
            values.append(score(torch.where(changed[:, None], end, start)))
        return torch.cat(values)

    return Curves(deletion=curve(image, torch.zeros_like(image)), insertion=curve(blurred, image))


def aopc(deletion: Tensor) -> float:
    """Area over the perturbation curve (Samek et al., IEEE TNNLS 2017): how far the score lies below its start, mean
    over the steps of a deletion curve (n + 1,)."""
    return float((deletion[0] - deletion.double()).mean())


def map_agreement(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two maps (H, W); 0 where one is constant, which ranks nothing."""
    from scipy.stats import rankdata  # half a second, for which no other measure has to wait

    ranks = [rankdata(each.double().cpu().numpy().ravel()) for each in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def moved(image: Tensor) -> Tensor:
    """An image (3, H, W) moved by SHIFT; what comes in is reflected at the border."""
    return F.pad(image[None], (SHIFT, 0, SHIFT, 0), mode="reflect")[0, :, :-SHIFT, :-SHIFT]


def shift_agreement(saliency: Tensor, of_moved: Tensor) -> float:
    """Rank correlation of a map (H, W) and that of the moved image, moved back, where both have a value."""
    return map_agreement(saliency[:-SHIFT, :-SHIFT], of_moved[SHIFT:, SHIFT:])


def untrained(loaded: Loaded) -> nn.Module:
    """The same model with fresh weights: complete parameter randomisation (Adebayo et al., NeurIPS 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        if loaded.own_network:
            return _reset(copy.deepcopy(loaded.model))
        model: nn.Module = loaded.method.build_model(loaded.recipe, len(loaded.classes), loaded.task)
    return model.to(next(loaded.model.parameters()).device).eval()


def _reset(model: nn.Module) -> nn.Module:
    """The same model with the weights that its layers begin with; of a layer that tells none, small random ones."""
    for layer in model.modules():
        own = list(layer.parameters(recurse=False))
        if own and callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
        else:
            for values in own:
                nn.init.normal_(values, std=0.02)
    return model


def area_under(curve: Tensor) -> float:
    """Area under a curve over steps scaled to [0, 1], by trapezoids."""
    return float(torch.trapezoid(curve.double()) / (len(curve) - 1))


@dataclass(frozen=True)
class Faithfulness:
    """What was found of each sample."""

    map: str
    other_map: str
    """The one that `agreement` is with."""
    same_maps: tuple[str, ...]
    """Kinds of map that it is not with, because they are the same computation as `map`."""
    layer: str | None
    steps: int | None
    """In which pixels are deleted and inserted; None: as many as the image has rows."""
    images: NDArray[np.int64]
    """(N,): the image of each sample."""
    labels: NDArray[np.int64]
    """(N,): its class."""
    columns: Mapping[str, NDArray[np.float64]]
    """(N,) by name: those of FAITHFULNESS, and what random maps reach as random_NAME."""
    steering: Steering | None = None
    """What a second pass was told to look for; None where it looked as it does by itself."""

    def content(self) -> Metrics:
        """Means over all samples with their intervals, and the maps."""
        return {
            "map": self.map,
            "other_map": self.other_map,
            "same_maps": self.same_maps,
            "layer": self.layer,
            **(self.steering.content() if self.steering else {}),
            "samples": len(self.images),
            "step": "a row of pixels" if self.steps is None else f"one of {self.steps} parts of the pixels",
            "insertion_blur": {"size": BLUR_SIZE, "sigma": BLUR_SIGMA},
            "road_removed": SHARES,
            "road_noise": NOISE,
            "untrained_seed": UNTRAINED_SEED,
            "shift": SHIFT,
            "random_seed": "the image's position in the split",
            "means": {name: float(values.mean()) for name, values in self.columns.items()},
            "intervals_95": {name: interval(Ratio.mean(values), self.images) for name, values in self.columns.items()},
        }


@torch.no_grad()
def score_faithfulness(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    count: int,
    *,
    kind: str | None = None,
    batch_size: int = 64,
    steps: int | None = None,
    on_pixels: Sequence[str] = ON_PIXELS,
) -> Faithfulness:
    """Measure everything in FAITHFULNESS of `count` samples, and what random maps reach of what is measured on pixels.

    Samples (a positive class of a scored image) are taken evenly from the whole split. Each costs four times as many
    passes as there are `steps` (None: as the image has rows), and 16 more, of "road". Each true class is explained, not
    the predicted one as in the papers. Of ON_PIXELS, only `on_pixels` is measured.

    Raises:
        NothingToMeasureError: the split has no positive label.
    """
    chosen = _drawn(loaded, dataset, evaluation, count)
    method = loaded.method
    used = kind or method.default_map(loaded.recipe)
    first = [(dataset[position]["image"].to(accelerator.device), label) for position, label in chosen[:COMPARED]]
    other, same = another_kind(loaded, first, used)
    fresh = untrained(loaded)
    mine = []
    for position, label in chosen[accelerator.process_index :: accelerator.num_processes]:
        image = dataset[position]["image"].to(accelerator.device)
        own, second, blank, of_moved = (
            _map(loaded, network, given, label, name)
            for network, given, name in (
                (loaded.model, image, used),
                (loaded.model, image, other),
                (fresh, image, used),
                (loaded.model, moved(image), used),
            )
        )
        chance = torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(position)).to(image.device)
        figures = [
            figure
            for saliency in (own, chance)
            for figure in _on_pixels(
                loaded, image, label, saliency, on_pixels, seed=position, steps=steps, batch_size=batch_size
            )
        ]
        agreements = [map_agreement(own, second), map_agreement(own, blank), shift_agreement(own, of_moved)]
        mine.append((position, label, [*figures, *agreements]))
    rows = sorted(Control().join(mine))
    image_ids, labels = (np.array([row[part] for row in rows]) for part in (0, 1))
    names = (*on_pixels, *(f"random_{name}" for name in on_pixels), *ON_MAPS)
    columns = dict(zip(names, np.array([figures for _, _, figures in rows]).T, strict=True))
    layer = layer_name(method, loaded.model, used) or layer_name(method, loaded.model, other)
    return Faithfulness(used, other, same, layer, steps, image_ids, labels, columns, loaded.steering)


def another_kind(loaded: Loaded, samples: Sequence[tuple[Tensor, int]], used: str) -> tuple[str, tuple[str, ...]]:
    """Which kind of map another one is held against, and the kinds before it that are the same computation here: of a
    linear classifier of averaged features a class activation map and Grad-CAM are, and agree whatever they show.

    `samples` are images (3, H, W) with a class of each, by whose maps it is told.
    """

    def drawn(kind: str) -> Tensor:
        return minmax(torch.stack([_map(loaded, loaded.model, image, label, kind) for image, label in samples]))

    own_kind = [loaded.method.default_map(loaded.recipe)] if used in EXPLAINERS else []
    kinds = [kind for kind in dict.fromkeys((*own_kind, *AT_LAYER)) if kind != used]
    own, same = drawn(used), list[str]()
    for kind in kinds:
        if not own.any() or (drawn(kind) - own).abs().max() > SAME:
            return kind, tuple(same)
        same.append(kind)
    return "rise", tuple(same)


def _drawn(loaded: Loaded, dataset: ImageDataset, evaluation: Evaluation, count: int) -> list[tuple[int, int]]:
    """Images and their positive classes that the model knows, at most `count`, evenly from all that were scored."""
    every = [
        (position, label)
        for position in evaluation.ids.tolist()
        for label in true_labels(dataset, position)
        if loaded.knows(label)
    ]
    if not every:
        split = f"{dataset.index.dataset}/{dataset.index.split}"
        raise NothingToMeasureError(f"{split} has no positive label of a class of the model")
    return [every[position] for position in evenly(len(every), count)]


def _map(loaded: Loaded, network: nn.Module, image: Tensor, label: int, kind: str) -> Tensor:
    """A map (H, W) of one class of an image (3, H, W), as the model's method draws it of a network."""
    classes = torch.tensor([label], device=image.device)
    maps = attention_maps(loaded.method, network, image[None], classes, kind, steering=loaded.steering)
    return upsample(maps, (image.shape[1], image.shape[2]))[0, 0]


def _on_pixels(
    loaded: Loaded,
    image: Tensor,
    label: int,
    saliency: Tensor,
    names: Sequence[str],
    *,
    seed: int,
    steps: int | None,
    batch_size: int,
) -> list[float]:
    """What one map (H, W) reaches on an image (3, H, W), of each of these names of ON_PIXELS."""

    def score(images: Tensor) -> Tensor:
        return loaded.method.predict(loaded.model, images, loaded.task)["scores"][:, label]

    size = None if steps is None else -(-saliency.numel() // steps)
    deletion, insertion = faithfulness_curves(image, saliency, score, pixels_per_step=size, batch_size=batch_size)
    figures = {"deletion": area_under(deletion), "insertion": area_under(insertion), "aopc": aopc(deletion)}
    if "road" in names:
        figures["road"] = road(image, saliency, score, seed=seed)
    return [figures[name] for name in names]


def agreement_words(other: str, used: str, same: Sequence[str]) -> str:
    """Which kind of map `agreement` is with, and which it is not with."""
    left_out = ", ".join(f"'{kind}'" for kind in same)
    return f"'{other}'" + (f", not with {left_out}: the same computation as '{used}' here" if same else "")


class FaithfulnessProbe(Probe):
    """`val --faithfulness N`."""

    name = "faithfulness"

    def wanted(self, request: ValRequest) -> bool:
        return request.faithfulness is not None

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        check_classes(self.name, loaded)

    def measure(self, measured: Measured) -> Content:
        request = measured.request
        assert request.faithfulness is not None
        return score_faithfulness(
            *measured.scored, request.faithfulness, kind=request.kind, batch_size=request.eval_batch_size
        ).content()

    def heading(self, content: Content) -> str:
        return f"faithfulness ({content['map']})"

    def figures(self, content: Content) -> Mapping[str, float]:
        means: Mapping[str, float] = content["means"]
        return means

    def remarks(self, content: Content) -> Sequence[str]:
        removed = ", ".join(f"{share:.0%}" for share in content["road_removed"])
        return [
            f"faithfulness: of the map '{content['map']}' of each true class (published: the predicted class); "
            f"agreement is with {agreement_words(content['other_map'], content['map'], content['same_maps'])}",
            f"faithfulness: {content['step']} a step; deleted pixels become 0 after normalisation, inserted ones come "
            f"back in a blur of sigma {content['insertion_blur']['sigma']:g}; ROAD removes {removed} with noise of "
            f"{content['road_noise']:g}; random maps are drawn from {content['random_seed']}, the untrained network "
            f"from seed {content['untrained_seed']}; images are moved by {content['shift']} pixels",
        ]
