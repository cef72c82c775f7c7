"""Published weights: what their names and shapes tell, position embeddings of another size, DeiT's as a start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.engine.types import Fields
from attnbias.methods.engine.vit_stem import stem_of
from attnbias.weights.files import load_start


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the distillation head of DeiT's distilled files; all other published names are ours."""
    return {name: value for name, value in state.items() if not name.startswith("head_dist.")}


def infer(state: dict[str, Tensor]) -> Fields:
    """Tell the architecture, its stem, the second pass and the number of classes; {} where they are not our weights.
    Which of timm's other networks it is, weights do not tell."""
    taken_in = stem_of(state)
    if taken_in is None or not {"pos_embed", "head.weight"} <= state.keys():
        return {}
    top_down = "prompt" in state
    name = architecture_of(state)
    if name is None and not top_down:
        return {}
    told: Fields = {"top_down": top_down, "num_classes": len(state["head.weight"])}
    return told if name is None else told | {"architecture": name, "stem": taken_in[1]}


def architecture_of(state: Mapping[str, Tensor], prefix: str = "", pooled: bool = True) -> str | None:
    """The first architecture of the sizes of a ViT's weights, whose names begin with `prefix`; None for other sizes.

    `fc_norm` tells how it pools, where it has pooled at all (`pooled`).
    """
    if (taken_in := stem_of(state, prefix)) is None:
        return None
    width = state[f"{prefix}pos_embed"].shape[-1]
    depth = sum(name.startswith(prefix) and name.endswith(".attn.qkv.weight") for name in state)
    wanted: Fields = {"patch_size": taken_in[0], "embed_dim": width, "depth": depth}
    if pooled:
        wanted["global_pool"] = "avg" if f"{prefix}fc_norm.weight" in state else "token"
    return next((name for name, options in ARCHITECTURES.items() if wanted.items() <= options.items()), None)


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Resize (1, `prefix` + n * n, C) to a grid of (h, w) patches, the entries of prefix tokens, as the class token,
    kept: bicubic, no antialias."""
    return resample_abs_pos_embed(pos_embed, list(grid), num_prefix_tokens=prefix, antialias=False)


def fit_resolution(model: VisionTransformer, state: dict[str, Tensor], name: str = "pos_embed") -> dict[str, Tensor]:
    """Resize the position embedding, `name` in `state`, to the model's patch grid where it has another size."""
    own, given = model.state_dict()["pos_embed"], state.get(name)
    if given is None or given.shape == own.shape or given.shape[-1] != own.shape[-1]:
        return state
    height, width = model.patch_embed.grid_size
    return {**state, name: resize_pos_embed(given, (height, width), own.shape[1] - height * width)}


def start_from_deit(model: VisionTransformer, state: dict[str, Tensor], path: Path) -> list[str]:
    """Load a plain ViT's weights (DeiT's) and return the names of the tensors that keep their fresh values.

    These are the prompt, the decoders' matrices (25 tensors in a 12-block AbSViT), and the head where the number of
    classes differs.

    Raises:
        WeightsError: any other tensor is missing, is too many, has another shape (DeiT's patches are 16 pixels), or
        holds
            numbers that are NaN or infinite.
    """
    head = state.get("head.weight")
    if head is None or head.shape != model.state_dict()["head.weight"].shape:
        state = {name: value for name, value in state.items() if name not in ("head.weight", "head.bias")}
    return load_start(model, fit_resolution(model, convert(state)), path, fresh=("prompt", "decoders.", "head."))


def say_fresh(names: list[str]) -> None:
    """Name the tensors that a start from published weights leaves as they were drawn."""
    if names:
        logging.getLogger(__name__).warning("%d tensors start fresh: %s", len(names), ", ".join(names))
