"""Texts side by side in one piece of memory, which forked processes share for good.

A list of strings is shared until it is read: reading one counts a reference inside of it, and the whole page is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class FlatTexts(Sequence[str]):
    """A sequence of texts that is read without being written to: bytes, and where each text ends."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.ends = np.fromiter(map(len, encoded), np.int64, len(encoded)).cumsum()
        self.content = b"".join(encoded)

    @classmethod
    def stored(cls, content: bytes, ends: NDArray[np.int64]) -> FlatTexts:
        """The texts whose bytes, one behind the other, and ends were kept."""
        texts = cls(())
        texts.content, texts.ends = content, ends
        return texts

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        position = range(len(self))[position]  # as of a list: from the end where negative
        start = self.ends[position - 1] if position else 0
        return self.content[start : self.ends[position]].decode("utf-8", "surrogatepass")
