"""Backbones by name: networks of torchvision and timm, cut before their pooling, and two tiny ones for CPUs.

Each maps pictures (B, 3, H, W) to features (B, D, h, w) and tells D as `num_features`. torchvision's networks keep
their parameter names; timm's keep theirs below `model.`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.maps import token_grid
from attnbias.weights.files import load_strict

ALIASES = {"vit_b16": "vit_base_patch16_224", "vit_l16": "vit_large_patch16_224"}
"""Short names of the papers -> timm's."""

TINY_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
"""The transformer beside the tiny network: for CPUs and small pictures."""

POOLING_AND_AFTER = {"avgpool", "classifier", "fc", "head", "head_dist"}
"""Modules that a backbone does without, by the names that torchvision and timm give them."""

NOT_A_CHAIN = ("googlenet", "inception_v3", "maxvit_t", "vit_")
"""torchvision's networks (by the beginnings of their names) whose children cannot simply be run one after another."""


class TorchvisionFeatures(nn.Sequential):
    """A torchvision network up to its pooling, with fresh weights: a ResNet up to layer4 (stride 32)."""

    def __init__(self, name: str) -> None:
        network = torchvision.models.get_model(name, weights=None)
        children = takewhile(lambda child: child[0] not in POOLING_AND_AFTER, network.named_children())
        super().__init__(OrderedDict(children))
        self.eval()  # or the probe would move BatchNorm's statistics
        with torch.no_grad():
            self.num_features: int = self(torch.zeros(1, 3, 64, 64)).shape[1]
        self.train()


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
    """A timm network without its head; its patch tokens are laid out as a grid."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.num_features: int = model.num_features

    @classmethod
    def of(cls, name: str, image_size: int) -> TimmFeatures:
        """Build with fresh weights, position embeddings made for `image_size`."""
        config = timm.get_pretrained_cfg(name)
        size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
        return cls(timm.create_model(name, num_classes=0, **size))

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) to features (B, D, h, w)."""
        features: Tensor = self.model.forward_features(images)
        if features.ndim == 3:  # (B, N, D)
            return token_grid(features, tuple(images.shape[-2:]))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features


Backbone = TorchvisionFeatures | TinyFeatures | TimmFeatures


def build_backbone(name: str, image_size: int) -> Backbone:
    """Build a backbone with fresh weights: tiny, tiny_vit, a network of torchvision, or one of timm (in this order).

    `image_size` matters to networks of a fixed input size (ViT, Swin) only.

    Raises:
        UsageError: the name is unknown, or the size does not suit the network.
    """
    if name == "tiny":
        return TinyFeatures()
    if name == "tiny_vit":
        return TimmFeatures(VisionTransformer(image_size, num_classes=0, **TINY_VIT))
    chains = [n for n in torchvision.models.list_models(torchvision.models) if not n.startswith(NOT_A_CHAIN)]
    if name in chains:
        return TorchvisionFeatures(name)
    if not timm.is_model(ALIASES.get(name, name)):
        known = ["tiny", "tiny_vit", *ALIASES, *chains, *timm.list_models()]
        raise UsageError(
            f"unknown backbone '{name}'{did_you_mean(name, known)}; "
            "expected tiny, tiny_vit, vit_b16, vit_l16, or a network of torchvision or timm, such as resnet101"
        )
    try:
        return TimmFeatures.of(ALIASES.get(name, name), image_size)
    except (AssertionError, ValueError) as error:
        raise UsageError(f"backbone {name} cannot take pictures of {image_size} pixels: {error}") from None


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load published classification weights into a backbone, their classifier left out.

    Takes torchvision's and timm's names, and those of Microsoft's Swin files; a ViT's position embedding for another
    input size is resampled.

    Raises:
        WeightsError: a name lacks, is too many, or has another shape.
    """
    target: Any = backbone
    if isinstance(backbone, TimmFeatures):
        target, state = backbone.model, fit_position_embedding(backbone, swin_to_timm(state), "pos_embed")
    load_strict(target, {n: value for n, value in state.items() if n.split(".")[0] not in POOLING_AND_AFTER}, path)


def fit_position_embedding(backbone: nn.Module, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Resample a ViT's position embedding, `name` in `state`, to the grid that the backbone was built for.

    Bicubic, antialiased; the class token's is kept. States without it, or that fit, come back unchanged.
    """
    network: Any = getattr(backbone, "model", None)
    given, own = state.get(name), getattr(network, "pos_embed", None)
    if given is None or own is None or given.shape == own.shape or given.shape[-1] != own.shape[-1]:
        return state
    grid, prefix = network.patch_embed.grid_size, network.num_prefix_tokens
    return {**state, name: resample_abs_pos_embed(given, grid, num_prefix_tokens=prefix)}


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
