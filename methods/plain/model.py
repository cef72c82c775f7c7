"""A network with its own head, and the layer of it that an explainer looks at.

The network is timm's or torchvision's, whole: nothing is added and nothing taken away, and its weights keep their
names, below `network.`.

Shapes: B images, C classes, K classes of another set, D channels, h x w locations, S tokens before those of the
patches.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import torch
import torchvision
from torch import Tensor, nn

from attnbias.methods.engine.backbones import (
    TinyFeatures,
    is_torchvision,
    sizes_that_suit,
    timm_builder,
    timm_call,
)
from attnbias.methods.engine.own_networks import running
from attnbias.methods.engine.types import Layer
from attnbias.methods.plain.layer import find_layer

UNKNOWN = -1e4
"""Logit of a class that a network does not know: no probability, by softmax and by sigmoid."""


class PlainClassifier(nn.Module):
    """A network that gives logits.

    Args:
        network: images (B, 3, H, W) -> logits (B, C).
        image_size: side of the square images that it is built for.
        layer: name of the layer to explain; None = the one that `find_layer` finds.
    """

    def __init__(self, network: nn.Module, image_size: int, layer: str | None = None) -> None:
        super().__init__()
        self.network = network
        self._image_size = image_size
        self._layer = layer
        self._members: list[list[int]] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, C), or (B, K) of the classes of `answering_as`."""
        return self.retold(self.network(images))

    def retold(self, logits: Tensor) -> Tensor:
        """The network's logits (B, C) as those of the classes that it answers in."""
        if self._members is None:
            return logits
        unknown = torch.full_like(logits[:, 0], UNKNOWN)
        told = [logits[:, own].amax(1) if own else unknown for own in self._members]
        return torch.stack(told, dim=1)

    def answering_as(self, members: Sequence[Sequence[int]]) -> PlainClassifier:
        """The same network with logits of another set's K classes: of each the highest among its `members`, numbers of
        its own classes; UNKNOWN where it has none."""
        other = copy.copy(self)  # the same tensors
        other._members = [list(own) for own in members]
        return other

    @cached_property
    def layer(self) -> Layer:
        """The layer to explain; found when it is first asked for, by one pass over two images."""
        return find_layer(self.network, self._image_size, self._layer)


class OwnClassifier(PlainClassifier):
    """A network that a person gave: whatever it raises, whenever that is, is one line with its name.

    Args:
        source: what the person called it.
    """

    def __init__(self, network: nn.Module, image_size: int, layer: str | None, source: str) -> None:
        super().__init__(network, image_size, layer)
        self._source = source

    def forward(self, images: Tensor) -> Tensor:
        """As `PlainClassifier.forward`.

        Raises:
            WeightsError: the network raised something.
        """
        with running(f"{self._source}: its network, asked with images of shape {tuple(images.shape)},"):
            return super().forward(images)


def head_of(network: nn.Module) -> tuple[str, ...]:
    """Names of the classifying layers: what timm says, else the last part."""
    named: str | tuple[str, ...] | None = getattr(network, "pretrained_cfg", {}).get("classifier")
    if named is None:
        named = [name for name, _ in network.named_children()][-1]
    return (named,) if isinstance(named, str) else named


def of_head(network: nn.Module, name: str) -> bool:
    """Whether a parameter of the network belongs to its classifying layers."""
    return name.startswith(tuple(f"{layer}." for layer in head_of(network)))


def build_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build a network with fresh weights; names as in `build_backbone`.

    Raises:
        UsageError: the name is unknown, or the size does not suit the network.
    """
    if name == "tiny":
        features = TinyFeatures()
        parts: list[tuple[str, nn.Module]] = [
            ("features", features),  # (B, D, h, w)
            ("avgpool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),  # (B, D)
            ("head", nn.Linear(features.num_features, num_classes)),  # (B, C)
        ]
        return nn.Sequential(OrderedDict(parts))
    network: nn.Module
    if is_torchvision(name):
        network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    else:
        with sizes_that_suit(name, image_size):
            network = timm_builder(name, image_size)(num_classes=num_classes)
    return network


def library_call(name: str, num_classes: int, image_size: int) -> str | None:
    """The call by which timm or torchvision makes a network of `build_network`; None for the tiny ones."""
    if name == "tiny":
        return None
    if is_torchvision(name):
        return f"torchvision.models.get_model('{name}', num_classes={num_classes})"
    return timm_call(timm_builder(name, image_size), num_classes)
