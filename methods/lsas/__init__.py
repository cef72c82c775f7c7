"""LSAS: sub-attention behind the attention logits of SENet and its kin (Zhong et al., ICME 2023)."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.engine.description import Description
from attnbias.methods.lsas.recipe import RECIPES, LSASRecipe


class LSASDescription(Description):
    """Lightweight sub-attention strategy."""

    name = "lsas"
    title = "Lightweight sub-attention strategy (LSAS)"
    paper = "Zhong, Wen, Qin, Chen, Huang: LSAS, ICME 2023, arXiv 2305.05200"
    recipe_type = LSASRecipe
    recipes = RECIPES
    maps: ClassVar[dict[str, str]] = {
        "cam": "Class activation map of the last stage: the share of each place in the class's logit.",
        **{f"gradcam-layer{stage}": f"Grad-CAM of stage {stage}." for stage in (1, 2, 3, 4)},
    }


DESCRIPTION = LSASDescription()
