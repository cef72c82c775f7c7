"""What `compare` reads of runs and says of two: curves, stored evaluations, paired differences, equal scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnbias.methods.engine.evaluation.comparison import Change, Line, Run, compared, read_run, reading_aid
from attnbias.methods.engine.evaluation.comparison_tables import cell
from attnbias.methods.engine.recipe import write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored_evaluations import (
    Scores,
    StoredEvaluation,
    folder_of,
    make_room,
    store,
    stored_evaluations,
)

IMAGES = 200


def made_up(folder: Path, targets: np.ndarray, scores: np.ndarray, **found: Any) -> Run:
    """A run that holds one stored evaluation with these scores (N, C), and what else was found."""
    content = {"dataset": "demo", "split": "val", "weights": "best", "measures": {}, **found}
    paths = np.array([f"{number:03}.jpg" for number in range(len(targets))])
    store(folder, content, Scores(paths, targets, scores.astype(np.float32)), {})
    method = get_method("csra")
    recipe = method.named_recipe("demo").recipe
    return Run(folder, method, recipe, evaluations={"demo/val": StoredEvaluation(folder, content)})


def accuracy(runs: list[Run]) -> Line:
    return next(line for line in compared(runs) if line.measure in ("mAP", "top1"))


def changed(line: Line) -> Change:
    assert line.changes[1] is not None
    return line.changes[1]


@pytest.mark.parametrize("single", [False, True])
def test_a_clearly_better_second_run_gains_and_its_interval_lies_above_zero(tmp_path: Path, single: bool) -> None:
    rng = np.random.default_rng(0)
    hot = rng.random((IMAGES, 4)) < 0.3
    noise = rng.random(hot.shape)
    targets = hot.argmax(1) if single else hot.astype(np.int64)
    truth = np.eye(4)[targets] if single else targets
    worse, better = (made_up(tmp_path / name, targets, noise + gain * truth) for name, gain in (("a", 0), ("b", 0.4)))
    for runs, sign in (([worse, better], 1), ([better, worse], -1)):
        line = accuracy(runs)
        change = changed(line)
        assert line.values[0] is not None
        assert line.values[1] is not None
        assert change.difference == pytest.approx(line.values[1] - line.values[0])
        low, high = sorted(sign * edge for edge in change.interval_95)
        assert 0 < low < sign * change.difference < high


def test_a_difference_is_marked_only_where_it_holds_among_all_that_are_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((IMAGES, 3)) < 0.3).astype(np.int64)
    noise = rng.random(targets.shape)
    gains = [0, 1, *np.linspace(0, 0.08, 8)]  # one is better beyond doubt, the others a little, if at all
    scores = [noise + gain * targets + 0.3 * rng.random(targets.shape) for gain in gains]
    line = accuracy([made_up(tmp_path / str(number), targets, each) for number, each in enumerate(scores)])
    changes = [change for change in line.changes if change]
    alone, together = ([getattr(change, name) for change in changes] for name in ("p", "p_together"))
    assert sum(p <= 0.05 < of_all for p, of_all in zip(alone, together, strict=True)) > 0
    marked = [cell(50.0, change).endswith("*") for change in changes]
    assert marked == [p <= 0.05 for p in together]
    assert marked[0]
    assert f"* marks the {sum(marked)} that hold" in reading_aid([line])[0]


def test_runs_whose_labels_or_images_differ_are_not_paired(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random((IMAGES, 3)) < 0.4).astype(np.int64)
    scores = rng.random(targets.shape)
    found = {"backgrounds": {"truth": "boxes", "means": {"bg_gap": 0.2}, "intervals_95": {"bg_gap": [0.1, 0.3]}}}
    first, same = (made_up(tmp_path / name, targets, scores, **found) for name in "ab")
    relabelled = targets.copy()
    relabelled[7, 1] = 1 - relabelled[7, 1]
    others = [
        made_up(tmp_path / "c", relabelled, scores, **found),
        made_up(tmp_path / "d", targets[:-1], scores[:-1], **found),
    ]
    line = accuracy([first, same, *others])
    gap = next(line for line in compared([first, same, *others]) if line.measure == "bg_gap")
    assert changed(gap).difference == 0
    assert gap.changes[2:] == [None, None]
    assert changed(line).interval_95 == (0, 0)
    assert line.changes[2:] == [None, None]
    assert None not in line.values
    assert line.remarks == [
        f"demo/val: {tmp_path / name} was evaluated on other {what} than {tmp_path / 'a'}: no difference"
        for name, what in (("c", "labels"), ("d", "images"))
    ]


def test_runs_against_other_objects_or_pairs_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((IMAGES, 3)) < 0.5).astype(np.int64)
    scores = rng.random(targets.shape)
    runs = []
    for name, truth, company in (("a", "boxes", "y"), ("b", "boxes", "y"), ("c", "masks", "z")):
        part = {"truth": truth, "means": {"kept": 0.5, "bg_gap": 0.2}}
        pair = {"class": "x", "context": company, "cooccur_AP": 50.0, "exclusive_AP": 40.0}
        found = {"reliance": part, "backgrounds": part, "classes": [*"xyz"], "context": {"pairs": [pair]}}
        runs.append(made_up(tmp_path / name, targets, scores, **found))
    lines = {line.measure: line for line in compared(runs)}
    for measure, part in (("bg_gap", "backgrounds"), ("kept", "reliance")):
        assert changed(lines[measure]).difference == 0
        assert lines[measure].changes[2] is None
        assert lines[measure].remarks == [
            f"demo/val: {part} of {tmp_path / 'c'} is of masks, that of {tmp_path / 'a'} of boxes: no difference"
        ]
    assert [line.measure for line in lines.values() if any("the pairs of" in words for words in line.remarks)] == [
        "cooccur_AP"
    ]
    assert lines["cooccur_AP"].remarks[0].startswith(f"demo/val: the pairs of {tmp_path / 'c'} are others")


def test_a_comparison_takes_equal_scores_together_whatever_a_paper_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    targets = (rng.random((IMAGES, 2)) < 0.3).astype(np.int64)
    constant, sorted_last = np.full(targets.shape, 0.5), np.argsort(targets[:, 0], kind="stable")
    runs = [made_up(tmp_path / str(k), targets[order], constant) for k, order in enumerate((slice(None), sorted_last))]
    assert accuracy(runs).values == pytest.approx([100 * targets.mean()] * 2)


@pytest.mark.parametrize(("ema", "drawn"), [(30.0, "raw"), (50.0, "ema")])
def test_curves_are_of_the_weights_that_are_best_on_the_first_split(tmp_path: Path, ema: float, drawn: str) -> None:
    """On the second split the other weights are better."""
    method = get_method("csra")
    write_recipe(tmp_path / "recipe.yaml", method.named_recipe("demo").recipe, method.name)
    figures = {"val": {"raw": 40.0, "ema": ema}, "counter": {"raw": 10 + ema, "ema": 50.0}}
    lines = [
        {"step": epoch, "epoch": epoch, "split": split, "weights": weights, "mAP": value + epoch}
        for epoch in (1, 2)
        for split, found in figures.items()
        for weights, value in found.items()
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = read_run(tmp_path)
    expected = {split: {epoch: found[drawn] + epoch for epoch in (1, 2)} for split, found in figures.items()}
    assert (run.curves, run.measure) == (expected, "mAP")


def test_a_new_evaluation_of_the_same_weights_is_the_one_that_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "demo", "val")
    content = {"dataset": "demo", "split": "val", "weights": "best"}
    store(folder, {**content, "measures": {"mAP": 1.0}, "reliance": {"means": {}}}, None, {})
    store(folder, {**content, "measures": {"mAP": 2.0}}, None, {})
    (stored,) = stored_evaluations(tmp_path)
    assert stored.content["measures"] == {"mAP": 2.0}
    assert "reliance" in stored.content, "what was not measured anew stays"


def test_nothing_of_other_weights_stays_beside_an_evaluation(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "demo", "val")
    content = {"dataset": "demo", "split": "val", "measures": {}}
    store(folder, {**content, "weights": "best", "reliance": {"means": {}}}, None, {})
    make_room(folder, "newest", None)
    store(folder, {**content, "weights": "newest"}, None, {})
    (stored,) = stored_evaluations(tmp_path)
    assert stored.content == {**content, "weights": "newest"}


def test_groups_of_before_are_shown_and_not_held_against_those_of_now(tmp_path: Path) -> None:
    """Then a group was an attribute alone; now it is a label under one."""
    groups = {
        "old": {"worst_group": "water", "groups": {"water": {"samples": 50, "top1": 40.0}}},
        "now": {
            "worst_group": "bird, water",
            "groups": {
                "bird, water": {"samples": 40, "accuracy": 50.0},
                "bird, land": {"samples": 60, "accuracy": 90.0},
            },
            "whole": {"samples": 100, "accuracy": 74.0},
        },
    }
    runs = []
    for name, kind in (("a", "now"), ("b", "now"), ("c", "old")):
        content = {"dataset": "birds", "split": "val", "weights": "best", "measures": {}, "groups": groups[kind]}
        store(folder_of(tmp_path / name, "birds", "val"), content, None, {})
        (stored,) = stored_evaluations(tmp_path / name)
        method = get_method("csra")
        runs.append(Run(tmp_path / name, method, method.named_recipe("demo").recipe, evaluations={"birds/val": stored}))
    lines = {line.measure: line for line in compared(runs)}
    assert lines["worst_group_accuracy"].values == [50, 50, None]
    assert lines["group_gap"].values == [24, 24, None]
    assert lines["worst_group_top1"].values == [None, None, 40]
    assert changed(lines["worst_group_accuracy"]).difference == 0
    assert lines["worst_group_accuracy"].changes[2] is None
