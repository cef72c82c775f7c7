"""What only some methods can do. The engine asks with `isinstance`; a method that can has the functions, no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from attnbias.data.index import Task
from attnbias.methods.engine.types import Fields, LogLine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor, nn

    from attnbias.methods.engine.types import Batch, BatchedImages

R = TypeVar("R", contravariant=True)
M = TypeVar("M", contravariant=True)


@runtime_checkable
class ReadsTexts(Protocol[R, M]):
    """It is asked about images in words: in `visualize` this takes the place of `predict` and `attention`.

    Its `Description` says so too (`reads_texts`).
    """

    def read_texts(self, recipe: R, texts: Sequence[str], dataset_dir: Path | None) -> Batch:
        """What a batch holds of these texts, one an image; `dataset_dir` is the folder of the recipe's prepared set.

        Raises:
            UsageError: it is not asked about one image.
        """

    def text_scores(self, model: M, batch: Batch, task: Task) -> Tensor | None:
        """Probabilities (B, C) of the classes as answers to a batch of images and texts; None if there are none."""

    def text_attention(self, model: M, batch: Batch, *, kind: str, head: int | None = None) -> Tensor:
        """Where the model looked for each text: (B, h, w), non-negative, float32, at the feature resolution."""


@runtime_checkable
class FitsTexts(Protocol[M]):
    """It can tell which of many images a text is about."""

    def text_fit(self, model: M, images: Tensor, texts: Batch) -> Tensor:
        """How well each image (B, 3, H, W) fits each of the texts that `read_texts` gave: (B, M), higher is better."""

    def pair_fit(self, model: M, batch: Batch) -> Tensor:
        """How well each image of a batch fits its own text: (B,)."""


@runtime_checkable
class TransformsBatches(Protocol[R]):
    """It has a pipeline for whole batches: splits of small images of one size are kept in memory."""

    def batched_transform(self, recipe: R, train: bool) -> BatchedImages | None:
        """The pipeline on the device, with the values of `transform`; None where images differ in size."""


@runtime_checkable
class OrdersEpochs(Protocol[R]):
    """The paper does not use a plain shuffle."""

    def epoch_order(self, recipe: R, samples: int) -> Callable[[int], NDArray[np.int64]] | None:
        """Epoch (from 0) -> that epoch's sample indices; None where the recipe has a plain shuffle."""


@runtime_checkable
class StopsEarly(Protocol[R]):
    """The paper has a rule to stop by."""

    def should_stop(self, recipe: R, history: list[LogLine]) -> bool:
        """Whether to stop, asked after each evaluation. `history` holds {"epoch", "raw", "ema"?} with the measure that
        decides; it is asked on the main process and told to all."""


@runtime_checkable
class PicksClasses(Protocol[R]):
    """It can start a set from weights of another set with more classes."""

    def fit_classes(self, state: dict[str, Tensor], recipe: R) -> dict[str, Tensor]:
        """The weights with the classifiers of the recipe's classes alone."""


@runtime_checkable
class AnswersAs(Protocol[M]):
    """Its answers can be told as classes of another set."""

    def answer_as(self, model: M, members: Sequence[Sequence[int]]) -> nn.Module:
        """The same model and weights with logits (B, D) of other classes: of each the highest among its `members`,
        numbers of the model's own classes; far below all others where it has none. It `Retells`."""


@runtime_checkable
class Retells(Protocol):
    """A model that answers in other classes than its network."""

    def retold(self, logits: Tensor) -> Tensor:
        """The network's logits (B, C) as those of the classes that it answers in, (B, D)."""


@runtime_checkable
class LoadsByName(Protocol):
    """It loads weights of any network whose name is given (`--backbone`, or timm:NAME in place of a file)."""

    def around(self, network: nn.Module, recipe: Any) -> nn.Module:
        """The model of a network that is built already: images (B, 3, H, W) -> logits (B, C)."""

    def infer_named(self, state: dict[str, Tensor], backbone: str) -> Fields:
        """What converted weights of this network tell: `num_classes`; {} where they are another's."""


