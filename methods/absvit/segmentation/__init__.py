"""AbSViT for semantic segmentation (Shi, Darrell, Wang, CVPR 2023, section 4.4): top-down attention below UperNet."""

from __future__ import annotations

from typing import ClassVar

from attnbias.data.index import Task
from attnbias.methods.absvit import PAPER
from attnbias.methods.absvit.segmentation.recipe import RECIPES, SegmentationRecipe
from attnbias.methods.engine.description import Description


class SegmentationDescription(Description):
    """The class of each pixel, from a vision transformer's two passes and UperNet."""

    name = "absvit-segmentation"
    title = "AbSViT for semantic segmentation, with UperNet"
    paper = PAPER
    recipe_type = SegmentationRecipe
    recipes = RECIPES
    maps: ClassVar[dict[str, str]] = {
        "class": "Probability that each patch is of the asked class.",
        "rollout": "Where the patches of the asked class draw from: attention rollout of the second pass.",
        "prompt": "Token norms after three quarters of the second pass, their top 30 % (a plain ViT: of its pass).",
        "bottom-up": "The same of the first pass.",
        "prompt-mask": "What the learned prompt lets through to the second pass, top 30 % of its range.",
    }

    def monitor(self, task: Task) -> str:
        """Mean intersection over union."""
        return "mIoU"


DESCRIPTION = SegmentationDescription()
