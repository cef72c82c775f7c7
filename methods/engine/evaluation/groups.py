"""Groups of images, a label under an attribute each (Sagawa et al., ICLR 2020), and two runs held against each other on
one of them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.methods.engine.statistics import Change, Ratio, change, change_of_gap


def groups_of(targets: np.ndarray, attributes: Sequence[str], classes: Sequence[str]) -> NDArray[np.str_]:
    """The group of each image, its label under its attribute (Sagawa et al.): (N,) of class numbers (N,).

    Of multi-label targets (N, C), where each class is a question of its own, (N, C): the class there or absent, and an
    empty text where that is not known.
    """
    if targets.ndim == 1:
        return np.array(
            [f"{classes[label]}, {attribute}" for label, attribute in zip(targets, attributes, strict=True)]
        )
    words = {1: "{}, {}", 0: "no {}, {}", -1: ""}
    return np.array(
        [
            [words[int(value)].format(name, attribute) for value, name in zip(row, classes, strict=True)]
            for row, attribute in zip(targets, attributes, strict=True)
        ],
        dtype=np.str_,
    ).reshape(targets.shape)


def right_answers(targets: np.ndarray, scores: np.ndarray) -> NDArray[np.bool_]:
    """Which answers are right, of targets (N,) or (N, C) and scores (N, C): the highest score in single-label work,
    else each score on the right side of one half."""
    right: NDArray[np.bool_] = scores.argmax(1) == targets if targets.ndim == 1 else (scores >= 0.5) == (targets > 0)
    return right


class GroupChanges(NamedTuple):
    """How two runs differ in the accuracy of a group, and in its distance to all images that its class is asked of."""

    accuracy: Change
    gap: Change


def group_changes(
    targets: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    attributes: Sequence[str],
    classes: Sequence[str],
    name: str,
) -> GroupChanges | None:
    """Hold two runs' scores (N, C) against each other on the group called `name`, image by image, in per cent.

    None where the images have no such group.
    """
    groups = groups_of(targets, attributes, classes).reshape(len(targets), -1)
    own = (groups == name).any(axis=0)
    if not own.any():
        return None
    column = int(own.argmax())
    asked = groups[:, column] != ""
    inside = (groups[:, column] == name)[asked]
    before, after = (right_answers(targets, each).reshape(groups.shape)[asked, column] for each in (first, second))
    accuracy = change(Ratio.mean(before[inside]), Ratio.mean(after[inside]), np.arange(int(inside.sum())), flags=True)
    return GroupChanges(accuracy.scaled(100), change_of_gap(before, after, inside).scaled(100))
