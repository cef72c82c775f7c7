"""LSAS: sub-attention behind the attention logits of SENet and its kin (Zhong et al., ICME 2023)."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description
from attnbias.methods.lsas.recipe import RECIPES, LSASRecipe


class LSASDescription(Description):
    """Lightweight sub-attention strategy."""

    name = "lsas"
    title = "Lightweight sub-attention strategy (LSAS)"
    paper = Citation(
        key="zhong2023lsas",
        authors=("Zhong, Shanshan", "Wen, Wushao", "Qin, Jinghui", "Chen, Qiangpu", "Huang, Zhongzhan"),
        title="LSAS: Lightweight Sub-attention Strategy for Alleviating Attention Bias Problem",
        conference="ICME",
        year=2023,
        page="https://arxiv.org/abs/2305.05200",
        program="https://github.com/Qrange-group/LSAS",
    )
    recipe_type = LSASRecipe
    recipes = RECIPES
    maps: ClassVar[dict[str, str]] = {
        "cam": "Class activation map of the last stage: the share of each place in the class's logit.",
        **{f"gradcam-layer{stage}": f"Grad-CAM of stage {stage}." for stage in (1, 2, 3, 4)},
    }


DESCRIPTION = LSASDescription()
