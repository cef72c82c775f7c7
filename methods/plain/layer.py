"""The layer of any network that an explainer should look at, found by its shapes and by where gradients flow."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.maps import on_grid
from attnbias.methods.engine.types import Layer

INNER = ("att", "mlp", "ffn", "qkv", "pool", "head")
"""Parts of names of what stands inside a block, or behind the last grid: no layer of them is explained."""

REACHED = 0.5
"""Share of locations that the logits must depend on; a ReLU may hide some."""


def find_layer(network: nn.Module, image_size: int, name: str | None = None) -> Layer:
    """The last layer with a grid of features at which every location reaches the logits.

    In a network that averages its features that is the last one; in a transformer that reads a class token it is the
    norm before the last block's attention, since no patch reaches the answer behind it (as users of Grad-CAM on vision
    transformers choose by hand). `name` picks a layer instead.

    Raises:
        UsageError: there is no such layer, or none that has a grid.
    """
    outputs, answer = _run(network, image_size)
    stated: int | None = getattr(network, "num_prefix_tokens", None)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    grids = {
        layer: found
        for layer, output in outputs.items()
        if (found := _grid(network.get_submodule(layer), output, stated, last))
    }
    if name is not None:
        if name not in grids:
            raise UsageError(
                f"--layer {name}: the network has no such layer with a grid of features"
                f"{did_you_mean(name, grids)}; the last of those it has: {', '.join([*grids][-5:]) or 'none'}"
            )
        return grids[name]
    candidates = [layer for layer in grids if not any(inner in layer for inner in INNER)]
    with torch.inference_mode(False):
        reached = [outputs[layer] for layer in candidates]
        gradients = torch.autograd.grad(answer, reached, allow_unused=True) if reached else ()
    for layer, gradient in reversed(list(zip(candidates, gradients, strict=True))):
        if gradient is None:
            continue
        grid = on_grid(gradient, grids[layer], (image_size, image_size), tokens=gradient.ndim == 3)  # (B, D, h, w)
        if grid.abs().sum(1).count_nonzero() > REACHED * grid[:, 0].numel():
            return grids[layer]
    raise UsageError(
        "no layer of this network has a grid of features on most of which its answer depends; choose one with --layer; "
        f"the last of those with a grid: {', '.join([*grids][-5:]) or 'none'}"
    )


def _run(network: nn.Module, image_size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of all modules in the order in which they were done, and one number made of the logits, for two random
    images."""
    outputs: dict[str, Tensor] = {}
    names = {module: name for name, module in network.named_modules() if name}

    def keep(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.pop(names[module], None)  # of a module that is called again, the last call counts
            outputs[names[module]] = output

    parameters = list(network.named_parameters())
    shape, device = (2, 3, image_size, image_size), next((value.device for _, value in parameters), "cpu")
    # Heads and scales that start at zero, as fresh ones may, would hide where gradients flow.
    filled = {name: value if value.any() else torch.ones_like(value) for name, value in parameters}
    hooks = [module.register_forward_hook(keep) for module in names]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
            values = {name: value.detach().clone().requires_grad_() for name, value in filled.items()}
            logits: Tensor = functional_call(network, values, (images,))
            draws = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
            answer = (logits * draws).sum()
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return outputs, answer


def _grid(module: nn.Module, output: Tensor, stated: int | None, channels_last: bool) -> Layer | None:
    """How a module's output for two square images lies as a grid; None where it is none.

    `stated` is the network's number of tokens before the patches', `channels_last` whether it says so of itself.
    """
    if len(output) != 2:  # windows
        return None
    if output.ndim == 4:
        first, last = output.shape[2] == output.shape[3] > 1, output.shape[1] == output.shape[2] > 1
        return Layer(module, channels_last=last and (channels_last or not first)) if first or last else None
    if output.ndim == 3:
        count = output.shape[1]
        for prefix in (stated, count - isqrt(count) ** 2):
            if prefix is not None and (side := isqrt(max(count - prefix, 0))) > 1 and side**2 == count - prefix:
                return Layer(module, prefix_tokens=prefix)
    return None
