"""What a plain classifier shows without a class: how long the features are at each location."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbias.methods.engine.maps import on_grid
from attnbias.methods.plain.model import PlainClassifier


@torch.no_grad()
def feature_maps(model: PlainClassifier, images: Tensor) -> Tensor:
    """Length of the features at each location of the explained layer: (B, h, w), float32."""
    outputs: list[Tensor] = []
    hook = model.layer.module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        model(images)
    finally:
        hook.remove()
    features = outputs[-1]
    size = tuple(images.shape[-2:])
    return on_grid(features, model.layer, size, tokens=features.ndim == 3).float().norm(dim=1)
