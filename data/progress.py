"""How those who wait are told how far something is."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done (bytes, images ...), and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
