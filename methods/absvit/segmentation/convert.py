"""Published weights: MMSegmentation's training files, ImageNet's as a start, position embeddings of another size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from attnbias.methods.absvit.convert import resize_pos_embed
from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.absvit.segmentation.model import DenseViT, Segmenter
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import match_state

POSITIONS = "backbone.pos_embed"


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as it is: MMSegmentation's names are ours."""
    return state


def infer(state: dict[str, Tensor]) -> dict[str, Any]:
    """Tell the architecture, the second pass, prompts, sizes and classes; {} where these are not our weights."""
    needed = {POSITIONS, "backbone.patch_embed.proj.weight", "decode_head.conv_seg.weight"}
    if not {*needed, "auxiliary_head.conv_seg.weight"} <= state.keys():
        return {}
    width, _, patch, _ = state["backbone.patch_embed.proj.weight"].shape
    depth = sum(name.startswith("backbone.") and name.endswith(".attn.qkv.weight") for name in state)
    pool = "avg" if "backbone.fc_norm.weight" in state else "token"
    wanted = {"patch_size": patch, "embed_dim": width, "depth": depth, "global_pool": pool}
    known = [name for name, options in ARCHITECTURES.items() if wanted.items() <= options.items()]
    if not known:
        return {}
    classes, channels = state["decode_head.conv_seg.weight"].shape[:2]
    fields = {
        "architecture": known[0],
        "top_down": "backbone.prompt" in state,
        "image_size": patch * math.isqrt(state[POSITIONS].shape[1] - 1),
        "channels": channels,
        "aux_channels": state["auxiliary_head.conv_seg.weight"].shape[1],
        "num_classes": classes,
    }
    if (prompts := state.get("backbone.prompt_embeddings")) is not None:
        deep = "backbone.deep_prompt_embeddings" in state
        fields |= {"transfer": "prompt", "prompt_tokens": prompts.shape[1], "deep_prompts": deep}
    return fields


def fit_resolution(model: Segmenter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize the position embedding in a whole model's `state` to the model's patch grid."""
    if POSITIONS not in state:
        return state
    return {**state, POSITIONS: fit_positions(model.backbone, state[POSITIONS])}


def fit_positions(backbone: DenseViT, given: Tensor) -> Tensor:
    """Resize a position embedding (1, 1 + n * n, C) to the backbone's patch grid where their numbers differ."""
    own = cast(Tensor, backbone.pos_embed)
    if given.shape == own.shape or given.shape[-1] != own.shape[-1]:
        return given
    return resize_pos_embed(given, backbone.patch_embed.grid_size)


def start_from_classifier(backbone: DenseViT, state: dict[str, Tensor], path: Path) -> list[str]:
    """Load an ImageNet model's weights (or the backbone of a segmenter) and return the names that stay fresh.

    Those are AbSViT's prompt and decoders where a plain ViT is loaded, and visual prompts. The classifier is dropped.

    Raises:
        WeightsError: any other tensor lacks, is too many, or has another shape.
    """
    if POSITIONS in state:
        state = {n.removeprefix("backbone."): value for n, value in state.items() if n.startswith("backbone.")}
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "head_dist."))}
    if "pos_embed" in state:
        state["pos_embed"] = fit_positions(backbone, state["pos_embed"])
    own = backbone.state_dict()
    added = ("prompt", "decoders.", "prompt_embeddings", "deep_prompt_embeddings")
    fresh = [name for name in own if name.startswith(added) and name not in state]
    state |= {name: own[name] for name in fresh}
    if not (match := match_state(own, state)):
        raise WeightsError(f"{path} does not fit the backbone: {match}")
    backbone.load_state_dict(state)
    return fresh