@runtime_checkable
class IsWhole(Protocol[R, M]):
    """Its model is a network of timm or torchvision, whole."""

    def library_network(self, model: M, recipe: R, num_classes: int) -> tuple[str, nn.Module] | None:
        """The call that makes the network there, and the network; None where it is not theirs."""


@runtime_checkable
class LoadsParts(Protocol[R, M]):
    """Its recipe itself names weights, such as those of a text encoder."""

    def load_parts(self, model: M, recipe: R) -> None:
        """Fill those parts of a fresh model."""


@runtime_checkable
class LooksFirst(Protocol[R, M]):
    """Its model takes something from training images before the first step."""

    def look_first(self, model: M, recipe: R, images: Callable[[int], Tensor], pretrained: bool) -> None:
        """Fill those parts of a model that starts from its backbone's weights (`pretrained`) or at random.

        `images(N)` gives up to N training images (N, 3, H, W) as in evaluation, evenly from the set, on every process
        the same.

        Raises:
            UsageError: the recipe asks for what such a start cannot give.
        """


@runtime_checkable
class LabelsPixels(Protocol[R, M]):
    """It tells the class of each pixel."""

    def label_map(self, model: M, image: NDArray[np.uint8], recipe: R) -> NDArray[np.int64]:
        """The class of each pixel of an image (H, W, 3), as (H, W)."""

    def evaluation_steps(self, recipe: R) -> list[str]:
        """How evaluation makes an image for the network, and how often it looks at it, in words."""

    def seen_whole(self, recipe: R) -> Callable[[Image.Image], Tensor]:
        """PIL image -> (3, H, W), as evaluation sees it at one size."""

    def pixel_shares(self, model: M, images: Tensor) -> Tensor:
        """The probability of each class at each pixel of images (B, 3, H, W), seen whole: (B, C, H, W)."""

    def pixel_loss(self, model: M, image: Tensor, *, target: Tensor, recipe: R) -> Tensor:
        """What an attack raises: the mean cross-entropy of the labelled pixels of one image (3, h, w), whose label map
        (H, W) is as stored, with the logits that evaluation would decide by."""

    def check_seen_once(self, recipe: R) -> None:
        """Refuse a recipe whose evaluation sees an image at several sizes: there is no one image to change.

        Raises:
            UsageError: see above.
        """

    def for_any_size(self, model: M) -> nn.Module:
        """A copy whose operations a graph can hold for images of any size; the same figures but for rounding."""


@runtime_checkable
class ShowsChannels(Protocol[M]):
    """It has more to show than maps: what the model did to its channels."""

    def panels(self, model: M, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Block -> what is drawn of it -> one value in [0, 1] an image and channel, (B, C)."""


@runtime_checkable
class IsSteered(Protocol[M]):
    """It can be told what to look for, by any vector, and how strongly."""

    steered_maps: tuple[str, ...]
    """As in its `Description`."""

    def check_steered(self, model: M) -> None:
        """Refuse a model that has no second pass.

        Raises:
            UsageError: it has none.
        """

    def default_gain(self, model: M) -> float:
        """The strength of the feedback where nobody says another."""

    def steered(self, model: M, images: Tensor, priors: Tensor, gain: float, kind: str | None = None) -> Tensor:
        """Where the model looked for each prior: (B, K, h, w), non-negative, float32, at the feature resolution.

        `priors` are classes (K,) or (B, K) int64, where it knows some, or vectors (K, C) or (B, K, C); `kind` is one
        of `steered_maps`, None = the first.

        Raises:
            UsageError: the model cannot be steered, or not by such vectors.
        """

    def tokens(self, model: M, images: Tensor) -> Tensor:
        """What priors are compared with: a vector for each patch, (B, C, h, w)."""


@runtime_checkable
class SteeredByTexts(Protocol[M]):
    """It can tell which vector a text is, as a prior."""

    def text_priors(self, model: M, batch: Batch) -> Tensor:
        """The priors (B, C) of a batch of texts, as `read_texts` gives it."""


@runtime_checkable
class PublishesLog(Protocol[R]):
    """Its runs have the log that the paper's program writes."""

    def published_log(self, recipe: R, records: list[LogLine]) -> tuple[str, str] | None:
        """Name and content of that log, as a view of the lines of metrics.jsonl; None where the program has none."""
