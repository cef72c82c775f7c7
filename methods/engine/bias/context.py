"""Context bias without maps, from scores and labels alone: classes recognised by the classes beside them, and groups
left behind.

Pairs of a class and a co-occurring class: Singh et al., CVPR 2020, in the details of the re-implementation of Kim et
al. (2021).
Worst group: Sagawa et al., ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.bias.attention_bias import step_average_precision
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.groups import groups_of, right_answers
from attnbias.methods.engine.evaluation.probe import Content, Measured, Probe, open_dataset, score_split
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.types import LABELLED, Metrics

FEW = 10
"""Images that a group must have to be the worst."""

MOST_PAIRS, MIN_COOCCURRENCE = 20, 0.1
"""How many classes are taken, and the share of a class's images that must show its context."""


class Pair(NamedTuple):
    """A class and the context that its scores lean on most."""

    target: int
    context: int
    bias: float
    """Mean score of the class where the context is there, over its mean score where it is not."""
    cooccurring: int
    """Images that show both."""
    exclusive: int
    """Images that show the class without the context."""


def biased_pairs(
    labels: np.ndarray, scores: np.ndarray, *, count: int = MOST_PAIRS, min_cooccurrence: float = MIN_COOCCURRENCE
) -> list[Pair]:
    """Find the `count` most biased classes in held-out training data: labels (N, C) in {0, 1}, scores (N, C).

    A context counts where more than `min_cooccurrence` of the class's images show it, and where the class occurs both
    with and without it. Each class is paired with its strongest context; equal biases keep the order of the classes.
    """
    present = labels.astype(np.float64)
    together = present.T @ present  # (C, C): images of b (row) that show z (column)
    alone = np.diag(together)[:, None] - together
    score_sums = present * scores
    with_context = score_sums.T @ present
    without = score_sums.sum(0)[:, None] - with_context
    usable = (together > min_cooccurrence * np.diag(together)[:, None]) & (alone > 0) & (together > 0)
    np.fill_diagonal(usable, False)
    ratio = (with_context / np.maximum(together, 1)) / np.maximum(without / np.maximum(alone, 1), 1e-12)
    ratio = np.where(usable, ratio, -np.inf)
    contexts = ratio.argmax(1)
    strongest = ratio[np.arange(len(ratio)), contexts]
    chosen = [int(b) for b in np.argsort(-strongest, kind="stable")[:count] if np.isfinite(strongest[b])]
    return [
        Pair(b, z, float(strongest[b]), int(together[b, z]), int(alone[b, z]))
        for b, z in ((b, int(contexts[b])) for b in chosen)
    ]


def pair_precision(labels: np.ndarray, scores: np.ndarray, pair: Pair) -> tuple[float, float]:
    """Average precision of a pair's class with its context, and without it, each against all images without the
    class. NaN where there is no such image."""
    own, context = labels[:, pair.target] > 0, labels[:, pair.context] > 0
    values = []
    for positive in (own & context, own & ~context):
        kept = positive | ~own
        values.append(step_average_precision(scores[kept, pair.target], positive[kept]))
    return values[0], values[1]


def pair_measures(labels: np.ndarray, scores: np.ndarray, pairs: Sequence[Pair], classes: Sequence[str]) -> Metrics:
    """Measure pairs on a split, in per cent: the means over pairs, their gap, and each pair.

    A pair without a positive of one kind is left out of the means and counted in `skipped`. A large gap says that the
    classes are recognised by the classes beside them.
    """
    found = [(pair, *pair_precision(labels, scores, pair)) for pair in pairs]
    kept = 100 * np.array(
        [(together, alone) for _, together, alone in found if together == together and alone == alone]
    )
    means: list[float] | list[None] = kept.mean(0).tolist() if len(kept) else [None, None]
    return {
        "cooccur_AP": means[0],
        "exclusive_AP": means[1],
        "context_gap": float((kept[:, 0] - kept[:, 1]).mean()) if len(kept) else None,
        "skipped": len(found) - len(kept),
        "pairs": [
            {
                "class": classes[pair.target],
                "context": classes[pair.context],
                "bias": pair.bias,
                "cooccur_AP": _percent(together),
                "exclusive_AP": _percent(alone),
            }
            for pair, together, alone in found
        ],
    }


