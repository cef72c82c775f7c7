"""LLB (Kang et al., ICLR 2024): a frozen vision transformer and a branch whose objects labels alone arrange."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.engine.description import Description
from attnbias.methods.llb.recipe import RECIPES, LLBRecipe


class LLBDescription(Description):
    """Label-focused latent-object biasing."""

    name = "llb"
    title = "LLB: label-focused latent-object biasing on frozen ViT, MAE and SWAG"
    paper = "Kang et al., Label-focused Latent-object Biasing, ICLR 2024, OpenReview cH3oufN8Pl"
    recipe_type = LLBRecipe
    recipes = RECIPES
    untold = ("image_size", "normalize", "temperature")
    maps: ClassVar = {
        "branch": "class token of the label-focused branch to patches, last block (mean over heads, or one --head)",
        "visual": "class token of the visual branch to patches, last block (mean over heads, or one --head)",
        "objects": "share of each patch's strongest latent object, or of object number --head",
    }


DESCRIPTION = LLBDescription()
