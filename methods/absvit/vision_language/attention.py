"""Where the model looks when it reads a question: the program's two maps.

Shapes: B images, L text positions, E text channels, T image tokens (the class token first), N = h * w patches, C image
channels, K priors.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.methods.absvit.attention import on_grid
from attnbias.methods.absvit.attention import patch_tokens as vision_tokens
from attnbias.methods.absvit.model import residual_stream
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
    if isinstance(model.vit_model, TextSteeredViT):
        return _steered(model.vit_model, images, text_priors(model, ids, mask), kind, head)
    if kind == "mask":
        raise UsageError("--map mask needs the second pass; a plain ViT has attention and shown")
    patches = model.vit_model.patch_embed(images)
    return on_grid(model.vit_model, _drawn(class_attention(model.vit_model, patches, None, head), kind), images)


@torch.no_grad()
def steered_maps(
    model: VisionLanguageModel, images: Tensor, priors: Tensor, gain: float, kind: str | None = None
) -> Tensor:
    """Maps (B, K, h, w) as `text_maps` gives them, of second passes that look for vectors (K, C) or (B, K, C).

    Raises:
        UsageError: the model is over a plain ViT, or the vectors are not of its width.
    """
    vision = steered_vision(model)
    if not priors.is_floating_point() or priors.shape[-1] != vision.embed_dim:
        raise UsageError(f"expected priors of {vision.embed_dim} numbers, as the tokens of this model have")
    priors = priors.to(images.device).expand(images.shape[0], *priors.shape[-2:])
    maps = [_steered(vision, images, prior, kind or "attention", None, gain) for prior in priors.unbind(1)]
    return torch.stack(maps, dim=1)


def text_priors(model: VisionLanguageModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The priors (B, C) that texts (B, L) are.

    Raises:
        UsageError: the model is over a plain ViT.
    """
    return steered_vision(model).prompt_decoder(model.read(ids, mask).prompt)


def steered_vision(model: VisionLanguageModel) -> TextSteeredViT:
    """The image's side, which can be steered.

    Raises:
        UsageError: it is a plain ViT.
    """
    if not isinstance(model.vit_model, TextSteeredViT):
        raise UsageError("a prior steers the second pass, and this model is over a plain ViT")
    return model.vit_model


def patch_tokens(model: VisionLanguageModel, images: Tensor) -> Tensor:
    """What priors are compared with: the tokens (B, C, h, w) that the first pass makes of each patch."""
    return vision_tokens(steered_vision(model), images)


def _steered(
    vision: TextSteeredViT, images: Tensor, prior: Tensor, kind: str, head: int | None, gain: float | None = None
) -> Tensor:
    """Maps (B, h, w) of second passes that look for a prior each, (B, C)."""
    patches = vision.patch_embed(images)
    first = vision.encode(patches)
    if kind == "mask":
        values = vision.prior_mask(first, prior)[:, vision.num_prefix_tokens :, 0]
    else:
        values = _drawn(class_attention(vision, patches, vision.signals(first, prior, gain), head), kind)
    return on_grid(vision, values.float(), images)


def _drawn(values: Tensor, kind: str) -> Tensor:
    return shown(values) if kind == "shown" else values


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
