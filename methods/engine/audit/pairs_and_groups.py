"""What stands beside a class: other classes, and the attributes of groups; whether the class is named less without it.

The other class is chosen by labels alone, never by scores, so that the intervals keep what they promise. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.audit.figures import FEW, Table
from attnbias.methods.engine.audit.result import Figure, Group, Pair
from attnbias.methods.engine.statistics import Change, unpaired, with_p_together


def pairs(table: Table, targets: NDArray[np.int64], ids: NDArray[np.int64], names: Sequence[str]) -> tuple[Pair, ...]:
    """Each class of a multi-label set with the class that is most often beside it: targets (N, C) of the images `ids`
    (N,). The largest differences first; empty where no two classes are FEW times together and FEW times apart."""
    shown = (targets > 0).astype(np.int64)
    both = shown.T @ shown
    counts = np.diag(both).copy()
    np.fill_diagonal(both, 0)
    usable = (both >= FEW) & (counts[:, None] - both >= FEW)
    row_of = {int(image): row for row, image in enumerate(ids)}
    found: list[tuple[Pair, Change]] = []
    for number in np.flatnonzero(usable.any(1)).tolist():
        other = int(np.where(usable[number], both[number], -1).argmax())
        own = np.asarray(table.label == number)
        beside = np.array([shown[row_of[image], other] > 0 for image in table.image.tolist()])
        with_it, without = table.figure("accuracy", own & beside), table.figure("accuracy", own & ~beside)
        if with_it is None or without is None:
            continue
        change = _difference(without, with_it)
        difference = Figure(
            "difference",
            "together - alone",
            "right",
            change.difference,
            change.interval_95,
            with_it.n + without.n,
            better=None,
            chance=0.0,
            chance_words="a class that its company tells nothing of",
        )
        found.append((Pair(names[number], names[other], with_it, without, difference, sure=False), change))
    sure = _sure([change for _, change in found])
    made = [replace(pair, sure=proved) for (pair, _), proved in zip(found, sure, strict=True)]
    return tuple(sorted(made, key=lambda pair: (not pair.sure, -abs(pair.difference.value or 0))))


def groups(table: Table, names: Sequence[str]) -> tuple[Group, ...]:
    """The true classes under the attribute of their image, the worst first; those of fewer than FEW images last."""
    attributes = np.array([sample.group for sample in table.samples])
    found: list[tuple[str, Figure, Change | None]] = []
    for number in np.unique(table.label[table.known]).tolist():
        own = np.asarray(table.label == number)
        for attribute in np.unique(attributes[own]).tolist():
            inside = own & (attributes == attribute)
            accuracy, others = table.figure("accuracy", inside), table.figure("accuracy", own & ~inside)
            assert accuracy is not None
            tested = others if others is not None and min(accuracy.n, others.n) >= FEW else None
            change = None if tested is None else _difference(tested, accuracy)
            found.append((f"{names[number]}, {attribute}", accuracy, change))
    large = [accuracy.value for _, accuracy, _ in found if accuracy.n >= FEW and accuracy.value is not None]
    worst = min(large, default=None)
    rows, first = [], True
    for (name, accuracy, change), proved in zip(found, _sure([change for *_, change in found]), strict=True):
        is_worst = first and accuracy.n >= FEW and accuracy.value == worst
        first = first and not is_worst
        worse = proved and change is not None and change.difference < 0
        rows.append(Group(name, accuracy, accuracy.n < FEW, is_worst, worse))
    return tuple(sorted(rows, key=lambda group: (group.too_small, group.accuracy.value or 0)))


def _difference(before: Figure, after: Figure) -> Change:
    """Of two figures of different images."""
    assert before.value is not None
    assert after.value is not None
    return unpaired(before.value, before.interval_95, after.value, after.interval_95)


def _sure(changes: Sequence[Change | None]) -> list[bool]:
    """Which differences hold at 5 % among all of them."""
    return [
        each is not None and each.p_together is not None and each.p_together <= 0.05
        for each in with_p_together(changes)
    ]
