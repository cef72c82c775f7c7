"""Where an LSAS network looks: class activation maps of its features, and the channel attention of its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import cam, grad_cam
from attnbias.methods.lsas.model import CBAMSpatial, ResNet, SubAttention

GRADCAM_STAGE = "gradcam-"


def class_activation_maps(model: ResNet, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Signed class activation maps of the last stage, (B, K, h, w), over h * w: Grad-CAM without a backward pass.

    Behind average pooling and one linear layer the two are the same, exactly. `classes` is (K,) or (B, K), None = all.
    """
    features = model.features(images)  # (B, D, h, w)
    rows = model.fc.weight if classes is None else model.fc.weight[classes.to(images.device)]
    return cam(features, rows) / features[0, 0].numel()


def attention_maps(model: ResNet, images: Tensor, classes: Tensor | None, kind: str) -> Tensor:
    """Non-negative maps (B, K, h, w) of one of the method's kinds: "cam", or "gradcam-layerN" for any stage.

    Raises:
        UsageError: the network has no such stage (those for CIFAR have three).
    """
    if kind.startswith(GRADCAM_STAGE):
        if kind.removeprefix(GRADCAM_STAGE) not in model.stage_names:
            known = ", ".join(GRADCAM_STAGE + stage for stage in model.stage_names)
            raise UsageError(f"--map {kind}: this network has {len(model.stage_names)} stages; one of: {known}")
        wanted = torch.arange(model.fc.out_features) if classes is None else classes
        return grad_cam(model, images, wanted, model.get_submodule(kind.removeprefix(GRADCAM_STAGE))).relu()
    return class_activation_maps(model, images, classes).relu()


@dataclass(frozen=True)
class ChannelAttention:
    """What one attended block did to its channels."""

    block: str
    """Name of the block, such as layer3.17."""
    factors: Tensor
    """sigmoid(v0) ... sigmoid(vn), (n + 1, B, C); their product over the first axis is the attention."""

    @property
    def attention(self) -> Tensor:
        """The attention (B, C)."""
        return self.factors.prod(0)


def channel_attention(model: nn.Module, images: Tensor) -> list[ChannelAttention]:
    """Run the model and return the channel attention of every attended block, in order (spatial ones are left out)."""
    panels: list[ChannelAttention] = []

    def record(name: str, module: SubAttention, logits: Tensor) -> None:
        factors = torch.stack([v.detach().sigmoid() for v in module.chain(logits)])  # (n + 1, B, C, 1, 1)
        panels.append(ChannelAttention(name, factors.flatten(2)))

    spatial = {module.sub_attention for module in model.modules() if isinstance(module, CBAMSpatial)}
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, name=name: record(name, m, inputs[0]))
        for name, module in ((n.split(".attention")[0], m) for n, m in model.named_modules())
        if isinstance(module, SubAttention) and module not in spatial
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return panels
