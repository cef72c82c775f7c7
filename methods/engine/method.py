"""The contract between a paper's package and the engine.

A method's `__init__.py` holds one subclass of `Method` and the name METHOD; it imports no torch (heavy modules are
imported inside the verbs). The engine calls only what stands here and knows no method by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attnbias.data.index import Task
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.recipe import NamedRecipe, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from attnbias.data.datasets import PictureDataset
    from attnbias.data.index import Index
    from attnbias.data.pictures import Decode

Batch = dict[str, Any]
"""What the loader gives: image (B, 3, H, W) float32 normalised; target (B, C) float32 with -1 = ignore in multi-label
work or (B,) int64 in single-label work (soft targets (B, C) float32 after mixup); index (B,) int64 sample ids, on the
CPU; errors, what could not be read. A dataset of another task may give more tensors, also in lists and dictionaries; in
evaluation `image` may be a list where sizes differ."""

Schedule = Callable[[int], dict[str, float]]
"""Optimiser step (from 0) -> settings in force at that step: `lr` is a factor on each group's own base learning rate;
`beta1`, where present, replaces Adam's first beta or SGD's momentum. A pure function: resuming cannot shift it."""

BatchTransform = Callable[["Tensor", "Tensor", Any], tuple["Tensor", "Tensor"]]
"""(images, targets, numpy Generator seeded by (seed, step)) -> the same pair, mixed (mixup, cutmix ...)."""


BatchedPictures = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""(pictures (B, 3, H, W) uint8, sample ids (B,), epochs (B,)) -> normalised float32, augmented as each sample's is."""


