"""Groups are labels under attributes (Sagawa et al., ICLR 2020), of single- and of partly labelled multi-label sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnbias.methods.engine.bias.context import group_measures
from attnbias.methods.engine.evaluation.comparison import Run, compared
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.statistics import Ratio, change, change_of_gap, interval, unpaired
from attnbias.methods.engine.stored_evaluations import Scores, folder_of, store, stored_evaluations


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


# Two runs -------------------------------------------------------------------------------------------------------------


def birds(
    rng: np.random.Generator, shares: tuple[float, ...], more: float, images: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of images, and which are right under two runs: most alike; of the first group, `more` under the second."""
    group = np.repeat(np.arange(len(shares)), images)
    hard, own = rng.random(len(group)), rng.random((2, len(group)))
    share = np.array(shares)[group]
    gained = np.where(group == 0, more, 0.0)
    drawn = np.where(rng.random(len(group)) < 0.7, hard, own)
    return group, drawn[0] < share, drawn[1] < share + gained


@pytest.mark.parametrize("more", [0.0, 0.2])
def test_changes_of_the_worst_group_cover_and_raise_few_false_alarms(more: float) -> None:
    rng = np.random.default_rng(0)
    covered, alarms, narrower = np.zeros(2), np.zeros(2), 0
    for _ in range(400):
        group, before, after = birds(rng, (0.4, 0.8, 0.9), more)
        inside = group == 0
        accuracy = change(
            Ratio.mean(before[inside]), Ratio.mean(after[inside]), np.arange(inside.sum()), flags=True, exchanges=199
        )
        gap = change_of_gap(before, after, inside)
        for place, (found, truth) in enumerate(((accuracy, more), (gap, -more * 2 / 3))):
            low, high = found.interval_95 or (1, 0)
            covered[place] += low <= truth <= high
            alarms[place] += found.p is not None and found.p <= 0.05
        own, other = (
            interval(Ratio.mean(flags[inside]), np.arange(inside.sum()), flags=True) for flags in (before, after)
        )
        apart = unpaired(before[inside].mean(), own, after[inside].mean(), other).interval_95 or (0, 0)
        edges = accuracy.interval_95 or (0, 0)
        narrower += edges[1] - edges[0] < apart[1] - apart[0]
    assert (covered >= 0.93 * 400).all()
    assert narrower > 0.95 * 400  # than what the runs' own intervals tell: images are hard or easy for both
    assert more or (alarms <= 0.06 * 400).all()


def test_a_gap_changes_by_what_all_gain_less_what_the_group_gains() -> None:
    inside = np.array([True] * 4 + [False] * 6)
    before, after = np.arange(10) % 2 == 0, np.arange(10) < 8
    gap = [flags.mean() - flags[inside].mean() for flags in (before, after)]
    assert change_of_gap(before, after, inside).difference == pytest.approx(gap[1] - gap[0])
    assert change_of_gap(before, before, inside).difference == 0


@pytest.mark.parametrize("single", [True, False])
def test_runs_are_paired_on_the_images_of_their_worst_group(single: bool, tmp_path: Path) -> None:
    """Of other images, of other attributes, or of another worst group, nothing is paired."""
    rng = np.random.default_rng(0)
    group, before, after = birds(rng, (0.3, 0.9, 0.9, 0.9), 0.3)
    label, attribute = group // 2, np.array(["land", "water"])[group % 2]
    classes = ["landbird", "waterbird"]
    targets = label if single else np.eye(2, dtype=np.int64)[label]

    def run(name: str, right: np.ndarray, attributes: np.ndarray | None) -> Run:
        shown = np.where(right, label, 1 - label)
        scores = np.eye(2, dtype=np.float32)[shown] if single else np.where(right[:, None], targets, 1 - targets) * 0.8
        found = group_measures(targets, scores, attribute.tolist(), classes)
        content = {"dataset": "birds", "split": "val", "weights": "best", "measures": {}, "groups": found}
        folder, paths = tmp_path / name, np.array([f"{number}.png" for number in range(len(group))])
        kept = Scores(paths, targets, scores.astype(np.float32), attributes)
        store(folder_of(folder, "birds", "val"), {**content, "classes": classes}, kept, {})
        (stored,) = stored_evaluations(folder)
        method = get_method("csra")
        return Run(folder, method, method.named_recipe("demo").recipe, evaluations={"birds/val": stored})

    swapped = before.copy()
    swapped[group == 3] = False
    runs = [
        run("first", before, attribute),
        run("second", after, attribute),
        run("old", after, None),
        run("moved", after, attribute[::-1]),
        run("elsewhere", swapped, attribute),
    ]
    lines = {line.measure: line for line in compared(runs)}
    for name, sign in (("worst_group_accuracy", 1), ("group_gap", -1)):
        changes, values = lines[name].changes, lines[name].values
        assert [found.paired for found in changes if found] == [True, False, False, False]
        assert changes[1] is not None
        assert values[0] is not None
        assert values[1] is not None
        assert changes[1].difference == pytest.approx(values[1] - values[0])
        assert changes[1].interval_95 is not None
        assert min(sign * edge for edge in changes[1].interval_95) > 0
