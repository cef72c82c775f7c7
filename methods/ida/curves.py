"""The published program's own training curves: figures of its two public logs, to draw beside a run's."""

from __future__ import annotations

import csv
from importlib.resources import files


def reference_curves() -> dict[str, list[float | str]]:
    """Read the table by column: `run`, `epoch` (from 0), `val_mAP`, `val_mAP_ema` (per cent), losses, rates, clock.

    Each row is one epoch of one of the two runs of the README's recipe (ResNet-101, 448 px, heavy, COCO, four GPUs).
    Where a log shows no figure the cell is an empty text.
    """
    text = (files(__package__) / "reference_training_curves.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    return {name: [_number(row[name]) for row in rows] for name in rows[0]}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
