"""Maps of a plain vision transformer from the weights of its self-attention: attention rollout and LeGrad.

Shapes: B images, C classes, K asked ones, L blocks, S tokens (prefix tokens first), P patches, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.engine.abilities import Retells
from attnbias.methods.engine.errors import UsageError

SelfAttention = Attention | AttentionRope | EvaAttention
"""Those of timm whose weights can be read."""

ViT = VisionTransformer | Eva
"""Both are patches, prefix tokens, blocks one after another, a norm and a head; Eva's blocks may have rotary position
embeddings (EVA-02, DINOv3)."""


def shows_attention(vit: ViT) -> bool:
    """Whether each block has one self-attention whose weights can be read."""
    return all(isinstance(getattr(block, "attn", None), SelfAttention) for block in vit.blocks)


def transformer_in(model: nn.Module, kind: str) -> ViT:
    """The vision transformer in a model whose attention can be read.

    Raises:
        UsageError: there is none that is known, or, for LeGrad, none whose own head gives the answer.
    """
    found = [module for module in model.modules() if isinstance(module, ViT)]
    if len(found) != 1 or not shows_attention(found[0]):
        raise UsageError(
            f"--map {kind} needs one plain vision transformer of timm, whose self-attention sees all tokens; this "
            "network has none; use gradcam, or rise, which takes any network"
        )
    (vit,) = found
    if kind == "legrad" and (vit.attn_pool is not None or not isinstance(vit.head, nn.Linear)):
        raise UsageError(
            "--map legrad asks the head of a vision transformer what the tokens of every block say; this network has "
            "another head, or pools by attention; use rollout or gradcam"
        )
    return vit


class _Seen(NamedTuple):
    """What one pass showed of each block."""

    weights: list[Tensor]
    """(B, heads, S, S) each, from query to key; leaves of a graph where gradients are taken."""
    tokens: list[Tensor]
    """(B, S, D) each, behind the block."""


@contextmanager
def _watched(vit: ViT, kind: str) -> Iterator[_Seen]:
    """Keep the weights and the tokens of every block in the passes inside.

    Raises:
        UsageError: a block ran more than once.
    """
    seen = _Seen([], [])

    def weigh(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.weights.append(inputs[0].detach().requires_grad_(torch.is_grad_enabled()))
        return (seen.weights[-1],)

    with ExitStack() as stack:
        for block in vit.blocks:
            attention: Any = block.attn
            stack.callback(attention.attn_drop.register_forward_pre_hook(weigh).remove)
            stack.callback(block.register_forward_hook(lambda _m, _i, output: seen.tokens.append(output)).remove)
            stack.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False
        yield seen
    if len(seen.weights) != len(vit.blocks):
        raise UsageError(
            f"--map {kind}: this model runs its blocks {len(seen.weights)} times for {len(vit.blocks)} blocks; use one "
            "of its own maps, or gradcam"
        )


@torch.no_grad()
def rollout(model: nn.Module, images: Tensor) -> Tensor:
    """Attention rollout (Abnar & Zuidema, ACL 2020): (B, P), the same for every class.

    Each block's weights, the mean over heads, are mixed half and half with the identity, for the residual path, and
    multiplied. What the class token takes from each patch is the map; without a class token, the mean over patches.
    """
    vit = transformer_in(model, "rollout")
    with _watched(vit, "rollout") as seen:
        model(images)
    flow = torch.eye(seen.weights[0].shape[-1], device=images.device)
    for weights in seen.weights:
        mixed = weights.float().mean(1) + torch.eye(weights.shape[-1], device=weights.device)
        with torch.autocast(flow.device.type, enabled=False):
            flow = (mixed / mixed.sum(-1, keepdim=True)) @ flow
    first = vit.num_prefix_tokens
    taken = flow[:, 0] if vit.cls_token is not None else flow[:, first:].mean(1)
    return taken[:, first:]


def legrad(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """LeGrad (Bousselham et al., ICCV 2025): (B, K, P), non-negative; `classes` is (K,) or (B, K) int64.

    What the head says of a class from the tokens of a block is derived by that block's attention weights; negative
    derivatives become 0; the mean over heads and queries is taken, then over all blocks. As in the authors' program the
    head reads the mean of all tokens where the network reads a class token; elsewhere the network's own pooling.
    """
    vit = transformer_in(model, "legrad")
    with torch.inference_mode(False), torch.enable_grad(), _watched(vit, "legrad") as seen:
        model(images.clone())
        wanted = classes.to(images.device).clone().expand(len(images), -1)  # (B, K)
        layers = []
        for weights, tokens in zip(seen.weights, seen.tokens, strict=True):
            logits = _head_of(vit, tokens)
            told = model.retold(logits) if isinstance(model, Retells) else logits
            said = told.float().gather(1, wanted).sum(0)  # (K,): samples do not meet
            gradients = (torch.autograd.grad(each, weights, retain_graph=True)[0] for each in said)
            layers.append(torch.stack([each.float().relu().mean((1, 2)) for each in gradients], dim=1))  # (B, K, S)
    return torch.stack(layers).mean(0)[..., vit.num_prefix_tokens :]


def _head_of(vit: ViT, tokens: Tensor) -> Tensor:
    """Logits (B, C) that the network's head gives for the tokens of any block."""
    if vit.global_pool == "token":
        tokens = tokens.mean(1, keepdim=True).expand_as(tokens)  # whichever it then reads
    logits: Tensor = vit.forward_head(vit.norm(tokens))
    return logits
