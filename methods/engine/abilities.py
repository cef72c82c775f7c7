"""What only some methods can do. The engine asks with `isinstance`; a method that can has the functions, no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from attnbias.data.index import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attnbias.methods.engine.types import Batch

R = TypeVar("R", contravariant=True)
M = TypeVar("M", contravariant=True)


@runtime_checkable
class ReadsTexts(Protocol[R, M]):
    """It is asked about pictures in words: in `visualize` this takes the place of `predict` and `attention`.

    Its `Description` says so too (`reads_texts`).
    """

    def read_texts(self, recipe: R, texts: Sequence[str], home: Path | None) -> Batch:
        """What a batch holds of these texts, one a picture; `home` is the folder of the recipe's prepared set.

        Raises:
            UsageError: it is not asked about one picture.
        """

    def text_scores(self, model: M, batch: Batch, task: Task) -> Tensor | None:
        """Probabilities (B, C) of the classes as answers to a batch of pictures and texts; None if there are none."""

    def text_attention(self, model: M, batch: Batch, *, kind: str, head: int | None = None) -> Tensor:
        """Where the model looked for each text: (B, h, w), non-negative, float32, at the feature resolution."""


@runtime_checkable
class LabelsPixels(Protocol[R, M]):
    """It tells the class of each pixel."""

    def label_map(self, model: M, picture: NDArray[np.uint8], recipe: R) -> NDArray[np.int64]:
        """The class of each pixel of a picture (H, W, 3), as (H, W)."""


@runtime_checkable
class ShowsChannels(Protocol[M]):
    """It has more to show than maps: what the model did to its channels."""

    def panels(self, model: M, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Block -> what is drawn of it -> one value in [0, 1] a picture and channel, (B, C)."""


@runtime_checkable
class PublishesLog(Protocol[R]):
    """Its runs have the log that the paper's program writes."""

    def published_log(self, recipe: R, records: list[dict[str, Any]]) -> tuple[str, str] | None:
        """Name and content of that log, as a view of the lines of metrics.jsonl; None where the program has none."""
