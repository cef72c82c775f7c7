"""Robustness figures of whatever classifies: corruption error, 200-class subsets of ImageNet, one table of results.

Nothing here runs a model: scores and accuracies come in, figures go out. `Corrupted` (data/transforms/corruptions.py)
and attacks.py make the pictures.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.errors import UsageError

Subset = Literal["a", "r"]

ALEXNET_ERROR: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean top-1 error under each corruption of ImageNet-C (Hendrycks & Dietterich, ICLR 2019)."""


@dataclass(frozen=True)
class CorruptionErrors:
    """What a set of corrupted pictures says, all in per cent."""

    accuracy: dict[str, float]
    """Top-1 accuracy of each corruption, mean over its severities."""
    error: dict[str, float]
    """CE: its error over AlexNet's."""
    mce: float
    """Mean CE; lower is better, AlexNet has 100."""
    mean_accuracy: float


def corruption_errors(accuracies: Mapping[str, Sequence[float]]) -> CorruptionErrors:
    """Sum up top-1 accuracies in per cent, given for each corruption at severities 1 to 5.

    Raises:
        UsageError: a name is no corruption of ImageNet-C.
    """
    if unknown := [name for name in accuracies if name not in ALEXNET_ERROR]:
        raise UsageError(f"'{unknown[0]}' is no corruption; one of: {', '.join(ALEXNET_ERROR)}")
    accuracy = {name: float(np.mean(values)) for name, values in accuracies.items()}
    error = {name: (100 - value) / ALEXNET_ERROR[name] for name, value in accuracy.items()}
    mce, mean_accuracy = (float(np.mean(list(values.values()))) for values in (error, accuracy))
    return CorruptionErrors(accuracy, error, mce, mean_accuracy)


# ImageNet-A and -R: 200 of the 1000 classes ---------------------------------------------------------------------------


def imagenet_synsets(subset: Subset | None = None) -> list[str]:
    """Synsets in the order of the class numbers: all 1000 of ImageNet-1k, or the 200 of ImageNet-A or -R."""
    name = f"imagenet_{subset}_synsets.txt" if subset else "imagenet_synsets.txt"
    return resources.files("timm.data").joinpath("_info", name).read_text().split()


def subset_indices(subset: Subset) -> list[int]:
    """Class numbers (of 1000) of the 200 classes of ImageNet-A or ImageNet-R, ascending."""
    return subset_columns(imagenet_synsets(subset), imagenet_synsets())


def subset_columns(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """Where the classes of a set stand among those a model knows, matched by name: the columns to keep of its scores.

    (The program counts on exactly the 200 folders being there; a missing or extra one shifts its labels silently.)

    Raises:
        UsageError: the model does not know one of the classes.
    """
    places = {name: place for place, name in enumerate(known)}
    if strange := [name for name in classes if name not in places]:
        raise UsageError(f"{len(strange)} of the set's {len(classes)} classes are unknown to the model ({strange[0]})")
    return [places[name] for name in classes]


def keep_columns(scores: NDArray[np.float32], columns: Sequence[int]) -> NDArray[np.float32]:
    """Scores (N, kept) of the kept classes alone, so that the others cannot win."""
    return scores[:, list(columns)]


# The table ------------------------------------------------------------------------------------------------------------


def table_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a test set or attack, with its measures that are plain numbers, in the order given."""
    numbers = {
        test: {name: value for name, value in measures.items() if isinstance(value, int | float)}
        for test, measures in results.items()
    }
    return [{"test": test, **measures} for test, measures in numbers.items()]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as PATH.json and PATH.csv (a column for every measure that a row has)."""
    path.with_suffix(".json").write_text(json.dumps(list(rows), indent=1) + "\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
