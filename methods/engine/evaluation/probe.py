"""The contract of what `val` measures beside the scores.

A kind of measure is one `Probe`, in the file of its formulas, and one line in `validate.probes`: what it is asked by,
what it refuses beforehand, what it finds, and what is shown of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from accelerate import Accelerator

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.estimated_masks import with_estimated_masks
from attnbias.methods.engine.evaluation.evaluate import Evaluation, evaluate
from attnbias.methods.engine.load import Loaded, open_split_of
from attnbias.methods.engine.requests import AuditRequest, ValRequest

Content = Any
"""What a probe found, as JSON: a mapping, or the rows of a table."""


@dataclass(frozen=True)
class Measured:
    """One checkpoint on one split, scored: what a probe looks at."""

    request: ValRequest
    loaded: Loaded
    dataset: ImageDataset
    accelerator: Accelerator
    evaluation: Evaluation
    stored: Path | None
    """Where the run keeps its evaluation of this split, in the process that writes and with --store."""
    split: str
    """The split as it was typed: a name, or a role such as val."""
    number: str
    """Tells this checkpoint and split from the others in the names of files; empty where it is the only one."""

    @property
    def scored(self) -> tuple[Loaded, ImageDataset, Evaluation, Accelerator]:
        """What every measure begins with."""
        return self.loaded, self.dataset, self.evaluation, self.accelerator


class Probe(ABC):
    """One kind of measure."""

    name: ClassVar[str]
    """Its key in the result."""
    decimals: ClassVar[int] = 3

    @abstractmethod
    def wanted(self, request: ValRequest) -> bool:
        """Whether the person asked for it."""

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        """Look before any work whether it can be measured here.

        Raises:
            UsageError: it cannot, and why. DataError: data that it needs is missing.
        """
        return

    @abstractmethod
    def measure(self, measured: Measured) -> Content | None:
        """Measure, and write the files of its own; None where this split has nothing to measure."""

    # What is shown -----------------------------------------------------------------------------------------------

    def heading(self, content: Content) -> str:
        """Words above its figures in the table."""
        return self.name

    def figures(self, content: Content) -> Mapping[str, float | str | None]:
        """The figures that the table shows; none where the probe has a table of its own."""
        return {}

    def baselines(self, content: Content) -> Mapping[str, Mapping[str, float | None]]:
        """The same figures of what knows nothing of the image, by name."""
        return {}

    def remarks(self, content: Content) -> Sequence[str]:
        """What its figures leave out, and what they are not."""
        return ()


def left_out_of(name: str, content: Content) -> list[str]:
    """The remarks of a measure against objects: why its truth is not the usual one, and samples that were left out."""
    remarks = [content["truth_reason"]] if content.get("truth_reason") else []
    if content["skipped"]:
        counts = ", ".join(f"{count} {reason}" for reason, count in content["skipped"].items())
        remarks.append(f"samples left out of {name}: {counts}")
    return remarks


def open_dataset(request: ValRequest, loaded: Loaded, split: str, *, measured: bool = False) -> ImageDataset:
    """The samples of a split of the model's dataset, as the person asked; `measured` is the one whose objects count,
    and of which --limit draws some."""
    index = open_split_of(loaded, split, request.data_root)
    if measured:
        index = with_estimated_masks(request, index.drawn(request.limit))
    return loaded.method.open_dataset(loaded.recipe, index, on_bad_image=request.on_bad_image, decode=request.decode)


def score(
    request: ValRequest | AuditRequest, loaded: Loaded, dataset: ImageDataset, accelerator: Accelerator
) -> Evaluation:
    """Score every sample of a split and measure."""
    return evaluate(
        loaded.method,
        loaded.model,
        dataset,
        loaded.recipe,
        accelerator,
        batch_size=request.eval_batch_size,
        workers=request.workers or 0,
    )


def score_split(request: ValRequest, loaded: Loaded, split: str, accelerator: Accelerator) -> Evaluation:
    """Score another split than the one that is measured."""
    return score(request, loaded, open_dataset(request, loaded, split), accelerator)
