"""How the benchmarks measure and report: interleaved rounds, medians, CPU time of one thread, targets.

A shared machine lengthens the wall clock but hardly the CPU time of one thread, and slows neighbours in time alike. So
everything is a ratio to a baseline of the same round wherever there is one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One measured thing. A target is about the ratio where there is a baseline, else about the value."""

    case: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    """Of the rounds' ratios: how sure the ratio is."""
    target: float | None = None
    direction: Literal["at most", "at least"] = "at most"
    floor: float | None = None
    """The ratio of what no way to the same result can do without: a target below it cannot be kept here."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is kept; None without one."""
        if self.target is None:
            return None
        judged = self.value if self.ratio is None else self.ratio
        return judged <= self.target if self.direction == "at most" else judged >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Every field, and whether the target holds."""
        return {**asdict(self), "holds": self.holds}


def rounds_of(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each round, the calls in turn; a first round warms up.

    Every second round goes backwards: what a call leaves in the caches must not always help the same neighbour.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls) if turn % 2 else reversed(calls):
            start = time.process_time()
            calls[name]()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def ratio_of(
    case: str,
    ours: list[float],
    base: list[float],
    target: float | None = None,
    per: int = 1,
    least: list[float] | None = None,
) -> Figure:
    """The median of the rounds' ratios; the median times beside it, in ms, divided by `per` samples. `least` are times
    of what cannot be done without."""
    ratios = [one / other for one, other in zip(ours, base, strict=True)]
    first, _, last = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Figure(
        case,
        1e3 * statistics.median(ours) / per,
        "ms",
        baseline=1e3 * statistics.median(base) / per,
        ratio=statistics.median(ratios),
        quartiles=(first, last),
        target=target,
        floor=statistics.median(one / other for one, other in zip(least, base, strict=True)) if least else None,
    )


def compare(
    case: str,
    ours: Callable[[], Any],
    base: Callable[[], Any],
    rounds: int,
    target: float | None = None,
    per: int = 1,
    least: Callable[[], Any] | None = None,
) -> Figure:
    """`ours` against `base`, in turns, and `least`, which is what neither can do without."""
    times = rounds_of({"ours": ours, "base": base} | ({} if least is None else {"least": least}), rounds)
    return ratio_of(case, times["ours"], times["base"], target, per, times.get("least"))


def median_seconds(call: Callable[[], Any], rounds: int) -> float:
    """Median CPU seconds of a call after one that warms up."""
    return statistics.median(rounds_of({"it": call}, rounds)["it"])
