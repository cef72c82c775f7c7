"""LLB (Kang et al., ICLR 2024): a frozen vision transformer and a branch whose objects labels alone arrange."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description
from attnbias.methods.llb.recipe import RECIPES, LLBRecipe


class LLBDescription(Description):
    """Label-focused latent-object biasing."""

    name = "llb"
    title = "LLB: label-focused latent-object biasing on frozen ViT, MAE and SWAG"
    paper = Citation(
        key="kang2024labelfocused",
        authors=("Kang, Ilmin", "Bae, HyounYoung", "Kim, Kangil"),
        title="Label-Focused Inductive Bias over Latent Object Features in Visual Classification",
        conference="ICLR",
        year=2024,
        page="https://openreview.net/forum?id=cH3oufN8Pl",
        program="https://github.com/GIST-IRR/LLB",
    )
    recipe_type = LLBRecipe
    recipes = RECIPES
    backbones = "vision transformers"
    untold = ("image_size", "normalize", "temperature")
    maps: ClassVar = {
        "branch": "class token of the label-focused branch to patches, last block (mean over heads, or one --head)",
        "visual": "class token of the visual branch to patches, last block (mean over heads, or one --head); "
        "without a class token, what its patches take from each other",
        "objects": "share of each patch's strongest latent object, or of object number --head",
    }


DESCRIPTION = LLBDescription()
