"""timm's networks of some kinds with two blocks: a graph, or a compiled step, is of each block alike."""

from __future__ import annotations

from typing import Any

from timm.models import eva, register_model, vision_transformer
from torch import nn

DEPTH = 2


@register_model
def shallow_registers(pretrained: bool = False, **options: Any) -> nn.Module:
    """No class token, a register, LayerScale, and a head that pools by attention."""
    network: nn.Module = vision_transformer.test_vit3(pretrained, **{"depth": DEPTH, **options})
    return network


@register_model
def shallow_dinov3(pretrained: bool = False, **options: Any) -> nn.Module:
    """Rotary positions and four registers."""
    network: nn.Module = eva.vit_tiny_patch16_dinov3_qkvb(pretrained, **{"depth": DEPTH, **options})
    return network
