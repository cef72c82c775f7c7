"""Feature extractors by name: torchvision's ResNets, timm's networks, and a tiny one for CPUs.

Each maps pictures (B, 3, H, W) to features (B, D, h, w) and tells D as `num_features`. ResNets keep torchvision's
parameter names; timm's networks keep theirs below `model.`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import cast

import timm
import torchvision
from torch import Tensor, nn

from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.maps import token_grid
from attnbias.weights.files import load_strict

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class ResNetFeatures(nn.Sequential):
    """A torchvision ResNet up to its last stage (stride 32), with fresh weights."""

    def __init__(self, name: str) -> None:
        network = getattr(torchvision.models, name)(weights=None)
        self.num_features: int = network.fc.in_features
        super().__init__(OrderedDict((n, m) for n, m in network.named_children() if n not in ("avgpool", "fc")))


class TinyFeatures(nn.Sequential):
    """Five 3x3 convolutions, stride 8, 70 thousand parameters: what a CPU trains in minutes on 64 x 64 pictures."""

    num_features = 64

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for out, stride in ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1)):
            layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
        super().__init__(*layers)


class TimmFeatures(nn.Module):
    """A timm network without its head, with fresh weights; its patch tokens are laid out as a grid."""

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(name)
        size = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
        self.model = timm.create_model(name, num_classes=0, global_pool="", **size)
        self.num_features: int = self.model.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) to features (B, D, h, w)."""
        features: Tensor = self.model(images)
        if features.ndim == 3:  # (B, N, D)
            return token_grid(features, tuple(images.shape[-2:]))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features


Backbone = ResNetFeatures | TinyFeatures | TimmFeatures


def build_backbone(name: str, image_size: int) -> Backbone:
    """Build a backbone with fresh weights: "tiny", a ResNet of torchvision, or a network of timm.

    `image_size` matters to networks of a fixed input size (ViT, Swin) only.

    Raises:
        UsageError: the name is unknown, or the size does not suit the network.
    """
    if name == "tiny":
        return TinyFeatures()
    if name in RESNETS:
        return ResNetFeatures(name)
    if not timm.is_model(name):
        known = [*RESNETS, "tiny", *timm.list_models()]
        raise UsageError(
            f"unknown backbone '{name}'{did_you_mean(name, known)}; "
            f"expected tiny, {RESNETS[0]} to {RESNETS[-1]}, or a model name of timm"
        )
    try:
        return TimmFeatures(name, image_size)
    except (AssertionError, ValueError) as error:
        raise UsageError(f"backbone {name} cannot take pictures of {image_size} pixels: {error}") from None


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load published classification weights into a backbone, their classifier left out.

    Takes torchvision's and timm's names, and those of Microsoft's Swin files.

    Raises:
        WeightsError: a name lacks, is too many, or has another shape.
    """
    if isinstance(backbone, TimmFeatures):
        config = backbone.model.pretrained_cfg
        heads = tuple(f"{name}." for name in (cast(str, config.get("classifier", "head")), "head"))
        state = swin_to_timm(state)
        target: nn.Module = backbone.model
    else:
        heads, target = ("fc.",), backbone
    load_strict(target, {name: value for name, value in state.items() if not name.startswith(heads)}, path)


def swin_to_timm(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Rename the keys of Microsoft's Swin program below `prefix`: patch merging belongs to the next stage in timm.

    States that are already timm's, or no Swin's, come back unchanged.
    """
    merging = re.compile(rf"{re.escape(prefix)}layers\.(\d+)\.downsample\.")
    if not any((match := merging.match(name)) and match[1] == "0" for name in state):
        return state
    buffers = ("relative_position_index", "attn_mask")  # recomputed when the network is built
    return {
        merging.sub(lambda match: f"{prefix}layers.{int(match[1]) + 1}.downsample.", name): value
        for name, value in state.items()
        if not name.endswith(buffers)
    }
