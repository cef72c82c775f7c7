"""Published names of LSAS and SENet weights into ours, and what a set of weights tells about its network.

The CIFAR program keeps attention parameters on the block itself (layer3.0.fc1, layer3.0.w), the ImageNet program on a
child called se (layer3.0.se.fc.0, layer3.0.se.w). Ours: layer3.0.attention.fc.0, layer3.0.attention.sub_attention.w.
"""

from __future__ import annotations

import re
from typing import TypeVar

from torch import Tensor

from attnbias.methods.engine.types import Fields
from attnbias.methods.lsas.recipe import IMAGENET_BLOCKS, Block

T = TypeVar("T")

# Both programs' names; a name that fits none (ours, or a plain ResNet's) stays.
RULES = (
    (re.compile(r"(\.|^)fc([12])\.(?=weight$|bias$)"), lambda m: f"{m[1]}attention.fc.{2 * int(m[2]) - 2}."),
    (re.compile(r"(\.|^)se\.fc\."), r"\1attention.fc."),
    (re.compile(r"(?<!sub_attention\.)(?<![a-z_])(?:se\.)?([wb]\d*)$"), r"attention.sub_attention.\1"),
)


def our_name(name: str) -> str:
    """Translate one published parameter name, or the rest of one inside a block."""
    for pattern, replacement in RULES:
        name = pattern.sub(replacement, name)
    return name


def convert(state: dict[str, T]) -> dict[str, T]:
    """Translate published parameter names into ours; wrapper prefixes are already gone."""
    return {our_name(name): value for name, value in state.items()}


def infer(state: dict[str, Tensor]) -> Fields:
    """Recipe fields that weights under our names tell, plus `num_classes`.

    A network of the small family cannot be told from a cifar one by its weights: a stride leaves no trace in them.
    """
    blocks: dict[int, set[int]] = {}
    stages: set[int] = set()
    order = 0
    for name in state:
        if found := re.match(r"layer(\d)\.(\d+)\.(attention\.)?(?:\d\.)?(sub_attention\.w(\d*))?", name):
            stage, block, attention, pair, number = found.groups()
            blocks.setdefault(int(stage), set()).add(int(block))
            if attention:
                stages.add(int(stage))
            if pair:
                order = max(order, int(number or 1))
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    bottleneck = "layer1.0.conv3.weight" in state
    kind: Block = "bottleneck" if bottleneck else "basic"
    fields: Fields = {
        "num_classes": len(state["fc.bias"]),
        "block": kind,
        "order": order,
        "stages": tuple(sorted(stages)),
        "attention": _attention_network(state) if stages else "none",
    }
    if state["conv1.weight"].shape[-1] == 7:
        depths = {layout: depth for depth, layout in IMAGENET_BLOCKS.items()}
        return {**fields, "network": "imagenet", "depth": depths[(kind, counts)]}
    return {**fields, "network": "cifar", "depth": (9 if bottleneck else 6) * counts[0] + 2}


def _attention_network(state: dict[str, Tensor]) -> str:
    """Which attention network the parameters of attended blocks belong to."""
    marks = {"fc.0.weight": "se", "0.mlp.0.weight": "cbam", "conv.weight": "eca", "style": "srm"}
    names = {name.split(".attention.")[1] for name in state if ".attention." in name}
    return next(network for mark, network in marks.items() if mark in names)
