"""Maps whatever the method: CAM, Grad-CAM and its kin, attention weights, resampling and normalisation.

overlay.py draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.engine.abilities import IsSteered
from attnbias.methods.engine.description import AT_LAYER
from attnbias.methods.engine.errors import NotFiniteError, UsageError
from attnbias.methods.engine.rise import rise
from attnbias.methods.engine.transformer_maps import legrad, rollout, transformer_in
from attnbias.methods.engine.types import Layer, Steering

if TYPE_CHECKING:
    from attnbias.methods.engine.method import AnyMethod


def attention_maps(
    method: AnyMethod,
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    kind: str | None = None,
    head: int | None = None,
    steering: Steering | None = None,
) -> Tensor:
    """Ask a method, or an explainer, where the model looked: (B, K, h, w), non-negative, float32.

    `classes` is (K,) or (B, K) int64; `kind` is a name of `method.maps` or `method.explainers()`, None = the model's
    own. `steering` says how maps of the method's `steered_maps` are told what to look for.

    Raises:
        UsageError: as `check_map`.
        NotFiniteError: a map holds NaN or infinity.
    """
    check_map(method, model, kind, head)
    if kind in AT_LAYER:
        maps = explain(kind, model, images, classes, method.explained_layer(model))
    elif steering is not None and kind in method.steered_maps:
        if head is not None:
            raise UsageError(f"--head {head}: a map that a prior steers is of all heads together; leave --head out")
        maps = steered_maps(method, model, images, classes, kind, steering)
    elif kind is None or kind in method.maps:
        maps = method.attention(model, images, classes, kind=kind, head=head)
    elif kind == "rise":
        maps = rise(model, images, classes)
    elif kind == "legrad":
        maps = _of_patches(legrad(model, images, classes), images)
    else:
        rolled = _of_patches(rollout(model, images)[:, None], images)
        maps = rolled.expand(-1, classes.shape[-1], -1, -1)
    return checked(maps.float())


def check_map(method: AnyMethod, model: nn.Module, kind: str | None, head: int | None = None) -> None:
    """Refuse a kind of map that there is not, or that does not fit the model's network, and a head of an explainer.

    Raises:
        UsageError: see above.
    """
    if kind is not None:
        method.check_map(kind, head)
    if kind in AT_LAYER:
        method.explained_layer(model)
    elif kind in ("legrad", "rollout") and kind in method.explainers():
        transformer_in(model, kind)


def fitting_explainers(method: AnyMethod, model: nn.Module) -> list[str]:
    """The method's explainers that fit the model's network."""
    fitting = []
    for kind in method.explainers():
        with suppress(UsageError):
            check_map(method, model, kind)
            fitting.append(kind)
    return fitting


def _of_patches(values: Tensor, images: Tensor) -> Tensor:
    """Values of patches (B, K, P) as maps (B, K, h, w) of the images' proportions."""
    return token_grid(values[..., None], tuple(images.shape[-2:]))[..., 0, :, :]


def steered_maps(
    method: AnyMethod, model: nn.Module, images: Tensor, classes: Tensor, kind: str, steering: Steering
) -> Tensor:
    """Maps of classes (K,) or (B, K), each looked for as `steering` says: (B, K, h, w), non-negative, float32."""
    assert isinstance(method, IsSteered)
    vectors = steering.vectors
    priors = classes if vectors is None else vectors.to(images.device)[classes.to(images.device)]
    return method.steered(model, images, priors, steering.gain, kind)


def layer_name(method: AnyMethod, model: nn.Module, kind: str) -> str | None:
    """Name of the layer that an explainer looks at; None for a map that looks at no single one."""
    if kind not in AT_LAYER:
        return None
    layer = method.explained_layer(model).module
    return next(name for name, module in model.named_modules() if module is layer)


def checked(maps: Tensor) -> Tensor:
    """Return the maps, or raise NotFiniteError where one holds NaN or infinity: it would be drawn as something."""
    if not torch.isfinite(maps).all():
        raise NotFiniteError("an attention map holds")
    return maps


