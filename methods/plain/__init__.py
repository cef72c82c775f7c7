"""A classifier as it is: the diagnosis before the cure. What the engine calls; the rest stands beside it."""

from __future__ import annotations

from typing import Any, ClassVar

from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description
from attnbias.methods.plain.recipe import RECIPES, PlainRecipe


class PlainDescription(Description):
    """Any classifier of timm or torchvision with its own head: what every paper's method is compared with."""

    name = "plain"
    title = "A classifier as it is"
    paper = Citation(  # how one looks into it: a network of its own it has not
        key="selvaraju2017gradcam",
        authors=(
            "Selvaraju, Ramprasaath R.",
            "Cogswell, Michael",
            "Das, Abhishek",
            "Vedantam, Ramakrishna",
            "Parikh, Devi",
            "Batra, Dhruv",
        ),
        title="Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        conference="ICCV",
        year=2017,
        page="https://arxiv.org/abs/1610.02391",
        program="https://github.com/ramprs/grad-cam",
    )
    recipe_type = PlainRecipe
    matches_classes = True
    recipes = RECIPES
    untold = ("backbone", "image_size", "normalize", "interpolation", "crop_ratio")
    maps: ClassVar[dict[str, str]] = {
        "features": "Length of the feature vector at each location; the same for every class.",
    }

    def default_map(self, recipe: Any) -> str:
        """Grad-CAM: features alone know no class."""
        return "gradcam"


DESCRIPTION = PlainDescription()
