"""Small faults that a maintainer could make, one file per room. Faults that change nothing that anyone can see
(equivalents) are not listed."""

from __future__ import annotations

from fault import Fault

from . import data, display, evaluation, newer, options, runs, training, weights

FAULTS: tuple[Fault, ...] = (
    *training.FAULTS,
    *runs.FAULTS,
    *data.FAULTS,
    *evaluation.FAULTS,
    *display.FAULTS,
    *options.FAULTS,
    *weights.FAULTS,
    *newer.FAULTS,
)
