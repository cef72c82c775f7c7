"""Published names -> ours: timm's ViT and MAE's, SWAG's own and torchvision's port, LLB's training checkpoints.

Also the loading of a backbone by itself, which no missing or misshapen key survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.methods.engine.types import Fields
from attnbias.methods.engine.vit_stem import stem_of
from attnbias.methods.llb.model import LLB
from attnbias.methods.llb.recipe import SIZES
from attnbias.weights.errors import WeightsError

Rules = tuple[tuple[str, str], ...]

# Tried in order; the first that matches a name's beginning decides what it becomes.
TIMM: Rules = (
    (r"nv_blocks\.0\.nv_cluster\.nv_extractor\.nv_extractor\.", "branch.objects.extractor."),
    (r"nv_blocks\.0\.nv_cluster\.nv_embeddings$", "branch.objects.embeddings"),
    (r"nv_blocks\.0\.nv_cluster\.cls_token_nv$", "branch.token"),
    (r"nv_blocks\.", "branch.blocks."),
    (r"norm_nv\.", "branch.norm."),
    (r"nv_head\.", "branch.head."),
    (r"(?=(cls_token|pos_embed)$|(patch_embed|blocks|norm|fc_norm|head)\.)", "backbone."),
)
SWAG: Rules = (
    (r"encoder\.nv_layers\.nvlayer_0\.nv_cluster\.nv_extractor\.nv_extractor\.", "branch.objects.extractor."),
    (r"encoder\.nv_layers\.nvlayer_0\.nv_cluster\.nv_embeddings$", "branch.objects.embeddings"),
    (r"encoder\.nv_layers\.nvlayer_0\.nv_cluster\.cls_token_nv$", "branch.token"),
    (r"encoder\.nv_layers\.(?:nvlayer|layer)_(\d+)\.", r"branch.blocks.\1."),
    (r"encoder\.nv_ln\.", "branch.norm."),
    (r"nv_head\.layers\.head\.", "branch.head."),
    (r"class_token$", "backbone.cls_token"),
    (r"conv_proj\.", "backbone.patch_embed.proj."),
    (r"encoder\.pos_embedding$", "backbone.pos_embed"),
    (r"encoder\.layers\.(?:encoder_layer|layer)_(\d+)\.", r"backbone.blocks.\1."),
    (r"encoder\.ln\.", "backbone.norm."),
    (r"(?:head\.layers\.head|heads\.head)\.", "backbone.head."),
)
# Inside a SWAG block; torchvision's MLP was renamed from linear_1/linear_2 to 0/3.
SWAG_BLOCK: Rules = (
    (r"ln_([12])\.", r"norm\1."),
    (r"self_attention\.in_proj_", "attn.qkv."),
    (r"self_attention\.out_proj\.", "attn.proj."),
    (r"mlp\.(?:linear_1|0)\.", "mlp.fc1."),
    (r"mlp\.(?:linear_2|3)\.", "mlp.fc2."),
)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate a published state dict, of a backbone or of all of LLB; unknown names stay, to be reported."""
    if any(name.startswith(("backbone.", "branch.")) for name in state):
        return state
    swag = "conv_proj.weight" in state
    converted = {}
    for name, value in state.items():
        new = _rename(name, SWAG if swag else TIMM)
        if swag and (inside := re.fullmatch(r"(\w+\.blocks\.\d+\.)(.+)", new)):
            new = inside[1] + _rename(inside[2], SWAG_BLOCK)
        if swag and new == "backbone.pos_embed" and value.shape[1] == 1:
            value = value.transpose(0, 1)  # SWAG's own is sequence first: (S, 1, D) -> (1, S, D)
        converted[new] = value
    return converted


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        renamed, found = re.subn("^" + pattern, replacement, name)
        if found:
            return renamed
    return name


def infer(state: dict[str, Tensor]) -> Fields:
    """Read recipe fields and the number of classes from a converted LLB state dict; {} where it is none.

    What names and shapes cannot tell apart (augreg from SWAG, both token-pooled; demo from mini) is left to the
    recipe's name.
    """
    taken_in = stem_of(state, "backbone.")
    if taken_in is None or not {"branch.objects.embeddings", "backbone.pos_embed"} <= state.keys():
        return {}
    patch, stem = taken_in
    dim, depth = state["backbone.pos_embed"].shape[-1], _depth(state, "backbone.blocks.")
    sizes = [name for name, vit in SIZES.items() if (vit.patch, vit.dim, vit.depth) == (patch, dim, depth)]
    if not sizes:
        raise WeightsError(f"no ViT of width {dim}, depth {depth} and patch {patch} is among: {', '.join(SIZES)}")
    side = round((state["backbone.pos_embed"].shape[1] - 1) ** 0.5)
    fields: Fields = {
        "stem": stem,
        "image_size": side * patch,
        "objects": len(state["branch.objects.embeddings"]),
        "num_nv_layers": _depth(state, "branch.blocks."),
        "num_classes": len(state["branch.head.bias"]),
    }
    if len(sizes) == 1:  # the number of heads cannot be told
        fields["size"] = sizes[0]
    if "backbone.fc_norm.weight" in state:
        fields["family"] = "mae"
    return fields


def _depth(state: Iterable[str], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


@dataclass(frozen=True)
class LoadReport:
    """What became of a backbone file."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    """Parameters of the branch, which no backbone file holds."""
    ignored: tuple[str, ...]
    """Names of the file that the model has no place for."""

    def __str__(self) -> str:
        ignored = f" ({', '.join(self.ignored[:5])}{' ...' if len(self.ignored) > 5 else ''})" if self.ignored else ""
        return f"backbone: {len(self.loaded)} loaded, {len(self.fresh)} fresh, {len(self.ignored)} ignored{ignored}"


def load_backbone(model: LLB, state: dict[str, Tensor], path: Path) -> LoadReport:
    """Fill the backbone from a published file; the branch stays fresh.

    Raises:
        WeightsError: a backbone key is missing (a MAE pre-training file has no head and no fc_norm) or has another
        shape.
    """
    converted = fit_resolution(model, convert(state))
    own = model.state_dict()
    wanted = {name for name in own if name.startswith("backbone.")}
    problems = [f"{name} is missing" for name in sorted(wanted - converted.keys())]
    problems += [
        f"{name} has shape {tuple(converted[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(wanted & converted.keys())
        if converted[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise WeightsError(
            f"{path} is not a complete backbone of family {model.family}: {'; '.join(problems[:6])}{more}; "
            "give weights that were fine-tuned on the same classes and size"
        )
    loaded = {name: converted[name] for name in wanted}
    model.load_state_dict(loaded, strict=False)
    return LoadReport(
        loaded=tuple(sorted(wanted)),
        fresh=tuple(name for name in own if name not in wanted),
        ignored=tuple(name for name in converted if name not in wanted),
    )


def fit_resolution(model: LLB, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize SWAG's position embedding to the model's image size, as its program does; other families' must fit."""
    name = "backbone.pos_embed"
    if model.family != "swag" or name not in state:
        return state
    return {**state, name: resize_pos_embed(state[name], model.state_dict()[name].shape[1])}


def resize_pos_embed(embedding: Tensor, tokens: int) -> Tensor:
    """Resize a position embedding (1, S, D) to `tokens` tokens: class row kept, grid bicubic with corners aligned."""
    if embedding.shape[1] == tokens:
        return embedding
    old, new = (round((count - 1) ** 0.5) for count in (embedding.shape[1], tokens))
    grid = embedding[:, 1:].transpose(1, 2).unflatten(2, (old, old))  # (1, D, h, w)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
