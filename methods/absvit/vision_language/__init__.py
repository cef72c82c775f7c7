"""AbSViT asked about images in words: questions, entailment, statements about two images, retrieval.

A second method of the same paper; `attnbias train absvit --task vqa` leads here.
"""

from __future__ import annotations

from typing import ClassVar

from attnbias.data.index import Task
from attnbias.methods.absvit import PAPER
from attnbias.methods.absvit.vision_language.recipe import RECIPES, VisionLanguageRecipe
from attnbias.methods.engine.description import Description


class VisionLanguageDescription(Description):
    """METER's fusion on an AbSViT whose second pass the text steers."""

    name = "absvit-vision-language"
    title = "Top-down attention from analysis by synthesis (AbSViT), steered by language"
    paper = PAPER
    recipe_type = VisionLanguageRecipe
    recipes = RECIPES
    maps: ClassVar[dict[str, str]] = {
        "attention": "Attention of the class token in the last block of the pass that is fused, summed over heads.",
        "shown": "The same as the program draws it: what stands above the middle of its range.",
        "mask": "What the text lets through to the second pass: its similarity with each patch.",
    }
    reads_texts = True
    steered_maps = ("attention", "shown", "mask")

    def default_maps(self, recipe: VisionLanguageRecipe) -> tuple[str, ...]:
        """The mask beside the attention, where the text steers the image's side."""
        return ("mask", "attention") if recipe.top_down else ("attention",)

    def monitor(self, task: Task) -> str:
        """The program's: VQA score, accuracy, or the sum of both recalls at 1."""
        return {"vqa": "vqa_score", "retrieval": "r1_sum"}.get(task, "accuracy")


DESCRIPTION = VisionLanguageDescription()