def group_measures(
    targets: np.ndarray, scores: np.ndarray, attributes: Sequence[str], classes: Sequence[str], *, least: int = FEW
) -> Metrics:
    """Accuracy, in per cent, of each group (`groups_of`), of the worst one that has at least `least` images (of smaller
    ones one is low by chance), and its distance to the accuracy of all images; no worst one where no group has so many.

    Right is the highest score in single-label work, else a score on the right side of one half; of several classes the
    worst group is held against all images that its class is asked of. `attributes` has one word an image.
    """
    groups = groups_of(targets, attributes, classes)
    right = right_answers(targets, scores)
    found: dict[str, dict[str, float | int]] = {}
    worst: tuple[float, str, NDArray[np.bool_]] | None = None
    for own, flags in zip(groups.reshape(len(groups), -1).T, right.reshape(len(right), -1).T, strict=True):
        asked = flags[own != ""]
        names, inverse, counts = np.unique(own[own != ""], return_inverse=True, return_counts=True)
        accuracies = 100 * np.bincount(inverse, asked) / counts
        for name, count, accuracy in zip(names.tolist(), counts.tolist(), accuracies.tolist(), strict=True):
            found[name] = {"samples": count, "accuracy": accuracy}
            if count >= least and (worst is None or accuracy < worst[0]):
                worst = accuracy, name, asked
    known = right[groups != ""]
    listed: Metrics = {"least": least, "groups": found, "accuracy": 100 * float(known.mean()) if known.size else None}
    if worst is None:
        return listed | dict.fromkeys(("worst_group", "worst_group_accuracy", "group_gap"))
    whole = 100 * float(worst[2].mean())
    return listed | {
        "worst_group": worst[1],
        "worst_group_accuracy": worst[0],
        "group_gap": whole - worst[0],
        "whole": {"samples": len(worst[2]), "accuracy": whole},
    }


def _percent(value: float) -> float | None:
    return 100 * value if value == value else None


class GroupsProbe(Probe):
    """Worst-group accuracy, wherever every image of a split has an attribute (`group`) beside its labels."""

    name = "groups"
    decimals = 2

    def wanted(self, request: ValRequest) -> bool:
        return True

    def measure(self, measured: Measured) -> Content | None:
        records, found = measured.dataset.records, measured.evaluation
        index = measured.dataset.index
        if index.task not in LABELLED or not all(record.group for record in records):
            return None
        attributes = [records[sample].group or "" for sample in found.ids]
        return group_measures(found.targets, found.scores["scores"], attributes, index.classes)

    def heading(self, content: Content) -> str:
        return f"groups ({len(content['groups'])}, a label under an attribute)"

    def figures(self, content: Content) -> Mapping[str, float | str | None]:
        return {name: content[name] for name in ("worst_group", "worst_group_accuracy", "group_gap")}

    def remarks(self, content: Content) -> Sequence[str]:
        few = sum(group["samples"] < content["least"] for group in content["groups"].values())
        return [f"groups: {few} have fewer than {content['least']} images and are not the worst"] if few else []


class ContextProbe(Probe):
    """`val --context SPLIT`: the pairs that the first checkpoint shows there, measured for every checkpoint."""

    name = "context"
    decimals = 2

    def __init__(self) -> None:
        self.pairs: list[Pair] | None = None
        self.found_by = ""

    def wanted(self, request: ValRequest) -> bool:
        return request.context is not None

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        if dataset.index.task != "multilabel":
            raise UsageError("--context needs a multi-label set: pairs are classes that occur together")
        assert request.context is not None
        open_dataset(request, loaded, request.context)

    def measure(self, measured: Measured) -> Content:
        if self.pairs is None:
            assert measured.request.context is not None
            held_out = score_split(measured.request, measured.loaded, measured.request.context, measured.accelerator)
            self.pairs = biased_pairs(_present(held_out.targets), held_out.scores["scores"])
            self.found_by = measured.loaded.source
        found = measured.evaluation
        classes = measured.dataset.index.classes
        return {
            "found_in": measured.request.context,
            "found_by": self.found_by,
            "most_pairs": MOST_PAIRS,
            "min_cooccurrence": MIN_COOCCURRENCE,
            **pair_measures(_present(found.targets), found.scores["scores"], self.pairs, classes),
        }

    def heading(self, content: Content) -> str:
        return f"context ({len(content['pairs'])} pairs)"

    def figures(self, content: Content) -> Mapping[str, float | None]:
        return {name: content[name] for name in ("cooccur_AP", "exclusive_AP", "context_gap")}

    def remarks(self, content: Content) -> Sequence[str]:
        skipped, share = content["skipped"], content["min_cooccurrence"]
        how = (
            f"context: at most {content['most_pairs']} classes of {content['found_in']}, those whose scores lean most "
            f"on one that more than {share:.0%} of their images show, by {content['found_by']}"
        )
        return [how, *([f"{skipped} pairs left out, which occur only together or only apart"] if skipped else [])]


def _present(targets: np.ndarray) -> NDArray[np.int64]:
    return (targets == 1).astype(np.int64)
