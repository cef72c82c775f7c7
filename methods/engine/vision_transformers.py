"""timm's plain vision transformers by name, to be run block by block.

Shapes: B images, S tokens (prefix tokens first: class token and registers, as many as the network says), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import timm
from timm.layers.attention import Attention
from torch import Tensor

from attnbias.methods.engine.backbones import ALIASES, sizes_that_suit, timm_config
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.transformer_maps import ViT, shows_attention

Step = Callable[[Tensor], Tensor]
"""A block as a function of tokens alone, (B, S, D) -> (B, S, D)."""


def outline_of(name: str) -> ViT:
    """One of timm's vision transformers by timm's name, as names and shapes.

    Raises:
        UsageError: there is no such network, it is no plain vision transformer, or nobody can show where it looks.
    """
    timm_name = ALIASES.get(name, name)
    if not timm.is_model(timm_name):
        known = [*ALIASES, *timm.list_models(["*vit*", "eva*", "deit*"])]
        raise UsageError(
            f"unknown backbone '{name}'{did_you_mean(name, known)}; "
            "expected a vision transformer of timm, such as vit_small_patch14_reg4_dinov2"
        )
    timm_config(timm_name)  # a tag that there is not
    with names_and_shapes():
        network = timm.create_model(timm_name)
    if not isinstance(network, ViT):
        raise UsageError(f"backbone {name} is {type(network).__name__}, and this method runs plain vision transformers")
    if not shows_attention(network):
        raise UsageError(
            f"backbone {name} has blocks of its own kind ({type(network.blocks[0]).__name__}), without one "
            "self-attention that can be shown"
        )
    return network


def build_vit(name: str, image_size: int, num_classes: int, **options: Any) -> ViT:
    """Build a network of `outline_of` with fresh weights and a head of `num_classes`.

    Raises:
        UsageError: as `outline_of`, or the size does not suit the network.
    """
    patch = cast(int, outline_of(name).patch_embed.feat_ratio())
    if image_size % patch:
        raise UsageError(f"image_size is {image_size}, not a multiple of the patch size of {name}, {patch}")
    options |= {"img_size": image_size, "num_classes": num_classes}
    with sizes_that_suit(name, image_size):
        return cast(ViT, timm.create_model(ALIASES.get(name, name), **options))


def heads_of(vit: ViT) -> int:
    """How many heads each self-attention has."""
    return cast(Attention, vit.blocks[0].attn).num_heads


def embedded(vit: ViT, patches: Tensor) -> Tensor:
    """Tokens before the first block, (B, S, D), of what `vit.patch_embed` made of images."""
    tokens = vit._pos_embed(patches)
    tokens = tokens[0] if isinstance(tokens, tuple) else tokens  # Eva gives rotary embeddings too, see `steps`
    return cast(Tensor, vit.norm_pre(tokens))


def steps(vit: ViT) -> list[Step]:
    """The blocks, each with its rotary position embedding where the network has one."""
    rope = getattr(vit, "rope", None)
    if rope is None:
        return list(vit.blocks)
    position = rope.get_embed(vit.patch_embed.grid_size)
    return [
        partial(block, rope=position[place] if vit.rope_mixed else position) for place, block in enumerate(vit.blocks)
    ]
