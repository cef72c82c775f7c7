"""AbSViT: top-down attention from analysis by synthesis (Shi, Darrell, Wang, CVPR 2023)."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.absvit.recipe import RECIPES, AbSViTRecipe
from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description

PAPER = Citation(
    key="shi2023topdown",
    authors=("Shi, Baifeng", "Darrell, Trevor", "Wang, Xin"),
    title="Top-Down Visual Attention from Analysis by Synthesis",
    conference="CVPR",
    year=2023,
    page="https://arxiv.org/abs/2303.13043",
    program="https://github.com/bfshi/AbSViT",
)


class AbSViTDescription(Description):
    """A vision transformer with a second pass, steered by a learned prompt or by what a person asks for."""

    name = "absvit"
    title = "Top-down attention from analysis by synthesis (AbSViT)"
    paper = PAPER
    recipe_type = AbSViTRecipe
    recipes = RECIPES
    backbones = "vision transformers"
    steered_maps = ("steered", "class-mask")
    untold = ("image_size", "normalize", "feedback_gain")
    maps: ClassVar[dict[str, str]] = {
        "steered": "Second pass steered by the asked class: token norms after three quarters of it, their top 30 %.",
        "prompt": "The same of the pass that classifies, steered by the learned prompt (a plain ViT: unsteered).",
        "bottom-up": "The same of the first pass.",
        "class-mask": "What the asked class lets through to the second pass: its similarity with each patch.",
        "prompt-mask": "What the learned prompt lets through, top 30 % of its range.",
        "rollout": "Attention rollout through all blocks of the pass that classifies.",
    }

    def default_map(self, recipe: AbSViTRecipe) -> str:
        """Steered by each class; a plain ViT has no second pass to steer."""
        return "steered" if recipe.top_down else "prompt"


DESCRIPTION = AbSViTDescription()
