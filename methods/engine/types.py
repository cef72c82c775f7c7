"""What passes between a method and the engine, as types. Imports no torch: recipes stand on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from attnbias.data.index import Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Batch(TypedDict, total=False):
    """What the loader gives. Only a set of its own kind has the tensors of the second half."""

    image: Tensor
    """(B, 3, H, W) float32, normalised; of a loader often uint8, which `on_device` (batches.py) normalises. In an
    evaluation of segmentation, whose images differ in size, a list of the views of each."""
    target: Tensor
    """(B, C) float32 with -1 = ignore in multi-label work, (B,) int64 in single-label work, (B, C) float32 where
    mixing made soft ones; of other tasks as their datasets say."""
    index: Tensor
    """(B,) int64 sample ids, on the CPU."""
    errors: list[str]
    """What could not be read."""
    epoch: Tensor
    """(B,), of images in memory, which are augmented on the device."""

    text_ids: Tensor
    """(B, L) tokens, and which of them are words: `text_mask`."""
    text_mask: Tensor
    image2: Tensor
    """The second image of a statement about two."""
    false_image: Tensor
    """Of retrieval in training: another image, and texts of others, (B, F, L)."""
    false_text_ids: Tensor
    false_text_mask: Tensor


LABELLED: tuple[Task, ...] = ("multilabel", "singlelabel")
"""Tasks whose images have labels, and whose models score classes."""

Fields = dict[str, Any]
"""Fields of a recipe by their names, as plain values."""

Metrics = dict[str, Any]
"""What an evaluation measures: names -> a number, None where there is none, one a class, or what explains them."""

LogLine = dict[str, Any]
"""A line of metrics.jsonl: step, epoch, split, and loss terms or metrics; as an entry of a history, the metric that
decides as `raw` and `ema`."""

ParamGroups = list[dict[str, Any]]
"""An optimiser's groups: params, lr, weight_decay and what else they have of their own."""

Schedule = Callable[[int], dict[str, float]]
"""Optimiser step (from 0) -> settings in force at that step: `lr` is a factor on each group's own base learning rate;
`beta1`, where present, replaces Adam's first beta or SGD's momentum. A pure function: resuming cannot shift it."""

BatchTransform = Callable[["Tensor", "Tensor", "np.random.Generator"], tuple["Tensor", "Tensor"]]
"""(images, targets, numpy Generator seeded by (seed, step)) -> the same pair, mixed (mixup, cutmix ...)."""

BatchedImages = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""(images (B, 3, H, W) uint8, sample ids (B,), epochs (B,)) -> normalised float32, augmented as each sample's is."""


class Steering(NamedTuple):
    """What the second pass of a model is told to look for in one command, in place of what it looks for by itself."""

    names: tuple[str, ...]
    """Of the vectors: the model's classes in their order, or texts."""
    vectors: Tensor | None
    """(K, C); None: each class or text is looked for as the method does by itself."""
    gain: float
    """The strength of what is fed back."""
    prior: str
    """What is looked for, in words that two runs share whose vectors are of the same things."""
    file: str = ""
    """The name of the prior file, where `prior` does not say it."""

    @property
    def words(self) -> str:
        """All of it."""
        return f"{self.file and f'{self.file}: '}{self.prior}, gain {self.gain:g}"

    def content(self) -> dict[str, str | float]:
        """What a file that is written says of it."""
        return {"steered_by": self.words, "prior": self.prior, "gain": self.gain}


Truth = Literal["masks", "boxes", "estimated"]
"""What attention is held against: each class's masks, or boxes; or masks that nobody drew (estimated_masks.py)."""


class Layer(NamedTuple):
    """A layer that an explainer looks at, and how its output lies."""

    module: nn.Module
    channels_last: bool = False
    """Whether it gives (B, h, w, D), not (B, D, h, w)."""
    prefix_tokens: int = 0
    """Of tokens (B, S + N, D): how many are surely not those of patches. What still leaves no grid goes too."""
