"""The published program's parameter names -> ours, and what weights tell about their model.

Published: a flat list, torchvision's or timm's names beside classifier.multi_head.{k}.head.weight (C, d, 1, 1).
Ours: backbone.NAME (backbone.model.NAME for timm's networks) and classifier.weight (heads, C, d).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from attnbias.methods.engine.backbones import network_of
from attnbias.methods.engine.types import Fields
from attnbias.weights.errors import WeightsError

HEAD = re.compile(r"classifier\.multi_head\.(\d+)\.head\.weight")

UNKNOWN_HEAD = re.compile(r"head(\d+)\.weight")
"""A head of the published ViT-L files for COCO, which another program made than the published one."""


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate a published state dict; one without CSRA's heads comes back unchanged.

    Raises:
        WeightsError: the heads are those of a program that was not published: what they compute is not known.
    """
    if unknown := sorted(int(match[1]) for name in state if (match := UNKNOWN_HEAD.fullmatch(name))):
        raise WeightsError(
            f"heads head{unknown[0]} to head{unknown[-1]} are not those of CSRA's published program; files like this "
            "one (ViT-L for COCO) were made by a program that was not published, so nobody can say how their heads are "
            "combined: it is not loaded. CSRA's other files work: attnbias list weights"
        )
    heads = {int(match[1]): value for name, value in state.items() if (match := HEAD.fullmatch(name))}
    if not heads:
        return state
    prefix = "backbone.model." if "pos_embed" in state else "backbone."
    converted = {f"{prefix}{name}": value for name, value in state.items() if not HEAD.fullmatch(name)}
    converted["classifier.weight"] = torch.stack([heads[k].flatten(1) for k in sorted(heads)])
    return converted


def infer(state: dict[str, Tensor]) -> Fields:
    """Read backbone, heads and classes off converted weights; {} where they are not CSRA's. `lam` cannot be told."""
    weight = state.get("classifier.weight")
    backbone = network_of(state, "backbone.") or network_of(state, "backbone.model.")
    if weight is None or weight.ndim != 3 or backbone is None:
        return {}
    return {"backbone": backbone, "num_heads": len(weight), "num_classes": weight.shape[1]}
