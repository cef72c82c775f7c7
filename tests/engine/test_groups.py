"""Groups are labels under attributes (Sagawa et al., ICLR 2020), of single- and of partly labelled multi-label sets."""

from __future__ import annotations

import numpy as np
import pytest

from attnbias.methods.engine.bias.context import group_measures


def test_the_worst_group_is_a_class_under_an_attribute() -> None:
    """Where each attribute alone, and each class alone, is right half of the time."""
    targets = np.array([0, 0, 1, 1] * 5)
    attributes = ["land", "water", "land", "water"] * 5
    right = np.array([True, False, False, True] * 5)
    scores = np.eye(2)[np.where(right, targets, 1 - targets)]
    found = group_measures(targets, scores, attributes, ("landbird", "waterbird"), least=5)
    assert found["groups"] == {
        "landbird, land": {"samples": 5, "accuracy": 100},
        "landbird, water": {"samples": 5, "accuracy": 0},
        "waterbird, land": {"samples": 5, "accuracy": 0},
        "waterbird, water": {"samples": 5, "accuracy": 100},
    }
    assert (found["worst_group"], found["worst_group_accuracy"], found["group_gap"]) == ("landbird, water", 0, 50)
    few = group_measures(targets, scores, attributes, ("landbird", "waterbird"), least=6)
    assert (few["worst_group"], few["groups"]) == (None, found["groups"])


def test_groups_of_a_partly_labelled_multi_label_set() -> None:
    """Against counts by hand, class by class: an unknown label asks nothing."""
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (200, 3))
    scores, attributes = rng.random((200, 3)), rng.choice(["day", "night"], 200)
    scores[(attributes == "night") & (targets[:, 1] == 1), 1] *= 0.5  # always missed
    found = group_measures(targets, scores, attributes.tolist(), ("a", "b", "c"))
    assert len(found["groups"]) == 12
    for c, name in enumerate("abc"):
        for value, words in ((1, name), (0, f"no {name}")):
            for attribute in ("day", "night"):
                chosen = (targets[:, c] == value) & (attributes == attribute)
                right = [(score >= 0.5) == bool(value) for score in scores[chosen, c]]
                group = found["groups"][f"{words}, {attribute}"]
                assert group == {"samples": len(right), "accuracy": pytest.approx(100 * np.mean(right))}
    assert (found["worst_group"], found["worst_group_accuracy"]) == ("b, night", 0)
    asked = targets[:, 1] >= 0
    of_class = 100 * ((scores[asked, 1] >= 0.5) == targets[asked, 1]).mean()
    assert found["whole"] == {"samples": asked.sum(), "accuracy": pytest.approx(of_class)}
    assert found["group_gap"] == pytest.approx(of_class)


def test_nothing_that_is_known_has_no_groups() -> None:
    assert group_measures(np.full((3, 2), -1), np.zeros((3, 2)), ["x"] * 3, ("a", "b"))["groups"] == {}
