"""Published weights of whole networks: our names are theirs below `network.`, and what the weights tell."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from attnbias.methods.engine.backbones import fit_weights, network_of, what_was_loaded
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.pretrained import pretrained
from attnbias.methods.engine.types import Fields
from attnbias.methods.plain.model import build_network, of_head
from attnbias.weights.files import load_strict

LOG = logging.getLogger(__name__)

PREFIX = "network."
TINY = 64
"""Side of the images of networks that no library knows."""


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put published names below `network.`, where ours stand."""
    if any(name.startswith(PREFIX) for name in state):
        return state
    return {PREFIX + name: value for name, value in state.items()}


def infer(state: dict[str, Tensor]) -> Fields:
    """Network and classes of a whole ResNet of torchvision or ViT of timm; {} for every other network."""
    name = network_of(state, PREFIX)
    if name is None or not state.keys() <= _names(name):  # with parts of a method it is that method's
        return {}
    told = infer_named(state, name)
    return {"backbone": name, **told} if told else {}


def infer_named(state: dict[str, Tensor], backbone: str) -> Fields:
    """Number of classes of a whole network whose name is known; {} where the weights are not its.

    Raises:
        UsageError: there is no such network.
    """
    outline = _outline(backbone)
    if {PREFIX + name for name, _ in outline.named_parameters()} - state.keys():
        return {}
    last = [name for name, _ in outline.named_parameters() if of_head(outline, name)][-1]
    return {"num_classes": len(state[PREFIX + last])}


def _outline(backbone: str) -> nn.Module:
    """A network as names and shapes, for the images that its publisher makes."""
    known = None if backbone.startswith("tiny") else pretrained(backbone)
    with names_and_shapes():
        return build_network(backbone, 2, known.image_size if known else TINY)


def _names(backbone: str) -> set[str]:
    return {PREFIX + name for name in _outline(backbone).state_dict()}


def fit_resolution(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample what depends on the images' size to what the network was built for."""
    own = {name.removeprefix(PREFIX): value for name, value in state.items()}
    return {PREFIX + name: value for name, value in fit_weights(network, network, own).items()}


def load_all_but_the_head(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load published weights, their classifying layers aside, and log what was resampled or left out.

    Raises:
        WeightsError: a name is missing, is too many, or has another shape.
    """
    found = fit_weights(network, network, state)
    wanted = {name: value for name, value in found.items() if not of_head(network, name)}
    load_strict(network, wanted, path, fresh=[name for name in network.state_dict() if of_head(network, name)])
    LOG.warning("backbone: %s", what_was_loaded(state, found, wanted))
