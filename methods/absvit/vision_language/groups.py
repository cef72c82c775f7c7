"""Which parameters learn, at which rate, and with which decay: decided by their names, as in the authors' program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from attnbias.methods.absvit.vision_language.recipe import VisionLanguageRecipe

NO_DECAY = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")
HEADS = ("vqa_classifier", "snli_classifier", "nlvr2_classifier", "itm_score")
STEERING = ("decoder", "prompt", "head")
"""What still learns of the vision transformer when the backbone is frozen."""


class Group(NamedTuple):
    """Parameters with one rate and one decay."""

    lr: float
    weight_decay: float
    names: list[str]


def grouped(names: Iterable[str], recipe: VisionLanguageRecipe) -> list[Group]:
    """Sort parameter names into the program's groups: the rest, the head, the fusion, the feedback; each with decay,
    then without. Groups without a name are left out.

    The program has no group for what is of the feedback and without decay (the prompt decoder's bias), so that it never
    learns; `legacy_groups` does the same.
    """
    factors = (1.0, recipe.lr_head, recipe.lr_fusion, recipe.lr_feedback)
    parts: dict[tuple[int, bool], list[str]] = {(part, bare): [] for part in range(4) for bare in (False, True)}
    for name in names:
        parts[_part(name), any(word in name for word in NO_DECAY)].append(name)
    if recipe.legacy_groups:
        del parts[3, True]
    return [
        Group(recipe.lr * factors[part], 0.0 if bare else recipe.weight_decay, found)
        for (part, bare), found in parts.items()
        if found
    ]


def _part(name: str) -> int:
    """0 = the rest, 1 = head, 2 = fusion, 3 = feedback."""
    if any(word in name for word in HEADS):
        return 1
    if "cross_modal" in name:
        return 2
    return 3 if "decode" in name else 0


def frozen(name: str, recipe: VisionLanguageRecipe) -> bool:
    """Whether a parameter never learns: all but the steering of a frozen backbone, and retrieval's matching head."""
    if recipe.task == "retrieval" and name.startswith("itm_score."):
        return True
    if not recipe.freeze_backbone:
        return False
    steering = any(word in name for word in STEERING)
    return name.startswith("text_transformer.") or (name.startswith("vit_model.") and not steering)
