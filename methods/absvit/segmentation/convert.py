"""Published weights: MMSegmentation's training files, whose names are ours, and ImageNet's as a start; position
embeddings of another size."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from attnbias.methods.absvit.convert import architecture_of
from attnbias.methods.absvit.convert import fit_resolution as fit_vision
from attnbias.methods.absvit.segmentation.model import DenseViT, Segmenter
from attnbias.methods.engine.types import Fields
from attnbias.weights.files import load_start

POSITIONS = "backbone.pos_embed"


def infer(state: dict[str, Tensor]) -> Fields:
    """Tell the architecture, the second pass, prompts, sizes and classes; {} where these are not our weights."""
    needed = {POSITIONS, "backbone.patch_embed.proj.weight", "decode_head.conv_seg.weight"}
    if not {*needed, "auxiliary_head.conv_seg.weight"} <= state.keys():
        return {}
    architecture = architecture_of(state, "backbone.")
    if architecture is None:
        return {}
    patch = state["backbone.patch_embed.proj.weight"].shape[-1]
    classes, channels = state["decode_head.conv_seg.weight"].shape[:2]
    fields = {
        "architecture": architecture,
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
    return fit_vision(model.backbone, state, POSITIONS)


def start_from_classifier(backbone: DenseViT, state: dict[str, Tensor], path: Path) -> list[str]:
    """Load an ImageNet model's weights (or the backbone of a segmenter) and return the names that stay fresh.

    Those are AbSViT's prompt and decoders where a plain ViT is loaded, and visual prompts. The classifier is dropped.

    Raises:
        WeightsError: any other tensor is missing, is too many, has another shape, or holds numbers that are NaN or
        infinite.
    """
    if POSITIONS in state:
        state = {n.removeprefix("backbone."): value for n, value in state.items() if n.startswith("backbone.")}
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "head_dist."))}
    fresh = ("prompt", "decoders.", "prompt_embeddings", "deep_prompt_embeddings")
    return load_start(backbone, fit_vision(backbone, state), path, fresh=fresh)
