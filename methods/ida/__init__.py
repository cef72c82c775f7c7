"""IDA: interventional dual attention (Liu et al., ICLR 2023). What the engine calls; the rest stands beside it."""

from __future__ import annotations

from typing import ClassVar

from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.description import Description
from attnbias.methods.ida.recipe import RECIPES, IDARecipe


class IDADescription(Description):
    """Multi-label classification whose attention is sampled several times, against the confounding context."""

    name = "ida"
    title = "Interventional dual attention (IDA)"
    paper = Citation(
        key="liu2023causality",
        authors=("Liu, Ruyang", "Huang, Jingjia", "Li, Thomas H.", "Li, Ge"),
        title="Causality Compensated Attention for Contextual Biased Visual Recognition",
        conference="ICLR",
        year=2023,
        page="https://openreview.net/forum?id=8XqDnrmZQNF",
        program="https://github.com/yu-gi-oh-leilei/IDA_2023ICLR",
        program_by="others than the authors, whose own is not public",
    )
    suggested_for = "relies"
    recipe_type = IDARecipe
    recipes = RECIPES
    untold = ("image_size", "normalize", "beta")
    maps: ClassVar[dict[str, str]] = {
        "spatial": "Class-wise attention over positions, averaged over the samples; --head picks one. CAM if linear.",
        "tokens": "Attention between the samples' tokens in the last layer, or layer --head: N x N, no places.",
    }

    def reference_curves(self, recipe: IDARecipe) -> dict[str, dict[int, float]]:
        """The two published logs, raw and averaged weights, for COCO."""
        from attnbias.methods.ida.curves import reference_curves

        if recipe.dataset != "coco":
            return {}
        table = reference_curves()
        curves: dict[str, dict[int, float]] = {}
        for words, column in (("", "val_mAP"), (", averaged", "val_mAP_ema")):
            for run, epoch, value in zip(table["run"], table["epoch"], table[column], strict=True):
                if isinstance(epoch, float) and isinstance(value, float):
                    curves.setdefault(f"{run}{words}", {})[int(epoch) + 1] = value
        return curves


DESCRIPTION = IDADescription()
