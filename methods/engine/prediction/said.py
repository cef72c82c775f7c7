"""What models say of a person's own images, whatever their task: the same for the screen, JSON and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from attnbias.data.reading import Json
from attnbias.data.tally import Tally
from attnbias.methods.engine.load import Loaded, preprocessing


@dataclass(frozen=True)
class Found:
    """The images that were asked for, and what a person should know of how they were found and read."""

    loaded: Loaded
    amp: str
    """The precision of the passes through the network: no = float32."""
    skipped: list[str]
    """Why an image could not be read; each names its path."""
    left_out: Tally
    """What else is in the folders, by reason."""
    remarks: Tally
    """How images were read that may be read in several ways."""


class Said(ABC):
    """What a model says of images, in the order asked for."""

    found: Found

    @abstractmethod
    def items(self) -> list[Json]:
        """What is said of each image, as plain values."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """The same for people."""

    @abstractmethod
    def rows(self) -> Iterator[list[str]]:
        """The same as a table, its header first."""

    def content(self) -> Json:
        """All of it but what only the table holds, as plain values for JSON."""
        loaded = self.found.loaded
        return {
            "weights": loaded.source,
            "method": loaded.method.name,
            "task": loaded.task,
            "preprocessing": preprocessing(loaded.method, loaded.recipe),
            "amp": self.found.amp,
            "pictures": self.items(),
            "skipped": self.found.skipped,
            "left_out": self.found.left_out,
            "remarks": self.found.remarks,
        }
