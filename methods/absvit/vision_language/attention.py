"""Where the model looks when it reads a question: the program's two maps.

Shapes: B images, N patches, T tokens (the class token first), C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.methods.absvit.attention import residual_stream
from attnbias.methods.absvit.vision_language.model import VisionLanguageModel
from attnbias.methods.absvit.vision_language.vision import TextSteeredViT
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import attention_weights


@torch.no_grad()
def text_maps(
    model: VisionLanguageModel, images: Tensor, ids: Tensor, mask: Tensor, kind: str, head: int | None = None
) -> Tensor:
    """Compute maps (B, h, w) float32, non-negative, of images (B, 3, H, W) with a text each, (B, L).

    `kind` is attention (of the class token, in the last block of the pass that is fused), shown (what the program's
    notebook draws of it) or mask (what the text lets through to the second pass). `head` picks one of attention's.

    Raises:
        UsageError: no such head, or the mask of a plain ViT, which has none.
    """
    vision = model.vit_model
    patches = vision.patch_embed(images)
    feedback = None
    if isinstance(vision, TextSteeredViT):
        prior = vision.prompt_decoder(model.read(ids, mask).prompt)
        first = vision.encode(patches)
        feedback = vision.signals(first, prior)
    if kind == "mask":
        if not isinstance(vision, TextSteeredViT):
            raise UsageError("--map mask needs the second pass; a plain ViT has attention and shown")
        values = vision.prior_mask(first, prior)[:, vision.num_prefix_tokens :, 0]
    else:
        values = class_attention(vision, patches, feedback, head)
        values = shown(values) if kind == "shown" else values
    return values.float().unflatten(-1, vision.patch_embed.dynamic_feat_size(images.shape[-2:]))


def class_attention(
    vision: VisionTransformer, patches: Tensor, feedback: Iterable[Tensor] | None = None, head: int | None = None
) -> Tensor:
    """Weights (B, N) with which the class token attends to the patches in the last block, summed over heads."""
    last = len(vision.blocks) - 1
    x = next(islice(residual_stream(vision, patches, feedback), last, None))  # what the last block receives
    weights = attention_weights(vision.blocks[last], x)[:, :, 0, vision.num_prefix_tokens :]
    if head is not None and not 0 <= head < weights.shape[1]:
        raise UsageError(f"--head {head}: the last block has heads 0 to {weights.shape[1] - 1}")
    return weights.sum(1) if head is None else weights[:, head]


def shown(values: Tensor) -> Tensor:
    """What stands above the middle of each map's range, along the last dimension, as the notebook draws it."""
    middle = (values.amax(-1, keepdim=True) + values.amin(-1, keepdim=True)) / 2
    return (values - middle).clamp(0, 1)
