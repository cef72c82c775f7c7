"""Where CSRA looks: the score map and the attention of each class."""

from __future__ import annotations

from torch import Tensor

from attnbias.methods.csra.model import CSRA
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import of_classes


def class_maps(model: CSRA, images: Tensor, classes: Tensor | None, kind: str, head: int | None) -> Tensor:
    """Maps (B, K, h, w) of the asked classes, (K,) or (B, K), None = all: of one head, or the mean over the heads.

    `kind` is "score" (the class's score at each location, negative ones as 0) or "attention" (softmax over locations).

    Raises:
        UsageError: the model has no such head.
    """
    classifier = model.classifier
    heads = len(classifier.temperatures)
    if head is not None and not 0 <= head < heads:
        raise UsageError(f"--head {head}: this model has heads 0 to {heads - 1}")
    features = model.backbone(images)
    scores = classifier.scores(features)  # (B, M, C, N)
    maps = scores if kind == "score" else classifier.attention(scores)
    maps = maps.mean(1) if head is None else maps[:, head]  # (B, C, N)
    maps = maps.unflatten(2, features.shape[2:])  # (B, C, h, w)
    return (maps if classes is None else of_classes(maps, classes)).clamp_min(0)
