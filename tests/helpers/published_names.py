"""Our weights under the names that a paper's own program gives them: the way back from `convert`."""

from __future__ import annotations

from torch import Tensor

State = dict[str, Tensor]


def csra(state: State) -> State:
    """One 1x1 convolution a head."""
    found = {name.removeprefix("backbone."): value for name, value in state.items()}
    for k, rows in enumerate(found.pop("classifier.weight")):
        found[f"classifier.multi_head.{k}.head.weight"] = rows[..., None, None].clone()
    return found


def ida(state: State) -> State:
    """Of a model on a ResNet, which the program keeps as a list; queries, keys and values in three matrices."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    found: State = {}
    for name, value in state.items():
        part, rest = name.split(".", 1)
        if part == "backbone":
            stage, rest = rest.split(".", 1)
            found[f"backbone.resnet_layer.{places[stage]}.{rest}"] = value
        elif rest == "weight":
            found |= {f"clf.head.{n}.weight": weight[..., None, None] for n, weight in enumerate(value)}
        elif ".qkv." in rest:
            layer, leaf = rest.split(".qkv.")
            for projection, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"clf.att_{layer.replace('layers', 'layers.layers')}.att.{projection}_proj.{leaf}"] = piece
        elif ".proj." in rest:
            found["clf.att_layers." + rest.replace(".proj.", ".att.out_proj.")] = value
        else:
            found["clf." + rest.replace("layers.", "att_layers.layers.", 1)] = value
    return found


def llb(state: State) -> State:
    """Of the program's vit family."""
    return {_llb(name): value for name, value in state.items()}


def _llb(name: str) -> str:
    cluster = "nv_blocks.0.nv_cluster."
    for ours, theirs in {
        "backbone.": "",
        "branch.objects.extractor.": cluster + "nv_extractor.nv_extractor.",
        "branch.objects.embeddings": cluster + "nv_embeddings",
        "branch.token": cluster + "cls_token_nv",
        "branch.blocks.": "nv_blocks.",
        "branch.norm.": "norm_nv.",
        "branch.head.": "nv_head.",
    }.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(name)
