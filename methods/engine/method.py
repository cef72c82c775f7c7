"""The contract between a paper's package and the engine.

A method's `method.py` holds METHOD, of one subclass of its `Description` and of `Method`. The engine calls only what
stands here, and what abilities.py adds for some methods, and knows no method by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from torch import Tensor, nn, sigmoid, softmax

from attnbias.data.datasets import ImageDataset
from attnbias.data.fast_decode import pil_step
from attnbias.data.images import Decode
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.index import Index, Task
from attnbias.data.published_tests import own_transform
from attnbias.data.transforms.basic import Transform
from attnbias.methods.engine.abilities import TransformsBatches
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.metrics import multilabel_measures, singlelabel_measures
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.types import Batch, BatchTransform, Fields, Layer, Metrics, ParamGroups, Schedule

R = TypeVar("R", bound=Recipe)
M = TypeVar("M", bound=nn.Module)


class Method(Description, ABC, Generic[R, M]):
    """One paper, with recipes R and models M: its model, its loss, and where it looks."""

    # What it is made of ----------------------------------------------------------------------------------------------

    @abstractmethod
    def build_model(self, recipe: R, num_classes: int, task: Task) -> M:
        """Build the model with fresh weights. `model(images)` (B, 3, H, W) -> logits (B, C)."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, recipe: R, task: Task) -> dict[str, Tensor]:
        """Return named scalar terms, `loss` among them: a mean over the samples of the batch (times a constant),
        so that shards of a batch can be weighted by their sizes. `model` may be wrapped: call it only as model(...)."""

    def param_groups(self, model: M, recipe: R) -> ParamGroups:
        """Optimiser groups {"params": [...], "lr": ..., "weight_decay": ...}; default: one group."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": recipe.lr, "weight_decay": recipe.weight_decay}]

    @abstractmethod
    def schedule(self, recipe: R, steps_per_epoch: int) -> Schedule:
        """The learning-rate schedule as a pure function of the optimiser step; it ends with the run, also where that is
        after `recipe.steps`: take `total_steps` and `epoch_length` from schedules.py."""

    @abstractmethod
    def transform(self, recipe: R, train: bool) -> Transform:
        """PIL image -> tensor (3, H, W), by the paper's pipeline. The evaluation one also moves tv_tensors boxes."""

    def batch_transform(self, recipe: R, num_classes: int) -> BatchTransform | None:
        """Mixing of whole training batches, where the recipe asks for it."""
        return None

    def open_dataset(
        self,
        recipe: R,
        index: Index,
        *,
        train: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> ImageDataset:
        """The samples of a split as the recipe wants them. Its `collate` makes their batches, its length is what an
        evaluation counts. The default is an image with its labels through `transform`, in memory where the method has
        a `batched_transform`. A published test set may bring a transform of its own (data/published_tests.py).

        Raises:
            UsageError: fast decoding, and a step of the pipeline needs PIL images.
        """
        own = None if train else own_transform(index, recipe.image_size, recipe.normalize)
        transform = self.transform(recipe, train) if own is None else own
        if decode == "fast" and (step := pil_step(transform)):
            what = f"the {'training' if train else 'evaluation'} pipeline of this recipe"
            raise UsageError(f"--decode fast: {what} needs PIL images, for its {step}; use --decode exact")
        batched = self.batched_transform(recipe, train) if own is None and isinstance(self, TransformsBatches) else None
        kind = ImageDataset if batched is None else partial(InMemoryImages, batched=batched)
        return kind(
            index,
            transform,
            seed=recipe.seed,
            unknown=recipe.unknown_train if train else recipe.unknown_eval,
            drop_unlabelled=recipe.drop_unlabelled,
            on_bad_image=on_bad_image,
            decode=decode,
        )

    # What it answers -------------------------------------------------------------------------------------------------

    def predict(self, model: M, images: Tensor, task: Task) -> dict[str, Tensor]:
        """Named arrays with one row per image, `scores` first: probabilities (B, C), also shown. See `measure_all`."""
        logits = model(images).float()
        return {"scores": sigmoid(logits) if task == "multilabel" else softmax(logits, dim=-1)}

    def answer(self, model: M, batch: Batch, dataset: ImageDataset, recipe: R) -> dict[str, Tensor]:
        """What an evaluation keeps of a batch: named arrays with one row per sample, gathered over processes for
        `measure_all`. One called `targets` takes the place of the batch's targets. The default is `predict`."""
        return self.predict(model, batch["image"], dataset.index.task)

    @abstractmethod
    def attention(
        self,
        model: M,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Where the model looked: (B, K, h, w), non-negative, float32, at the feature resolution.

        `classes` is (K,) or (B, K) int64, None = all classes. `kind` is a name of `maps`; `head` picks one head.
        """

    def explained_layer(self, model: M) -> Layer:
        """The layer that Grad-CAM and its kin explain."""
        raise UsageError(f"method '{self.name}' names no layer for an explainer; use one of: {', '.join(self.maps)}")

    def measure(self, recipe: R, targets: np.ndarray, scores: np.ndarray, task: Task) -> Metrics:
        """Measures of one set of scores (N, C) against targets (N, C) with -1 = ignore, or (N,) class numbers."""
        return multilabel_measures(targets, scores) if task == "multilabel" else singlelabel_measures(targets, scores)

    def measure_all(self, recipe: R, targets: np.ndarray, scores: Mapping[str, np.ndarray], task: Task) -> Metrics:
        """Measures of everything that `answer` gave for a split: those of `scores`, and of others as NAME/MEASURE."""
        measures: Metrics = {}
        for name, values in scores.items():
            found = self.measure(recipe, targets, values, task)
            measures |= found if name == "scores" else {f"{name}/{key}": value for key, value in found.items()}
        return measures

    # Published weights -----------------------------------------------------------------------------------------------

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Translate published parameter names into ours (wrapper prefixes are already gone)."""
        return state

    def fit_resolution(self, model: M, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize what depends on the image's size, such as position embeddings, to what the model was built for."""
        return state

    def load_backbone(self, model: M, recipe: R, state: dict[str, Tensor], path: Path) -> None:
        """Fill the backbone of a fresh model from published backbone weights; every key it needs must be there."""
        raise UsageError(f"method '{self.name}' takes no --backbone-weights")

    def infer(self, state: dict[str, Tensor]) -> Fields:
        """Recipe fields that converted weights tell by their names and shapes, plus `num_classes`."""
        return {}


AnyMethod = Method[Any, Any]
"""A method as the engine and the command line hold it, whatever its recipe and its model."""
