"""Where AbSViT looks: the program's feature-norm maps, steered by the prompt or by a class, and attention rollout.

Shapes: B images, K classes, N = h * w patches, T tokens (prefix tokens, as the class token, first), C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.data.transforms.basic import normalization
from attnbias.methods.absvit.model import AbSViT, residual_stream
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import attention_weights
from attnbias.methods.engine.vision_transformers import heads_of

CLASS_GAIN = 40.0
"""Strength of the feedback when a class steers, in the program's demo."""
SEQUENCES = 64
"""Steered passes that run at a time, one for each image and class."""


@torch.no_grad()
def attention_maps(
    model: VisionTransformer, images: Tensor, classes: Tensor, kind: str, head: int | None = None
) -> Tensor:
    """Compute maps (B, K, h, w) of one kind of the method's `maps`.

    `classes` is (K,) or (B, K) int64. Only steered and class-mask differ between classes. `head` is for rollout.

    Raises:
        UsageError: a kind that needs the second pass of a plain ViT, or a head that does not exist.
    """
    check_head(model, kind, head)
    classes = classes.to(images.device).expand(images.shape[0], -1)  # (B, K)
    patches = model.patch_embed(images)
    match kind:
        case "bottom-up":
            values = top_of_range(feature_norms(model, patches))[:, None]
        case "prompt":
            values = top_of_range(feature_norms(model, patches, evaluated_feedback(model, patches)))[:, None]
        case "rollout":
            values = rollout(model, patches, evaluated_feedback(model, patches), head)[:, None]
        case _ if not isinstance(model, AbSViT):
            raise UsageError(f"--map {kind} needs the second pass; a plain ViT has prompt, bottom-up, rollout, gradcam")
        case "steered" | "class-mask":
            values = steered_values(model, patches, classes, CLASS_GAIN, kind)
        case _:
            values = top_of_range(model.prior_mask(model.encode(patches))[:, None, model.num_prefix_tokens :, 0])
    return on_grid(model, values.float().expand(-1, classes.shape[1], -1), images)  # (B, K, N) -> (B, K, h, w)


def on_grid(model: VisionTransformer, values: Tensor, images: Tensor) -> Tensor:
    """Values of each patch (..., N) as maps (..., h, w), which are the images' size in patches."""
    return values.unflatten(-1, model.patch_embed.dynamic_feat_size(images.shape[-2:]))


def check_head(model: VisionTransformer, kind: str, head: int | None) -> None:
    """Refuse a head that does not exist, or of a map that has none.

    Raises:
        UsageError: it is one.
    """
    heads = heads_of(model)
    if head is not None and (kind != "rollout" or not 0 <= head < heads):
        raise UsageError(f"--head {head}: only --map rollout has heads, 0 to {heads - 1}")


# The program's maps ---------------------------------------------------------------------------------------------------


def feature_norms(model: VisionTransformer, patches: Tensor, feedback: Iterable[Tensor] | None = None) -> Tensor:
    """L2 norm over channels of each patch token (B, N), as the last quarter of the blocks (3 of 12) receives it.

    The program calls this attention; it is not a softmax weight. "rollout" is made of those.
    """
    return late_norms(model, residual_stream(model, patches, feedback))


def late_norms(model: VisionTransformer, stream: Iterable[Tensor]) -> Tensor:
    """The norms of `feature_norms`, of what the blocks receive and give, (B, T, C) each."""
    position = len(model.blocks) - len(model.blocks) // 4
    return next(islice(stream, position, None))[:, model.num_prefix_tokens :].float().norm(dim=-1)


def evaluated_feedback(model: VisionTransformer, patches: Tensor) -> Iterable[Tensor] | None:
    """The signals of the pass that classifies; a plain ViT has none."""
    return model.feedback(model.weighted(model.encode(patches))) if isinstance(model, AbSViT) else None


def steered_values(model: AbSViT, patches: Tensor, priors: Tensor, gain: float, kind: str) -> Tensor:
    """Values (B, K, N) of the maps that priors move: classes (B, K) or vectors (B, K, C)."""
    if kind == "class-mask":
        return class_masks(model, model.encode(patches), priors, gain)
    return top_of_range(steered_norms(model, patches, priors, gain))


def steered_norms(model: AbSViT, patches: Tensor, priors: Tensor, gain: float = CLASS_GAIN) -> Tensor:
    """Feature norms (B, K, N) of a second pass for each prior: classes (B, K), which steer by the head's row of the
    class, or vectors (B, K, C)."""
    tokens = model.encode(patches)
    shape = priors.shape[:2]
    images = torch.arange(shape[0], device=priors.device).repeat_interleave(shape[1])
    priors, norms = priors.flatten(0, 1), []
    # A graph whose batch is free cannot be cut into parts.
    size = None if torch.compiler.is_exporting() else SEQUENCES
    parts = [(images, priors)] if size is None else zip(images.split(size), priors.split(size), strict=True)
    for part, prior in parts:
        feedback = model.feedback(model.weighted(tokens[part], prior, gain))
        norms.append(feature_norms(model, patches[part], feedback))
    return torch.cat(norms).unflatten(0, shape)


