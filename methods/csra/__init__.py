"""CSRA: class-specific residual attention (Zhu and Wu, ICCV 2021). What the engine calls; the rest stands beside it."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.csra.recipe import RECIPES, CSRARecipe
from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description


class CSRADescription(Description):
    """Multi-label classification in which each class attends to its own part of the image."""

    name = "csra"
    title = "Class-specific residual attention (CSRA)"
    paper = Citation(
        key="zhu2021residual",
        authors=("Zhu, Ke", "Wu, Jianxin"),
        title="Residual Attention: A Simple but Effective Method for Multi-Label Recognition",
        conference="ICCV",
        year=2021,
        page="https://arxiv.org/abs/2108.02456",
        program="https://github.com/Kevinz-code/CSRA",
    )
    suggested_for = "looks"
    recipe_type = CSRARecipe
    recipes = RECIPES
    untold = ("image_size", "normalize", "lam")
    maps: ClassVar[dict[str, str]] = {
        "score": "Score of the class at each location, negative ones as 0; mean over the heads, or --head.",
        "attention": "Softmax over locations that the class attends with; mean over the heads, or --head.",
    }


DESCRIPTION = CSRADescription()