def of_classes(maps: Tensor, classes: Tensor) -> Tensor:
    """The asked classes' maps (B, K, h, w), classes being (K,) or (B, K), out of all classes' (B, C, h, w).

    By `gather`, which leaves the number of images free in an exported graph; `take_along_dim` does not.
    """
    wanted = classes.to(maps.device).expand(maps.shape[0], -1)  # (B, K)
    return maps.gather(1, wanted[..., None, None].expand(-1, -1, *maps.shape[2:]))


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps (Zhou et al., CVPR 2016), signed.

    `features` is (B, D, h, w); `weight` holds the classifier rows of the asked classes, (K, D) or (B, K, D).
    Returns (B, K, h, w): for a linear classifier on average-pooled features, h * w times Grad-CAM before its ReLU.
    """
    rows = weight.float().expand(features.shape[0], -1, -1)  # (B, K, D); len() would fix B where the graph is exported
    with torch.autocast(features.device.type, enabled=False):  # rounded to bfloat16, a map has many highest pixels
        return (rows @ features.float().flatten(2)).unflatten(2, features.shape[2:])  # (B, K, h, w)


def explain(kind: str, model: nn.Module, images: Tensor, classes: Tensor, layer: Layer) -> Tensor:
    """What an explainer of `AT_LAYER` sees at a layer: (B, K, h, w), non-negative, float32.

    `model(images)`, in evaluation mode, gives logits (B, C), or (B, C, h, w), whose mean over the grid is explained
    (Vinogradova et al., AAAI 2020). `classes` is (K,) or (B, K) int64. No parameter receives a gradient.
    """
    features, gradients = _features_and_gradients(model, images, classes, layer)
    return WEIGHINGS[kind](features, gradients).relu()


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module) -> Tensor:
    """Grad-CAM at the output of `layer` before its ReLU: (B, K, h, w), signed; arguments as in `explain`."""
    return _by_mean_gradients(*_features_and_gradients(model, images, classes, Layer(layer)))


def _features_and_gradients(model: nn.Module, images: Tensor, classes: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """A layer's output (B, D, h, w) and the gradients of each class's logit at it (K, B, D, h, w), float32."""
    # Tensors made under inference_mode, as an evaluation loop makes them, cannot enter a graph: hence the clones.
    with torch.inference_mode(False), torch.enable_grad(), _captured(layer.module) as activation:
        logits = model(images.clone()).float()
        logits = logits.flatten(2).mean(2) if logits.ndim == 4 else logits
        wanted = classes.to(logits.device).clone().expand(len(images), -1)  # (B, K)
        chosen = logits.gather(1, wanted).sum(0)  # (K,): samples do not meet in evaluation mode
        features = activation()
        # One backward pass for all classes, vectorised by autograd, through the layers after `layer` only.
        (gradients,) = torch.autograd.grad(chosen, features, torch.eye(len(chosen)).to(chosen), is_grads_batched=True)
    features = features.detach()
    tokens, size = features.ndim == 3, tuple(images.shape[-2:])
    features, gradients = (on_grid(each, layer, size, tokens=tokens) for each in (features, gradients))
    return features.float(), gradients.float()


def _by_mean_gradients(features: Tensor, gradients: Tensor) -> Tensor:
    """sum over channels of (mean over the grid of the gradient) * feature (Selvaraju et al., ICCV 2017)."""
    return cam(features, gradients.mean(dim=(-2, -1)).transpose(0, 1))  # (K, B, D, h, w) -> (B, K, D)


def _by_positive_gradients(features: Tensor, gradients: Tensor) -> Tensor:
    """sum over channels of ReLU(gradient) * feature, location by location (Jiang et al., IEEE TIP 2021)."""
    return (gradients.relu() * features).sum(2).transpose(0, 1)


def _by_gradients(features: Tensor, gradients: Tensor) -> Tensor:
    """sum over channels of gradient * feature, location by location (Draelos and Carin, arXiv 2011.08891)."""
    return (gradients * features).sum(2).transpose(0, 1)


WEIGHINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _by_mean_gradients,
    "layercam": _by_positive_gradients,
    "hirescam": _by_gradients,
}
"""The explainers' formulas: features (B, D, h, w) and gradients (K, B, D, h, w) -> maps (B, K, h, w), signed."""


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


def on_grid(values: Tensor, layer: Layer, image_size: tuple[int, ...], *, tokens: bool) -> Tensor:
    """Lay a layer's output, or gradients of it with a dimension more in front, out as (..., D, h, w)."""
    if tokens:
        return token_grid(values[..., layer.prefix_tokens :, :], image_size)
    return values.movedim(-1, -3) if layer.channels_last else values


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
        NotFiniteError: a map holds NaN or infinity.
    """
    if rule not in NORMALISATIONS:
        raise UsageError(f"unknown normalisation '{rule}'; one of: {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[rule](checked(maps.float()))


def attention_weights(block: Any, tokens: Tensor) -> Tensor:
    """Softmax weights of the self-attention in a timm block, from query to key: tokens (B, S, D) -> (B, heads, S, S).

    `block` may be a `partial` of one, with what it is told beside its tokens. The weights are float32, and what timm
    itself computes where it does not fuse them away: norms and rotations of queries and keys are in them.
    """
    attention = getattr(block, "func", block).attn
    weights: list[Tensor] = []
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: weights.append(inputs[0]))
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        block(tokens)
    finally:
        handle.remove()
        attention.fused_attn = fused
    return weights[0].float()
