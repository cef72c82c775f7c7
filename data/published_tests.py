"""What a published test set says about its own evaluation: images that are cut already, classes that alone compete.

The set says so wherever it is read: by `--dataset`, by a flag such as `--imagenet-c`, when it is looked at.
"""

from __future__ import annotations

import numpy as np
from torchvision.transforms import v2

from attnbias.data.index import Index
from attnbias.data.info import DatasetInfo
from attnbias.data.registry import DATASETS
from attnbias.data.sets import imagenet
from attnbias.data.transforms.corruptions import PUBLISHED_SIZE, precropped_transform


def own_transform(index: Index, image_size: int, normalize: str) -> v2.Compose | None:
    """The transform that the set's images want in place of a method's, or None."""
    info = _info(index)
    return precropped_transform(image_size, normalize) if info is not None and info.precropped else None


def competing_classes(index: Index) -> tuple[int, ...] | None:
    """The class numbers, ascending, that alone compete on the set; None = all."""
    info = _info(index)
    return imagenet.subset_indices(index.dataset) if info is not None and info.subset else None


def competing_scores(scores: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Probabilities (N, C) with 0 for every class that does not compete, so that it cannot win."""
    kept = np.zeros_like(scores)
    kept[:, classes] = scores[:, classes]
    return kept


def own_rules(index: Index) -> list[str]:
    """The set's rules in words, to be said beside its figures."""
    info, rules = _info(index), []
    if info is not None and info.precropped:
        rules.append(f"images are taken as published ({PUBLISHED_SIZE} x {PUBLISHED_SIZE}, not resized and cropped)")
    if (classes := competing_classes(index)) is not None:
        rules.append(f"only its {len(classes)} classes of {len(index.classes)} compete")
    return rules


def _info(index: Index) -> DatasetInfo | None:
    """What is known of a published test over ImageNet's 1000 classes; another set may bear the same name."""
    info = DATASETS.get(index.dataset)
    if info is None or not (info.precropped or info.subset):
        return None  # without a look at ImageNet's names, which take a quarter of a second to read
    return info if index.classes == imagenet.class_names() else None
