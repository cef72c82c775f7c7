"""What is known of a method without torch: all that the command line and the tables read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from attnbias.data.index import Task
from attnbias.methods.engine.citation import Citation
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.recipe import NamedRecipe, Recipe

AT_LAYER = {
    "gradcam": "Grad-CAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
}
"""Explainers that look at one layer, by the gradients there."""

EXPLAINERS = {
    **AT_LAYER,
    "legrad": "LeGrad of all blocks",
    "rollout": "attention rollout through all blocks",
    "rise": "RISE, of 1,000 random masks",
}
"""Kinds of map that every classifier offers beside its own, so that methods can be compared under one explainer; LeGrad
and rollout where it is a plain vision transformer. Of a name that a method has too, its own map is taken, but for those
of `AT_LAYER`."""


class Description:
    """One paper's method: its name, its recipes, its kinds of map. Stands in the method's `__init__.py`."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Citation]
    recipe_type: ClassVar[type[Recipe]]
    recipes: ClassVar[Mapping[str, NamedRecipe]]
    """Named recipes; the first is the default, the first of a dataset is that dataset's default."""
    maps: ClassVar[Mapping[str, str]]
    """Kinds of map that `attention()` can give -> one line that says what is drawn; the first is the default."""
    untold: ClassVar[tuple[str, ...]] = ("image_size", "normalize")
    """Recipe fields that a model's answers depend on, and that published weights do not always tell."""
    suggested_for: ClassVar[Literal["looks", "relies"] | None] = None
    """What an audit suggests it for: where a model looks, or what it relies on."""
    reads_texts: ClassVar[bool] = False
    """Whether it is asked about images in words (`ReadsTexts` in abilities.py), not by class."""
    steered_maps: ClassVar[tuple[str, ...]] = ()
    """The kinds of map that follow what the model is told to look for (`IsSteered` in abilities.py)."""
    backbones: ClassVar[Literal["any", "vision transformers"]] = "any"
    """The networks that `--backbone` takes."""
    matches_classes: ClassVar[bool] = False
    """Whether it answers about a dataset of other classes than its own, by a class map too (`AnswersAs`)."""

    def explainers(self) -> dict[str, str]:
        """The explainers that are offered beside its own maps: names -> what they are called. They are of classes."""
        if self.reads_texts:
            return {}
        return {name: words for name, words in EXPLAINERS.items() if name in AT_LAYER or name not in self.maps}

    def same_map(self, kind: str, other: Description, of_other: str) -> bool:
        """Whether this kind of map and one of another method are the same thing, and can be held against each other:
        one explainer's, or one method's own."""
        if kind != of_other:
            return False
        return self.name == other.name or (kind in self.explainers() and kind in other.explainers())

    def check_map(self, kind: str, head: int | None = None) -> None:
        """Refuse a kind of map that there is not, and a head of an explainer.

        Raises:
            UsageError: see above.
        """
        explainers = self.explainers()
        known = {**self.maps, **explainers}
        if kind not in known:
            raise UsageError(
                f"method '{self.name}' has no map '{kind}'{did_you_mean(kind, known)}; one of: {', '.join(known)}"
            )
        if kind in explainers and head is not None:
            raise UsageError(f"--map {kind} has no heads; leave --head out")

    def default_maps(self, recipe: Any) -> tuple[str, ...]:
        """The kinds of map that `visualize` draws where none is asked for."""
        return (self.default_map(recipe),)

    def default_map(self, recipe: Any) -> str:
        """The kind of map that `attention` gives where none is asked for."""
        return next(iter(self.maps))

    def monitor(self, task: Task) -> str:
        """The measure (higher is better) that picks the best checkpoint."""
        return "mAP" if task == "multilabel" else "top1"

    def reference_curves(self, recipe: Any) -> Mapping[str, Mapping[int, float]]:
        """Training curves that the authors published for this recipe's dataset: their names -> epoch (from 1) -> the
        measure that decides."""
        return {}

    def named_recipe(self, name: str) -> NamedRecipe:
        """Return a named recipe, or raise UsageError with the nearest name."""
        if name not in self.recipes:
            raise UsageError(
                f"method '{self.name}' has no recipe '{name}'{did_you_mean(name, self.recipes)}; "
                f"see: attnbias list recipes {self.name}"
            )
        return self.recipes[name]

    def default_recipe(self, dataset: str | None = None, task: Task | None = None) -> str:
        """Name of the first recipe for this dataset, else of the first one for this task, else of the first of all.

        The task counts where a method has several, as a field of its recipe.
        """
        of_task = [name for name, named in self.recipes.items() if task in (None, getattr(named.recipe, "task", None))]
        for name in of_task:
            if dataset in (None, self.recipes[name].recipe.dataset):
                return name
        return next(iter(of_task), next(iter(self.recipes)))
