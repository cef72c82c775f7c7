"""The programs' log.txt as a view of metrics.jsonl: one row per epoch, every cell followed by a tab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attnbias.methods.engine.types import LogLine

COLUMNS = ("Learning Rate", "Train Loss", "Valid Loss", "Train Acc.", "Valid Acc.")
COLUMNS_TOP5 = (*COLUMNS[:4], "Train Acc.5", *COLUMNS[4:], "Valid Acc.5")
"""Columns of the ImageNet program, which logs top-5 beside top-1."""

SOURCES = {
    "Learning Rate": ("train", "lr"),
    "Train Loss": ("train", "loss"),
    "Train Acc.": ("train", "top1"),
    "Train Acc.5": ("train", "top5"),
    "Valid Loss": ("val", "loss"),
    "Valid Acc.": ("val", "top1"),
    "Valid Acc.5": ("val", "top5"),
}
"""Column -> split and measure of metrics.jsonl."""


def log_text(records: Iterable[LogLine], columns: Sequence[str] = COLUMNS) -> str:
    """Return the whole log.txt of a single-label run from the records of its metrics.jsonl: raw weights, first
    evaluation split."""
    rows, windows, last_step, valid = [], [], 0, None
    for record in records:
        if "weights" not in record:
            windows.append((record, record["step"] - last_step))
            last_step = record["step"]
            continue
        valid = valid or record["split"]
        if record["split"] == valid and record["weights"] == "raw":
            rows.append(log_row({**_epoch_values(windows), **_values("val", record)}, columns))
            windows = []
    return "".join(f"{name}\t" for name in columns) + "\n" + "".join(rows)


def log_row(values: Mapping[str, float], columns: Sequence[str] = COLUMNS) -> str:
    """One epoch: six decimals a cell, accuracies in per cent."""
    return "".join(f"{values[name]:.6f}\t" for name in columns) + "\n"


def weighted_mean(updates: Iterable[tuple[float, int]]) -> float:
    """Mean of (value, weight) pairs, such as batches of unequal size; NaN without any."""
    total, weight = 0.0, 0
    for value, count in updates:
        total, weight = total + value * count, weight + count
    return total / weight if weight else float("nan")


def _epoch_values(windows: Sequence[tuple[LogLine, int]]) -> dict[str, float]:
    """Means over an epoch's training records, each weighted by its steps; the rate is the last record's."""
    if not windows:
        return {}
    last = windows[-1][0]
    means = {key: weighted_mean((record[key], steps) for record, steps in windows) for key in ("loss", "top1", "top5")}
    return _values("train", {**means, "lr": last["lr"][0]})


def _values(split: str, record: LogLine) -> dict[str, float]:
    values = {"top5": 100.0, **record}  # of five classes or fewer nothing is said: each is among the five highest
    return {column: values[key] for column, (part, key) in SOURCES.items() if part == split}
