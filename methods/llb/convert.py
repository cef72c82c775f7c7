"""Published names -> ours: timm's ViT and MAE's, SWAG's own and torchvision's port, LLB's training checkpoints.

Also the loading of a backbone by itself, which no missing or misshapen key survives. Weights of timm's other vision
transformers (`--backbone`) go by timm's rules: its names, those of their first publishers, position embeddings
resampled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.methods.engine.backbones import fit_weights
from attnbias.methods.engine.types import Fields
from attnbias.methods.engine.vit_stem import stem_of
from attnbias.methods.llb.model import HEADS, LLB
from attnbias.methods.llb.recipe import SIZES
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict

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

    What names and shapes cannot tell apart (augreg from SWAG, both token-pooled; demo from mini; timm's other networks,
    some of them of the same sizes) is left to the recipe's name and to flags.
    """
    taken_in = stem_of(state, "backbone.")
    if taken_in is None or not {"branch.objects.embeddings", "branch.head.bias"} <= state.keys():
        return {}
    fields: Fields = {
        "objects": len(state["branch.objects.embeddings"]),
        "num_nv_layers": _depth(state, "branch.blocks."),
        "num_classes": len(state["branch.head.bias"]),
    }
    patch, stem = taken_in
    positions, depth = state.get("backbone.pos_embed", torch.empty(0, 0, 0)), _depth(state, "backbone.blocks.")
    known = (patch, positions.shape[-1], depth)
    if sizes := [name for name, vit in SIZES.items() if (vit.patch, vit.dim, vit.depth) == known]:
        fields |= {"stem": stem, "image_size": round((positions.shape[1] - 1) ** 0.5) * patch}
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
    """Parameters of the branch, which no backbone file holds, and of a classifier that is trained."""
    ignored: tuple[str, ...]
    """Names of the file that the model has no place for."""
    resampled: tuple[str, ...] = ()
    """Those whose shape depends on the image size, and was another one."""

    def __str__(self) -> str:
        ignored = f" ({', '.join(self.ignored[:5])}{' ...' if len(self.ignored) > 5 else ''})" if self.ignored else ""
        counts = f"{len(self.loaded)} loaded, {len(self.fresh)} fresh, {len(self.ignored)} ignored{ignored}"
        head = "; its classifier is new" if any(name.startswith(CLASSIFIER) for name in self.fresh) else ""
        sized = f"; resampled: {', '.join(self.resampled)}" if self.resampled else ""
        return f"backbone: {counts}{head}{sized}"


CLASSIFIER = tuple(f"backbone.{name}." for name in HEADS)


def load_backbone(model: LLB, state: dict[str, Tensor], path: Path) -> LoadReport:
    """Fill the backbone from a published file; the branch stays fresh, and a classifier that trains where the file has
    none, or one of other classes.

    Raises:
        WeightsError: a backbone key is missing (a MAE pre-training file has no head and no fc_norm) or has another
        shape, or numbers are NaN or infinite.
    """
    given = convert(state) if model.family else under_backbone(state)
    converted = fit_resolution(model, given)
    own = model.state_dict()
    wanted = {name for name in own if name.startswith("backbone.")}
    problems = {name: f"{name} is missing" for name in sorted(wanted - converted.keys())}
    problems |= {
        name: f"{name} has shape {tuple(converted[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(wanted & converted.keys())
        if converted[name].shape != own[name].shape
    }
    unfit = {name for name in problems if name.startswith(CLASSIFIER)}
    if unfit and model.trains_visual:
        wanted = {name for name in wanted if not name.startswith(CLASSIFIER)}
        problems = {name: words for name, words in problems.items() if name not in unfit}
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        mend = "give weights that were fine-tuned on the same classes and size"
        if problems.keys() == unfit:
            mend += ", or train a classifier on the frozen features with --visual-weight 1"
        of = f"family {model.family}" if model.family else "this network"
        raise WeightsError(
            f"{path} is not a complete backbone of {of}: {'; '.join(list(problems.values())[:6])}{more}; {mend}"
        )
    loaded = {name: converted[name] for name in wanted}
    load_strict(model, loaded, path, fresh=own.keys() - wanted)
    return LoadReport(
        loaded=tuple(sorted(wanted)),
        fresh=tuple(name for name in own if name not in wanted),
        ignored=tuple(name for name in converted if name not in wanted),
        resampled=tuple(sorted(n for n in loaded if n in given and given[n].shape != loaded[n].shape)),
    )


def under_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's weights under the names that they have in ours; those of one of our models stay."""
    ours = any(name.startswith("backbone.") for name in state)
    return state if ours else {f"backbone.{name}": value for name, value in state.items()}


def fit_resolution(model: LLB, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize what depends on the image size: SWAG's position embedding as its program does, timm's others as timm does.

    The paper's other families must fit.
    """
    if model.family is None:
        parts = {name.removeprefix("backbone."): v for name, v in state.items() if name.startswith("backbone.")}
        others = {name: value for name, value in state.items() if not name.startswith("backbone.")}
        return others | under_backbone(fit_weights(model.backbone, model.backbone, parts))
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
