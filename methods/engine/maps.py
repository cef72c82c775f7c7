"""Maps whatever the method: CAM, Grad-CAM, attention weights, resampling and normalisation. overlay.py draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.engine.errors import RunError, UsageError, did_you_mean

if TYPE_CHECKING:
    from attnbias.methods.engine.method import AnyMethod

GRADCAM = "gradcam"
"""The map kind that every method offers beside its own, so that methods can be compared under one explainer."""


def attention_maps(
    method: AnyMethod,
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    kind: str | None = None,
    head: int | None = None,
) -> Tensor:
    """Ask a method, or Grad-CAM, where the model looked: (B, K, h, w), non-negative, float32.

    `classes` is (K,) or (B, K) int64; `kind` is a name of `method.maps` or "gradcam", None = the model's own.

    Raises:
        UsageError: the method has no such map, or `head` is asked of Grad-CAM.
        RunError: a map holds NaN or infinity.
    """
    if kind == GRADCAM:
        if head is not None:
            raise UsageError("--map gradcam has no heads; leave --head out")
        maps = grad_cam(model, images, classes, method.gradcam_layer(model))
    elif kind is None or kind in method.maps:
        maps = method.attention(model, images, classes, kind=kind, head=head)
    else:
        known = (*method.maps, GRADCAM)
        raise UsageError(
            f"method '{method.name}' has no map '{kind}'{did_you_mean(kind, known)}; one of: {', '.join(known)}"
        )
    return checked(maps.float())


def checked(maps: Tensor) -> Tensor:
    """Return the maps, or raise RunError where one holds NaN or infinity: it would be drawn as something."""
    if not torch.isfinite(maps).all():
        raise RunError("an attention map holds NaN or infinity; check the checkpoint, or run it with --amp no")
    return maps


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps (Zhou et al., CVPR 2016), signed.

    `features` is (B, D, h, w); `weight` holds the classifier rows of the asked classes, (K, D) or (B, K, D).
    Returns (B, K, h, w): for a linear classifier on average-pooled features, h * w times Grad-CAM before its ReLU.
    """
    rows = weight.float().expand(features.shape[0], -1, -1)  # (B, K, D); len() would fix B where the graph is exported
    return (rows @ features.float().flatten(2)).unflatten(2, features.shape[2:])  # (B, K, h, w)


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module, *, signed: bool = False) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) at the output of `layer`: ReLU(sum_k mean(d logit / d A_k) A_k).

    `model(images)`, in evaluation mode, gives logits (B, C), or (B, C, h, w), whose mean over the grid is explained
    (Vinogradova et al., AAAI 2020). `layer` gives (B, D, h, w), or tokens (B, N, D) that are laid out by `token_grid`.
    `classes` is (K,) or (B, K) int64.
    Returns (B, K, h, w), before the ReLU where `signed`. No parameter receives a gradient.
    """
    # Tensors made under inference_mode, as an evaluation loop makes them, cannot enter a graph: hence the clones.
    with torch.inference_mode(False), torch.enable_grad(), _captured(layer) as activation:
        logits = model(images.clone()).float()
        logits = logits.flatten(2).mean(2) if logits.ndim == 4 else logits
        wanted = classes.to(logits.device).clone().expand(len(images), -1)  # (B, K)
        chosen = logits.gather(1, wanted).sum(0)  # (K,): samples do not meet in evaluation mode
        features = activation()
        # One backward pass for all classes, vectorised by autograd, through the layers after `layer` only.
        (gradients,) = torch.autograd.grad(chosen, features, torch.eye(len(chosen)).to(chosen), is_grads_batched=True)
    features = features.detach()
    if features.ndim == 3:
        features, gradients = (token_grid(tokens, tuple(images.shape[-2:])) for tokens in (features, gradients))
    weights = gradients.float().mean(dim=(-2, -1)).transpose(0, 1)  # (K, B, D, h, w) -> (B, K, D)
    maps = cam(features, weights)
    return maps if signed else maps.relu()


@contextmanager
def _captured(layer: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Cut the graph at the output of `layer` and hand out that output, of its last call, as a leaf."""
    calls: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        calls[:] = [output.detach().requires_grad_()]
        return calls[0].clone()  # a later in-place ReLU must not change the leaf

    handle = layer.register_forward_hook(cut)
    try:
        yield lambda: calls[0]
    finally:
        handle.remove()


def token_grid(tokens: Tensor, image_size: tuple[int, ...]) -> Tensor:
    """Lay patch tokens (..., N, D) out as a grid (..., D, h, w) of the image's proportions; leading others go."""
    count, (height, width) = tokens.shape[-2], image_size
    rows, columns = (int(sqrt(count * ratio) + 1e-6) for ratio in (height / width, width / height))
    return tokens[..., count - rows * columns :, :].transpose(-1, -2).unflatten(-1, (rows, columns))


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, K, h, w) to (height, width): bilinear, align_corners=False."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def minmax(maps: Tensor) -> Tensor:
    """Stretch each map (..., h, w) to [0, 1]; a constant map (range <= 1e-12) becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 1e-12, (maps - low) / span.clamp_min(1e-12), 0.0)


def by_max(maps: Tensor) -> Tensor:
    """Divide each map (..., h, w) by its maximum, negative values at 0; a map without positive values becomes zeros."""
    high = maps.amax((-2, -1), keepdim=True)
    return torch.where(high > 0, maps.clamp_min(0) / high.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"minmax": minmax, "max": by_max}
"""Rules that bring each map to [0, 1]: min-max (Grad-CAM's custom) or divided by the maximum (CSRA's program)."""


def normalise(maps: Tensor, rule: str) -> Tensor:
    """Bring each map (..., h, w) to [0, 1] by a rule of NORMALISATIONS.

    Raises:
        UsageError: unknown rule.
        RunError: a map holds NaN or infinity.
    """
    if rule not in NORMALISATIONS:
        raise UsageError(f"unknown normalisation '{rule}'; one of: {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[rule](checked(maps.float()))


def attention_weights(block: Any, tokens: Tensor) -> Tensor:
    """Softmax weights of a timm block's attention, from query to key: tokens (B, S, D) -> (B, heads, S, S) float32."""
    attn = block.attn
    qkv = attn.qkv(block.norm1(tokens)).unflatten(-1, (3, attn.num_heads, -1))  # (B, S, 3, heads, d)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, d)
    return ((query * attn.scale) @ key.transpose(-2, -1)).float().softmax(-1)
