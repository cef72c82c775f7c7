"""Where IDA looks: the first attention over positions, for each class and sample; the second one over the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import cam, of_classes
from attnbias.methods.ida.model import IDA, LinearClassifier


@torch.no_grad()
def spatial_attention(model: IDA, images: Tensor, classes: Tensor | None, sample: int | None) -> Tensor:
    """Class-wise attention over positions, (B, K, h, w), of one sample or averaged over all; each map sums to 1.

    The linear baseline has no attention: its class activation maps, negative values at 0, stand for it.
    """
    features = model.backbone(images)
    if isinstance(model.head, LinearClassifier):
        if sample is not None:
            raise UsageError("the linear baseline has no samples to look at; leave --head out")
        maps = cam(features, model.head.fc.weight).relu()  # (B, C, h, w)
    else:
        count = len(model.head.weight)
        if sample is not None and not 0 <= sample < count:
            raise UsageError(f"--head {sample} does not exist: the model has the samples 0 to {count - 1}")
        spatial = model.head.spatial_attention(features)  # (B, N, C, h, w)
        maps = spatial.mean(1) if sample is None else spatial[:, sample]
    return maps if classes is None else of_classes(maps, classes)


@torch.no_grad()
def token_attention(model: IDA, images: Tensor, classes: Tensor | None = None, layer: int | None = None) -> Tensor:
    """Attention between the N tokens of one layer (default the last), (B, K, N, N); it sums to 1 over the last axis.

    Raises:
        UsageError: the model is the linear baseline, or has no such layer.
    """
    if isinstance(model.head, LinearClassifier):
        raise UsageError("the linear baseline has no tokens; use a model with --classifier interventional")
    count = len(model.head.layers)
    if layer is not None and not 0 <= layer < count:
        raise UsageError(f"--head {layer} does not exist: the second attention has the layers 0 to {count - 1}")
    weights = model.head.trace(model.backbone(images)).token_attention[:, :, -1 if layer is None else layer]
    return weights if classes is None else of_classes(weights, classes)
