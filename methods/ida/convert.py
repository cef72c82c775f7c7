"""Names of the published program's weights -> ours, and what converted weights tell about their recipe."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from attnbias.methods.engine.backbones import network_of, swin_to_timm
from attnbias.methods.engine.types import Fields

RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""The program's ResNet is a list of torchvision's children."""

SWINS = {128: "swin_base_patch4_window12_384", 192: "swin_large_patch4_window12_384"}
"""Width of the patch embedding -> name."""

COCO_TO_VOC = (4, 1, 14, 8, 39, 5, 2, 15, 56, 19, 60, 16, 17, 3, 0, 58, 18, 57, 6, 62)
"""For each class of VOC, the place of the same class among COCO's 80."""


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the program's names; states that are not the program's come back unchanged."""
    if not any(name.startswith("clf.") for name in state):
        return state
    state = {_rename_resnet(name): value for name, value in swin_to_timm(state, "backbone.model.").items()}
    converted = {name: value for name, value in state.items() if not name.startswith("clf.")}
    classifier = {name.removeprefix("clf."): value for name, value in state.items() if name.startswith("clf.")}
    if "weight" in classifier:
        return converted | {f"head.fc.{name}": value for name, value in classifier.items()}
    return converted | {f"head.{name}": value for name, value in convert_classifier(classifier).items()}


def convert_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the interventional classifier's own names (without `clf.`)."""
    state = dict(state)
    # One 1x1 convolution (C, d, 1, 1) for each sample -> one tensor (N, C, d).
    samples = sorted((name for name in state if name.startswith("head.")), key=lambda name: int(name.split(".")[1]))
    converted = {"weight": torch.stack([state.pop(name).flatten(1) for name in samples])}
    # Query, key and value projections -> one.
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        converted[_rename_layer(name.replace(".q_proj.", ".qkv."))] = torch.cat(parts)
    return converted | {_rename_layer(name): value for name, value in state.items()}


def _rename_layer(name: str) -> str:
    return name.replace("att_layers.layers.", "layers.").replace(".att.out_proj.", ".proj.").replace(".att.", ".")


def _rename_resnet(name: str) -> str:
    return re.sub(r"^backbone\.resnet_layer\.(\d)\.", lambda match: f"backbone.{RESNET_PARTS[match[1]]}.", name)


def infer(state: dict[str, Tensor]) -> Fields:
    """Read what converted weights tell: backbone, head, samples, light or heavy, and the number of classes."""
    embedding = state.get("backbone.model.patch_embed.proj.weight")
    backbone = network_of(state, "backbone.") if embedding is None else SWINS.get(len(embedding))
    if backbone is None:
        return {}
    if "head.layers.0.qkv.weight" in state:
        samples, classes, _ = state["head.weight"].shape
        head = {"classifier": "interventional", "samples": samples, "heavy": "head.out_proj.weight" in state}
    elif "head.fc.weight" in state:
        classes, head = len(state["head.fc.weight"]), {"classifier": "linear"}
    else:
        return {}
    return {"backbone": backbone, "num_classes": classes, **head}


def coco_to_voc(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep COCO's classifiers of VOC's 20 classes, in VOC's order, in converted weights."""
    axes = {"head.weight": 1, "head.fc.weight": 0, "head.fc.bias": 0}
    rows = torch.tensor(COCO_TO_VOC)
    return {
        name: value.index_select(axes[name], rows) if name in axes and value.shape[axes[name]] == 80 else value
        for name, value in state.items()
    }
