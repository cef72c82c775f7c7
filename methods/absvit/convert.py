"""Published weights: what their names and shapes tell, position embeddings of another size, DeiT's as a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import match_state


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the distillation head of DeiT's distilled files; all other published names are ours."""
    return {name: value for name, value in state.items() if not name.startswith("head_dist.")}


def infer(state: dict[str, Tensor]) -> dict[str, Any]:
    """Tell the architecture, the second pass and the number of classes; {} where these are not our weights."""
    if not {"pos_embed", "patch_embed.proj.weight", "head.weight"} <= state.keys():
        return {}
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = sum(name.endswith(".attn.qkv.weight") for name in state)
    pool = "avg" if "fc_norm.weight" in state else "token"
    wanted = {"patch_size": patch, "embed_dim": width, "depth": depth, "global_pool": pool}
    for name, options in ARCHITECTURES.items():
        if wanted.items() <= options.items():
            return {"architecture": name, "top_down": "prompt" in state, "num_classes": len(state["head.weight"])}
    return {}


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize (1, 1 + n * n, C) to a grid of (h, w) patches, the class token's entry kept: bicubic, no antialias."""
    return resample_abs_pos_embed(pos_embed, list(grid), num_prefix_tokens=1, antialias=False)


def fit_resolution(model: VisionTransformer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize the position embedding in `state` to the model's patch grid where the numbers of patches differ."""
    own, given = model.state_dict()["pos_embed"], state.get("pos_embed")
    if given is None or given.shape == own.shape or given.shape[-1] != own.shape[-1]:
        return state
    return {**state, "pos_embed": resize_pos_embed(given, model.patch_embed.grid_size)}


def start_from_deit(model: VisionTransformer, state: dict[str, Tensor], path: Path) -> list[str]:
    """Load a plain ViT's weights (DeiT's) and return the names of the tensors that keep their fresh values.

    These are the prompt, the decoders' matrices (25 tensors in a 12-block AbSViT), and the head where the number of
    classes differs.

    Raises:
        WeightsError: any other tensor lacks, is too many, or has another shape (DeiT's patches are 16 pixels).
    """
    own = model.state_dict()
    fresh = {name for name in own if name == "prompt" or name.startswith("decoders.")} - state.keys()
    if "head.weight" not in state or state["head.weight"].shape != own["head.weight"].shape:
        fresh |= {"head.weight", "head.bias"}
    state = {**fit_resolution(model, convert(state)), **{name: own[name] for name in fresh}}
    if not (match := match_state(own, state)):
        raise WeightsError(f"{path} does not fit the backbone: {match}")
    model.load_state_dict(state)
    return [name for name in own if name in fresh]
