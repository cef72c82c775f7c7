"""How a vision transformer takes in an image: its patches, or a few convolutions, which small networks learn faster.

The convolutions are those of Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021, on timm's
parts: 3 x 3 of stride 2 with BatchNorm and ReLU, as many as halve the image to the patches' grid, their channels
doubling up to the width; then 1 x 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from timm.layers.hybrid_embed import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor

Stem = Literal["patches", "convolutions"]


def stem_options(stem: Stem, patch: int, width: int) -> dict[str, Any]:
    """Options of timm's VisionTransformer for a grid of one token per `patch` x `patch` pixels; a power of 2."""
    if stem == "patches":
        return {"patch_size": patch}
    halvings = patch.bit_length() - 1
    channels = [width // 2**k for k in reversed(range(halvings))]

    def embed(**options: Any) -> HybridEmbed:
        convolutions = ConvStem(
            depth=halvings + 1,
            channels=(*channels, width),
            kernel_size=(*[3] * halvings, 1),
            stride=(*[2] * halvings, 1),
        )
        return HybridEmbed(convolutions, proj=False, **options)

    return {"patch_size": 1, "embed_layer": embed}


def stem_of(state: Mapping[str, Tensor], prefix: str = "") -> tuple[int, Stem] | None:
    """Patch size and stem of a ViT's weights, whose names begin with `prefix`; None where they are of no ViT."""
    convolution = re.compile(rf"{re.escape(prefix)}patch_embed\.backbone\.\d+\.conv\.weight")
    if count := sum(convolution.fullmatch(name) is not None for name in state):
        return 2 ** (count - 1), "convolutions"
    weight = state.get(f"{prefix}patch_embed.proj.weight")
    return None if weight is None else (weight.shape[-1], "patches")