class Method(ABC):
    """One paper: its recipes, its model, its loss, and where it looks."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    """Authors, venue, year, arXiv or OpenReview id."""
    recipe_type: ClassVar[type[Recipe]]
    recipes: ClassVar[Mapping[str, NamedRecipe]]
    """Named recipes; the first is the default, the first of a dataset is that dataset's default."""
    maps: ClassVar[Mapping[str, str]]
    """Kinds of map that `attention()` can give -> one line that says what is drawn; the first is the default."""
    untold: ClassVar[tuple[str, ...]] = ("image_size", "normalize")
    """Recipe fields that a model's answers depend on, and that published weights do not always tell."""
    reads_texts: ClassVar[bool] = False
    """Whether it is asked about pictures in words: `read_texts`, `text_scores` and `text_attention` then take the place
    of `predict` and `attention` in `visualize`."""

    # What it is made of ----------------------------------------------------------------------------------------------

    @abstractmethod
    def build_model(self, recipe: Any, num_classes: int, task: Task) -> nn.Module:
        """Build the model with fresh weights. `model(images)` (B, 3, H, W) -> logits (B, C)."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, recipe: Any, task: Task) -> dict[str, Tensor]:
        """Return named scalar terms, `loss` among them: a mean over the samples of the batch (times a constant),
        so that shards of a batch can be weighted by their sizes. `model` may be wrapped: call it only as model(...)."""

    def param_groups(self, model: nn.Module, recipe: Any) -> list[dict[str, Any]]:
        """Optimiser groups {"params": [...], "lr": ..., "weight_decay": ...}; default: one group."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": recipe.lr, "weight_decay": recipe.weight_decay}]

    @abstractmethod
    def schedule(self, recipe: Any, steps_per_epoch: int) -> Schedule:
        """The learning-rate schedule as a pure function of the optimiser step; it ends with the run, also where that is
        after `recipe.steps`: take `total_steps` and `epoch_length` from schedules.py."""

    @abstractmethod
    def transform(self, recipe: Any, train: bool) -> Callable[[Any], Any]:
        """PIL picture -> tensor (3, H, W), by the paper's pipeline. The evaluation one also moves tv_tensors boxes."""

    def batched_transform(self, recipe: Any, train: bool) -> BatchedPictures | None:
        """The pipeline of small pictures of one size, on whole batches on the device, with the values of `transform`;
        where a method gives it, splits are kept in memory."""
        return None

    def batch_transform(self, recipe: Any, num_classes: int) -> BatchTransform | None:
        """Mixing of whole training batches, where the recipe asks for it."""
        return None

    def epoch_order(self, recipe: Any, samples: int) -> Callable[[int], NDArray[np.int64]] | None:
        """Epoch (from 0) -> that epoch's sample indices, where the paper does not use a plain shuffle."""
        return None

    def should_stop(self, recipe: Any, history: list[dict[str, Any]]) -> bool:
        """Whether to stop early, asked after each evaluation. `history` holds {"epoch", "raw", "ema"?} with the measure
        that decides; it is asked on the main process and told to all."""
        return False

    def open_dataset(
        self,
        recipe: Any,
        index: Index,
        *,
        train: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> PictureDataset:
        """The samples of a split as the recipe wants them. Its `collate` makes their batches, its length is what an
        evaluation counts; the default is a picture with its labels through `transform`.

        Raises:
            UsageError: the pipeline and the way of decoding do not go together.
        """
        from attnbias.methods.engine.batches import open_pictures

        return open_pictures(self, recipe, index, train=train, on_bad_image=on_bad_image, decode=decode)

    # What it answers -------------------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, images: Tensor, task: Task) -> dict[str, Tensor]:
        """Named arrays with a row a picture, `scores` first: probabilities (B, C), also shown. See `measure_all`."""
        from torch import sigmoid, softmax

        logits = model(images).float()
        return {"scores": sigmoid(logits) if task == "multilabel" else softmax(logits, dim=-1)}

    def answer(self, model: nn.Module, batch: Batch, dataset: PictureDataset, recipe: Any) -> dict[str, Tensor]:
        """What an evaluation keeps of a batch: named arrays with a row a sample, gathered over processes for
        `measure_all`. One called `targets` takes the place of the batch's targets. The default is `predict`."""
        return self.predict(model, batch["image"], dataset.index.task)

    @abstractmethod
    def attention(
        self,
        model: nn.Module,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Where the model looked: (B, K, h, w), non-negative, float32, at the feature resolution.

        `classes` is (K,) or (B, K) int64, None = all classes. `kind` is a name of `maps`; `head` picks one head.
        """

    def label_map(self, model: nn.Module, picture: NDArray[np.uint8], recipe: Any) -> NDArray[np.int64] | None:
        """The class of each pixel of a picture (H, W, 3), as (H, W), where the method tells one."""
        return None

    def panels(self, model: nn.Module, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """What the model did to its channels, where the method has more to show than maps: block -> what is drawn of it
        -> one value in [0, 1] a picture and channel, (B, C)."""
        return {}

    def default_map(self, recipe: Any) -> str:
        """The kind of map that `attention` gives where none is asked for."""
        return next(iter(self.maps))

    def default_maps(self, recipe: Any) -> tuple[str, ...]:
        """The kinds of map that `visualize` draws where none is asked for."""
        return (self.default_map(recipe),)

    def read_texts(self, recipe: Any, texts: Sequence[str], home: Path | None) -> Batch:
        """What a batch holds of these texts, one a picture; `home` is the folder of the recipe's prepared set.

        Raises:
            UsageError: the method is not asked in words, or not about one picture.
        """
        raise UsageError(f"method '{self.name}' is asked by class (--classes), not in words")

    def text_scores(self, model: nn.Module, batch: Batch, task: Task) -> Tensor | None:
        """Probabilities (B, C) of the classes as answers to a batch of pictures and texts; None if there are none."""
        return None

    def text_attention(self, model: nn.Module, batch: Batch, *, kind: str, head: int | None = None) -> Tensor:
        """Where the model looked for each text: (B, h, w), non-negative, float32, at the feature resolution."""
        raise UsageError(f"method '{self.name}' is asked by class (--classes), not in words")

    def gradcam_layer(self, model: nn.Module) -> nn.Module:
        """The layer that `--map gradcam` explains; its output is (B, D, h, w), or (B, N, D) with patch tokens last."""
        raise UsageError(f"method '{self.name}' names no layer for Grad-CAM; use one of: {', '.join(self.maps)}")

    def measure(self, recipe: Any, targets: NDArray[Any], scores: NDArray[Any], task: Task) -> dict[str, Any]:
        """Measures of one set of scores (N, C) against targets (N, C) with -1 = ignore, or (N,) class numbers."""
        from attnbias.methods.engine.evaluation.measures import multilabel_measures, singlelabel_measures

        return multilabel_measures(targets, scores) if task == "multilabel" else singlelabel_measures(targets, scores)

    def measure_all(
        self, recipe: Any, targets: NDArray[Any], scores: Mapping[str, NDArray[Any]], task: Task
    ) -> dict[str, Any]:
        """Measures of everything that `answer` gave for a split: those of `scores`, and of others as NAME/MEASURE."""
        measures: dict[str, Any] = {}
        for name, values in scores.items():
            found = self.measure(recipe, targets, values, task)
            measures |= found if name == "scores" else {f"{name}/{key}": value for key, value in found.items()}
        return measures

    def reference_curves(self, recipe: Any) -> Mapping[str, Mapping[int, float]]:
        """Training curves that the authors published for this recipe's dataset: their names -> epoch (from 1) -> the
        measure that decides."""
        return {}

    def published_log(self, recipe: Any, records: list[dict[str, Any]]) -> tuple[str, str] | None:
        """Name and content of the log that the paper's program writes, as a view of the lines of metrics.jsonl."""
        return None

    def deciding_measure(self, task: Task) -> str:
        """The measure (higher is better) that picks the best checkpoint."""
        return "mAP" if task == "multilabel" else "top1"

    # Published weights -----------------------------------------------------------------------------------------------

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Translate published parameter names into ours (wrapper prefixes are already gone)."""
        return state

    def fit_resolution(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize what depends on the picture's size, such as position embeddings, to what the model was built for."""
        return state

    def fit_classes(self, state: dict[str, Tensor], recipe: Any) -> dict[str, Tensor]:
        """Pick the classifiers of the recipe's classes out of weights that were trained on a set with more classes."""
        return state

    def load_parts(self, model: nn.Module, recipe: Any) -> None:
        """Fill the parts of a fresh model that the recipe itself names weights for, such as a text encoder."""
        return

    def load_backbone(self, model: nn.Module, recipe: Any, state: dict[str, Tensor], path: Path) -> None:
        """Fill the backbone of a fresh model from published backbone weights; every key it needs must be there."""
        raise UsageError(f"method '{self.name}' takes no --backbone-weights")

    def infer(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Recipe fields that converted weights tell by their names and shapes, plus `num_classes`."""
        return {}

    # Recipes ---------------------------------------------------------------------------------------------------------

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