@torch.no_grad()
def steered_maps(
    model: VisionTransformer, images: Tensor, priors: Tensor, gain: float = CLASS_GAIN, kind: str | None = None
) -> Tensor:
    """Maps (B, K, h, w) of second passes that look for `priors`: classes (K,) or (B, K) int64, or vectors (K, C) or
    (B, K, C). `kind` is steered (the default) or class-mask.

    Raises:
        UsageError: the model is a plain ViT, or the vectors are not of its width.
    """
    model = with_second_pass(model)
    if priors.is_floating_point() and priors.shape[-1] != model.embed_dim:
        raise UsageError(f"a prior of {priors.shape[-1]} numbers; the tokens of this model have {model.embed_dim}")
    patches = model.patch_embed(images)
    priors = priors.to(images.device)
    of_one_image = 2 if priors.is_floating_point() else 1
    priors = priors.expand(images.shape[0], *priors.shape[-of_one_image:])
    return on_grid(model, steered_values(model, patches, priors, gain, kind or "steered").float(), images)


def with_second_pass(model: VisionTransformer) -> AbSViT:
    """The model, which can be steered.

    Raises:
        UsageError: it is a plain ViT.
    """
    if not isinstance(model, AbSViT):
        raise UsageError("a prior steers the second pass, and this model is a plain ViT")
    return model


def patch_tokens(model: AbSViT, images: Tensor) -> Tensor:
    """What priors are compared with: the tokens (B, C, h, w) that the first pass makes of each patch."""
    tokens = model.encode(model.patch_embed(images))[:, model.num_prefix_tokens :]  # (B, N, C)
    return on_grid(model, tokens.transpose(1, 2), images)


def class_masks(model: AbSViT, tokens: Tensor, priors: Tensor, gain: float = CLASS_GAIN) -> Tensor:
    """What each prior, a class (B, K) or a vector (B, K, C), lets through of the patch tokens among `tokens` (B, T, C):
    (B, K, N) in [0, gain]."""
    vectors = priors if priors.is_floating_point() else model.class_vectors()[priors]
    rows = F.normalize(vectors, dim=-1)  # (B, K, C)
    cosines = rows @ F.normalize(tokens[:, model.num_prefix_tokens :], dim=-1).transpose(1, 2)
    return gain * cosines.clamp(0, 1)


def top_of_range(values: Tensor) -> Tensor:
    """Keep what stands out of the top 30 % of each map's range, along the last dimension; the rest becomes 0."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - (0.7 * high + 0.3 * low)).relu()


def demo_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """Prepare an image (H, W, 3) as the program's demo does: (3, size, size), normalised and then squeezed.

    For the paper's figures; `--resize squeeze` is the same by command.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization("imagenet"))
    pixels = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std
    return squeezed(pixels, size)


def squeezed(pixels: Tensor, size: int) -> Tensor:
    """A normalised image (3, H, W) as (3, size, size): bicubic, without antialiasing."""
    return F.interpolate(pixels[None], (size, size), mode="bicubic", align_corners=False)[0]


# Attention proper -----------------------------------------------------------------------------------------------------


def rollout(
    model: VisionTransformer, patches: Tensor, feedback: Iterable[Tensor] | None = None, head: int | None = None
) -> Tensor:
    """Attention rollout (Abnar & Zuidema, ACL 2020): how much of each patch reaches the pooled token, (B, N).

    The pooled token is the class token, or the mean of the patch tokens.
    """
    joint = joint_attention(model, residual_stream(model, patches, feedback), head)
    prefix = model.num_prefix_tokens
    pooled = joint[:, 0] if model.global_pool == "token" else joint[:, prefix:].mean(1)
    return pooled[:, prefix:]


def joint_attention(
    model: VisionTransformer, stream: Iterable[Tensor], head: int | None = None, replaced: slice | None = None
) -> Tensor:
    """How much of token j before the first block is in token i behind the last one, (B, T, T).

    Weights are averaged over heads (or taken of one), and half of each token stays where it is (the residual path).
    `stream` gives what each block receives, (B, T, C). Where every block gets new tokens in place of some (`replaced`),
    what these took in ends there.
    """
    joint: Tensor | None = None
    for block, x in zip(model.blocks, stream, strict=False):
        weights = attention_weights(block, x)
        weights = weights.mean(1) if head is None else weights[:, head]  # (B, T, T)
        step = (weights + torch.eye(weights.shape[-1], device=weights.device)) / 2
        if joint is not None:
            if replaced is not None:
                joint[:, replaced] = 0
            step = step @ joint
        joint = step
    assert joint is not None
    return joint
