"""`val --find-groups N`: groups that nobody named, as clusters of each class's images by what the last layer reads.

As in GEORGE (Sohoni et al., No Subclass Left Behind, NeurIPS 2020), but by k-means on the features themselves, and for
measuring alone. What a cluster stands for is for a person to see, so that the images nearest to its middle are named.
It may be an attribute that the class leans on, or simply the images that the model gets wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.bias.context import GroupsProbe, group_measures
from attnbias.methods.engine.bias.last_layer import features_of
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.groups import groups_of
from attnbias.methods.engine.evaluation.probe import Content, Measured
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest

Floats = NDArray[np.float64]

ROUNDS = 100
"""Of k-means."""

NAMED = 5
"""Images of each cluster that are named, those nearest to its middle first."""


def clusters(features: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The cluster (N,) of each row (N, D), numbered from 1 by size, and its distance (N,) to the middle of it.

    Nothing is drawn: k-means begins with the means of equal parts along the first principal component. Fewer rows than
    twice `count` are one cluster.
    """
    middle = features.mean(0)
    if len(features) < 2 * count:
        return np.ones(len(features), np.int64), np.linalg.norm(features - middle, axis=1)
    _, _, axes = np.linalg.svd(features - middle, full_matrices=False)
    parts = np.array_split(np.argsort((features - middle) @ axes[0], kind="stable"), count)
    begun = np.stack([features[part].mean(0) for part in parts])
    middles, own = kmeans2(features, begun, iter=ROUNDS, minit="matrix")
    sizes = np.bincount(own, minlength=count)
    number = np.empty(count, np.int64)
    number[np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return number[own], np.linalg.norm(features - middles[own], axis=1)


class FoundGroupsProbe(GroupsProbe):
    """`val --find-groups N`."""

    name = "found_groups"

    def wanted(self, request: ValRequest) -> bool:
        return request.find_groups is not None

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        if loaded.task != "singlelabel":
            raise UsageError(f"--find-groups looks within classes: {loaded.source} does not give one label an image")

    def measure(self, measured: Measured) -> Content:
        request, dataset, found = measured.request, measured.dataset, measured.evaluation
        assert request.find_groups is not None
        ids = found.ids.tolist()
        _, read = features_of(measured.loaded, dataset, ids, measured.accelerator, request.eval_batch_size)
        features = read.double().numpy()
        features = (features - features.mean(0)) / features.std(0).clip(1e-6)
        own, far = np.ones(len(ids), np.int64), np.zeros(len(ids))
        for label in np.unique(found.targets):
            rows = np.flatnonzero(found.targets == label)
            own[rows], far[rows] = clusters(features[rows], request.find_groups)
        attributes = [f"cluster {number}" for number in own]
        classes = dataset.index.classes
        groups = groups_of(found.targets, attributes, classes)
        nearest = {
            name: [dataset.records[ids[row]].path for row in _first(np.flatnonzero(groups == name), far)]
            for name in np.unique(groups).tolist()
        }
        return {
            "clusters": request.find_groups,
            "features": features.shape[1],
            "nearest": nearest,
            **group_measures(found.targets, found.scores["scores"], attributes, classes),
        }

    def heading(self, content: Content) -> str:
        return f"found groups ({len(content['groups'])}, a label in a cluster)"

    def remarks(self, content: Content) -> Sequence[str]:
        lowest = content["worst_group"]
        shown = f"; nearest to the middle of '{lowest}': {', '.join(content['nearest'][lowest])}" if lowest else ""
        return [
            f"found groups: {content['clusters']} clusters in each class of the {content['features']} features that "
            "the last layer reads, standardised (k-means); nobody named them, and one may simply be the images that "
            f"the model gets wrong{shown}",
            *super().remarks(content),
        ]


def _first(rows: NDArray[np.int64], far: Floats) -> list[int]:
    nearest: list[int] = rows[np.argsort(far[rows], kind="stable")][:NAMED].tolist()
    return nearest
