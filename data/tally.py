"""Counts by reason with the first names: how a reader says what it left out, and what it noticed."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # pydantic's models take no other before Python 3.12

from attnbias.data.reading import FileName

NAMED = 10
"""Names kept of each reason."""
NAMES_SHOWN = 3
"""Names shown in a line."""


class Counted(TypedDict):
    """How many there are of one reason, and the first of them."""

    count: int
    first: list[FileName]


class Tally(dict[str, Counted]):
    """Reason -> how many and which; plain JSON."""

    def add(self, reason: str, *names: str) -> None:
        """Count names under a reason, in the order given."""
        if not names:
            return
        counted = self.setdefault(reason, Counted(count=0, first=[]))
        counted["count"] += len(names)
        counted["first"] += names[: NAMED - len(counted["first"])]

    def merge(self, other: Tally) -> None:
        """Add the counts of another."""
        for reason, theirs in other.items():
            own = self.setdefault(reason, Counted(count=0, first=[]))
            own["count"] += theirs["count"]
            own["first"] += theirs["first"][: NAMED - len(own["first"])]

    @property
    def total(self) -> int:
        """How many there are of all reasons."""
        return sum(counted["count"] for counted in self.values())

    def lines(self) -> list[str]:
        """One line a reason, such as "broken link: 4 (a.jpg, b.jpg, c.jpg ...)"."""
        return [f"{reason}: {counted['count']:,} ({first_of(counted['first'])})" for reason, counted in self.items()]


def first_of(names: Sequence[str]) -> str:
    """The first names of many, in a line: "a.jpg, b.jpg, c.jpg ..."."""
    return ", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")
