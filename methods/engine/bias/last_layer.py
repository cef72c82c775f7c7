"""`val --last-layer SPLIT`: is a bias in the features, or in what the last layer makes of them?

Deep feature reweighting (Kirichenko et al., Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations, ICLR 2023) as a probe: a linear layer is trained anew on the features of another split, where every group
(a label under an attribute) weighs alike, and measured beside the model's own answers. Where it mends the worst group,
the features knew better than the head. Nothing is written into the model; it takes seconds on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.reading import Json
from attnbias.methods.engine.batches import EvaluationSampler
from attnbias.methods.engine.bias.context import group_measures
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.groups import groups_of
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe, open_dataset
from attnbias.methods.engine.load import Loaded, head_names
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.types import LABELLED

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the squared weights; picked on every second image of the split that the layer is trained on."""


def head_modules(loaded: Loaded) -> list[nn.Module]:
    """The modules whose weights depend on the number of classes."""
    own = loaded.model.state_dict()
    names = head_names(loaded.method, own, loaded.recipe, len(loaded.classes), loaded.task)
    owners = dict.fromkeys(name.rpartition(".")[0] for name in own if name in names)
    return [loaded.model.get_submodule(owner) for owner in owners]


@contextmanager
def _inputs_of(modules: Sequence[nn.Module]) -> Iterator[Callable[[], Tensor]]:
    """What the modules were given last, averaged over places and tokens, side by side: (B, D)."""
    seen: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given = inputs[0].detach().float()
            seen[number] = given.flatten(2).mean(2) if given.ndim == 4 else given.mean(1) if given.ndim == 3 else given

        return hook

    handles = [module.register_forward_pre_hook(keep(number)) for number, module in enumerate(modules)]
    try:
        yield lambda: torch.cat([seen[number] for number in sorted(seen)], dim=1)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def features_of(
    loaded: Loaded, dataset: ImageDataset, positions: Sequence[int], accelerator: Accelerator, batch_size: int
) -> tuple[list[int], Tensor]:
    """What the last layer reads of some images, (N, D) float32, on the CPU, and the positions of those that could be
    read, in the order given (`--on-bad-image skip` leaves out the others)."""
    mine: list[tuple[int, np.ndarray]] = []
    sampler = EvaluationSampler(len(positions), batch_size, accelerator.process_index, accelerator.num_processes)
    with _inputs_of(head_modules(loaded)) as given:
        for rows in sampler:
            samples = {positions[row]: dataset[positions[row]] for row in rows}
            images = {position: sample["image"] for position, sample in samples.items() if "image" in sample}
            if images:
                loaded.method.predict(loaded.model, torch.stack([*images.values()]).to(accelerator.device), loaded.task)
                mine += zip(images, given().cpu().numpy(), strict=True)
    found = dict(Control().join(mine))
    kept = [position for position in positions if position in found]
    if len(kept) < 2:
        split = f"{dataset.index.dataset}/{dataset.index.split}"
        raise DataError(f"{split} has {len(kept)} images that can be read; a layer needs two to learn from")
    return kept, torch.from_numpy(np.stack([found[position] for position in kept]))


def retrained(features: Tensor, targets: Tensor, weights: Tensor, classes: int, penalty: float) -> nn.Linear:
    """A linear layer on features (N, D): softmax of class numbers (N,) with weights (N,), or one sigmoid a class of
    targets (N, C) with weights (N, C)."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = layer(features)
        if targets.ndim == 1:
            losses = F.cross_entropy(logits, targets, reduction="none")
        else:
            losses = F.binary_cross_entropy_with_logits(logits, targets.clamp_min(0).float(), reduction="none")
        loss = (losses * weights).sum() / weights.sum() + penalty * layer.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return layer


def balanced(groups: np.ndarray) -> np.ndarray:
    """Weights with which every group weighs alike; groups (N,), or (N, C) column by column, "" = not asked."""
    if groups.ndim == 2:
        return np.stack([balanced(column) for column in groups.T], axis=1)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.where(groups == "", 0.0, 1 / counts[inverse])


def chosen_layer(
    features: Tensor, targets: Tensor, groups: np.ndarray, classes: int, worst: Callable[[nn.Linear, Tensor], float]
) -> tuple[nn.Linear, float]:
    """The layer with the penalty under which the worst group of every second image is best, trained on the others;
    then trained on all. `worst(layer, rows)` gives that group's accuracy."""
    rows = torch.arange(len(features))
    even, odd = rows[::2], rows[1::2]
    reached = {}
    for penalty in PENALTIES:
        weights = torch.from_numpy(balanced(groups[even.numpy()])).float()
        layer = retrained(features[even], targets[even], weights, classes, penalty)
        reached[penalty] = worst(layer, odd)
    best = max(PENALTIES, key=lambda penalty: reached[penalty])
    return retrained(features, targets, torch.from_numpy(balanced(groups)).float(), classes, best), best


class LastLayerProbe(Probe):
    """`val --last-layer SPLIT`."""

    name = "last_layer"
    decimals = 2

    def wanted(self, request: ValRequest) -> bool:
        return request.last_layer is not None

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        assert request.last_layer is not None
        other = open_dataset(request, loaded, request.last_layer)
        for each in (dataset, other):
            task, split = each.index.task, f"{each.index.dataset}/{each.index.split}"
            if task not in LABELLED or not all(record.group for record in each.records):
                raise UsageError(
                    f"--last-layer measures groups, and images of {split} have no attribute (group) beside their labels"
                )
        if other.index.split == dataset.index.split:
            raise UsageError(f"--last-layer {request.last_layer}: the layer would be measured on what it is trained on")

    def measure(self, measured: Measured) -> Content:
        request, loaded, dataset = measured.request, measured.loaded, measured.dataset
        assert request.last_layer is not None
        other = open_dataset(request, loaded, request.last_layer)
        size = request.eval_batch_size
        kept, given = features_of(loaded, other, range(len(other)), measured.accelerator, size)
        _, shown = features_of(loaded, dataset, measured.evaluation.ids.tolist(), measured.accelerator, size)
        mean, std = given.mean(0), given.std(0).clamp_min(1e-6)
        given, shown = (given - mean) / std, (shown - mean) / std
        targets = np.asarray(other.targets)[kept]
        attributes = [other.records[position].group or "" for position in kept]
        classes = dataset.index.classes

        def accuracies(layer: nn.Linear, features: Tensor, truth: np.ndarray, groups: Sequence[str]) -> Json:
            with torch.no_grad():
                logits = layer(features)
            scores = logits.sigmoid() if truth.ndim == 2 else logits.softmax(1)
            return group_measures(truth, scores.numpy(), groups, classes)

        def worst(layer: nn.Linear, rows: Tensor) -> float:
            own = [attributes[row] for row in rows.tolist()]
            found = accuracies(layer, given[rows], targets[rows.numpy()], own)
            lowest: float | None = found["accuracy" if found["worst_group"] is None else "worst_group_accuracy"]
            return lowest or 0.0

        groups = groups_of(targets, attributes, classes)
        with torch.autocast("cpu", enabled=False):  # --amp is of the passes that gave the features
            layer, penalty = chosen_layer(given, torch.from_numpy(targets), groups, len(classes), worst)
        truth = measured.evaluation.targets
        own = [dataset.records[sample].group or "" for sample in measured.evaluation.ids]
        before = group_measures(truth, measured.evaluation.scores["scores"], own, classes)
        with torch.autocast("cpu", enabled=False):
            after = accuracies(layer, shown, truth, own)
        return {
            "trained_on": other.index.split,
            "images": len(kept),
            "skipped": len(other) - len(kept),
            "features": given.shape[1],
            "penalty": penalty,
            "penalties": PENALTIES,
            "as_trained": before,
            "retrained": after,
        }

    def heading(self, content: Content) -> str:
        return f"last layer, trained anew on {content['trained_on']}"

    def figures(self, content: Content) -> Mapping[str, float | None]:
        return {
            f"{name}, {words}": content[when][name]
            for name in ("worst_group_accuracy", "accuracy")
            for when, words in (("as_trained", "as trained"), ("retrained", "retrained"))
        }

    def remarks(self, content: Content) -> Sequence[str]:
        tried = ", ".join(f"{penalty:g}" for penalty in content["penalties"])
        left_out = f" ({content['skipped']} unreadable ones left out)" if content["skipped"] else ""
        return [
            f"last layer: {content['features']} features of {content['images']} images of {content['trained_on']}"
            f"{left_out}, every group alike; the penalty is {content['penalty']:g}, of {tried} the best for the worst "
            "group of every second image"
        ]
