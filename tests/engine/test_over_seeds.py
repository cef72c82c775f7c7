"""`compare` takes runs of one recipe with other seeds together, and says what a run gains at equal accuracy."""

from __future__ import annotations

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from attnbias.methods.engine.evaluation.comparison import Line, Run
from attnbias.methods.engine.evaluation.over_seeds import at_equal_accuracy, by_recipe, over_seeds
from attnbias.methods.engine.metrics import tied_scores
from attnbias.methods.engine.recipe import override, write_recipe
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.statistics import repeated
from attnbias.methods.engine.stored_evaluations import Scores, folder_of, store
from tests.helpers.command_line import attnbias

CSRA = get_description("csra")


def run_of(name: str, seed: int, lam: float = 0.5, **more: Any) -> Run:
    recipe = override(CSRA.named_recipe("demo").recipe, {"seed": seed, "lam": lam})
    return Run(Path(name), CSRA, recipe, **more)


def values(line: Line | None) -> list[float | None]:
    assert line is not None
    return line.values


# Which runs belong together -------------------------------------------------------------------------------------------


def test_runs_that_differ_in_nothing_but_the_seed_are_taken_together(tmp_path: Path) -> None:
    started = []
    for seed in (0, 1):
        started.append(tmp_path / f"pretrained-{seed}")
        started[-1].mkdir()
        recipe = override(CSRA.named_recipe("demo").recipe, {"seed": seed})
        write_recipe(started[-1] / "recipe.yaml", recipe, "csra")
    runs = [
        run_of("runs/plain-0", 0, lam=0.0),
        run_of("runs/csra-0-a", 0),
        run_of("runs/csra-1-a", 1),
        run_of("runs/plain-1", 1, lam=0.0),
        run_of("runs/again", 1),  # of a seed that is there already
        run_of("runs/other-data", 2, data="other"),
        run_of("runs/tuned-0", 0, started_from=str(started[0])),
        run_of("runs/tuned-1", 1, started_from=str(started[1])),  # of another seed, like itself
        run_of("runs/tuned-2", 2, started_from="imagenet"),
    ]
    assert [recipe.name for recipe in by_recipe(runs)] == [
        "runs/plain-{0,1}",
        "runs/csra-{0,1}-a",
        "runs/again",
        "runs/other-data",
        "runs/tuned-{0,1}",
        "runs/tuned-2",
    ]


def test_a_difference_over_seeds_is_the_paired_t_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain, other = rng.normal(50, 3, 4), rng.normal(55, 3, 4)
    runs = [*(run_of(f"a{seed}", seed, 0) for seed in range(4)), *(run_of(f"b{seed}", seed) for seed in (3, 1, 0, 2))]
    line = Line("demo/val", "mAP", [*plain, *other[[3, 1, 0, 2]]], [None] * 8)
    (pooled,) = over_seeds(by_recipe(runs), [line])
    assert pooled.values == pytest.approx([plain.mean(), other.mean()])
    assert pooled.deviations == pytest.approx([statistics.stdev(plain), statistics.stdev(other)])
    assert (pooled.seeds, pooled.pairs) == ([4, 4], [4, 4])
    expected = stats.ttest_rel(other, plain)
    change = pooled.changes[1]
    assert change is not None
    assert change.p == pytest.approx(expected.pvalue)
    assert change.interval_95 == pytest.approx(expected.confidence_interval(0.95))
    assert change.p_together == change.p


def test_only_seeds_that_both_have_are_paired() -> None:
    runs = [run_of("a0", 0, 0), run_of("a1", 1, 0), run_of("b1", 1), run_of("b5", 5)]
    (pooled,) = over_seeds(by_recipe(runs), [Line("", "mAP", [1.0, 3, 7, 100], [None] * 4)])
    assert (pooled.values, pooled.pairs) == ([2, 53.5], [2, 1])
    change = pooled.changes[1]
    assert change is not None
    assert (change.difference, change.interval_95, change.p) == (4, None, None)
    (pooled,) = over_seeds(by_recipe(runs), [Line("", "iou", [1.0, 3, 7, 100], [None] * 4, apart=[2, 3])])
    assert (pooled.changes[1], pooled.pairs) == (None, [2, 0]), "what no seed makes alike is held against nothing"
    single = [run_of("a", 0, 0), run_of("b", 0)]
    assert over_seeds(by_recipe(single), [Line("", "mAP", [1.0, 2], [None] * 2)]) == []


def test_seeds_that_all_find_the_same_say_nothing_of_the_spread() -> None:
    for differences in ([0.1 + 0.2, 0.3, 0.3], [0.0, 0.0], [5.0]):
        found = repeated(differences)
        assert (found.interval_95, found.p) == (None, None)
        assert found.difference == pytest.approx(differences[0])


# At equal accuracy ----------------------------------------------------------------------------------------------------


def test_a_gain_is_read_where_both_runs_were_equally_good() -> None:
    plain = {"val": {5: 40.0, 10: 60.0, 15: 90.0}, "counter": {5: 20.0, 10: 30.0, 15: 45.0}}
    faster = {"val": {5: 60.0, 10: 95.0}, "counter": {5: 30.0, 10: 47.5}}  # on the plain run's line, and beyond it
    better = {"val": {5: 50.0, 10: 80.0}, "counter": {5: 35.0, 10: 60.0}}
    runs = [
        run_of(name, 0, lam, points=points, measure="mAP")
        for name, lam, points in (("plain", 0, plain), ("faster", 0.2, faster), ("better", 0.4, better))
    ]
    level, gained = at_equal_accuracy(runs, by_recipe(runs))
    assert values(level) == [90, 90, 80]
    assert gained.measure == "counter mAP gained there"
    assert values(gained) == pytest.approx([0, 0, 60 - np.interp(80, [60, 90], [30, 45])])


def test_a_gain_over_a_run_of_the_same_seed_and_none_where_runs_were_never_equally_good() -> None:
    def points(first: float, last: float, counter: float) -> dict[str, dict[int, float]]:
        return {"val": {1: first, 2: last}, "counter": {1: 0.0, 2: counter}}

    runs = [
        run_of("a0", 0, 0, points=points(0, 50, 10), measure="mAP"),
        run_of("a1", 1, 0, points=points(0, 50, 20), measure="mAP"),
        run_of("b1", 1, points=points(0, 50, 50), measure="mAP"),
        run_of("above", 0, points=points(60, 70, 50), measure="mAP"),
        run_of("other", 2, points=points(0, 50, 50), measure="top1"),
    ]
    _, gained = at_equal_accuracy(runs, by_recipe(runs))
    assert values(gained) == [0, 0, 30, None, None]
    assert at_equal_accuracy(runs[:1], by_recipe(runs[:1])) == []
    alone = [replace(run, points={"val": run.points["val"]}) for run in runs]
    assert at_equal_accuracy(alone, by_recipe(alone)) == []


# Ties, and what the command writes ------------------------------------------------------------------------------------


def test_scores_that_equal_one_of_the_other_label_are_counted() -> None:
    targets = np.array([[1, 1], [0, 1], [0, 0], [-1, 0]])
    scores = np.array([[0.5, 0.9], [0.5, 0.9], [0.2, 0.1], [0.2, 0.1]])
    assert tied_scores(targets, scores) == 2  # the first class's upper two; of the unknown one nobody knows
    classes = np.array([0, 1, 2])
    assert tied_scores(classes, np.array([[0.5, 0.5, 0], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7]])) == 1


def test_files_and_screen_hold_what_seeds_and_logs_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(np.int64)
    noise = rng.random(targets.shape)
    paths = np.array([f"{number}.jpg" for number in range(60)])
    runs = []
    for name, lam, gain in (("plain", 0.0, 0.1), ("csra", 0.5, 0.6)):
        for seed in (0, 1, 2):
            run = tmp_path / f"{name}-{seed}"
            run.mkdir()
            recipe = override(CSRA.named_recipe("demo").recipe, {"seed": seed, "lam": lam})
            write_recipe(run / "recipe.yaml", recipe, "csra")
            logged = [
                {"step": step, "epoch": 1, "split": split, "weights": "raw", "mAP": factor * step + seed}
                for step in (10, 20, 40)
                for split, factor in (("val", 2.0), ("counter", 1 + lam))
            ]
            (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in logged))
            scores = noise + gain * targets + 0.2 * rng.random(targets.shape)
            content = {"dataset": "demo", "split": "val", "weights": "best", "measures": {}}
            store(folder_of(run, "demo", "val"), content, Scores(paths, targets, scores.astype(np.float32)), {})
            runs.append(run)
    said = attnbias("compare", *runs, "--out", tmp_path / "out", expect=0).out
    assert "over seeds [95 % interval of differences]" in said
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [recipe["recipe"] for recipe in content["recipes"]] == [
        f"{tmp_path}/{n}-{{0,1,2}}" for n in ("plain", "csra")
    ]
    single = {line["measure"]: line["values"] for line in content["lines"]}
    assert single["tied_scores"] == [0] * 6
    assert single["val mAP that the first run reaches too"] == [80, 81, 82, 80, 81, 82]
    assert single["counter mAP gained there"] == pytest.approx([0, 0, 0, 20, 20, 20])
    pooled = {line["measure"]: line for line in content["lines_over_seeds"]}
    assert pooled.keys() == single.keys()
    expected = stats.ttest_rel(single["mAP"][3:], single["mAP"][:3])
    assert pooled["mAP"]["changes"][1]["interval_95"] == pytest.approx([*expected.confidence_interval(0.95)])
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "mAP"]
    assert [row["seeds"] for row in rows] == [""] * 6 + ["3"] * 2
    assert float(rows[-1]["deviation"]) == pytest.approx(statistics.stdev(single["mAP"][3:]))
    assert float(rows[-1]["low_95"]) == pytest.approx(expected.confidence_interval(0.95)[0])
    assert f"± {statistics.stdev(single['mAP'][3:]):.1f} of 3 (" in (tmp_path / "out" / "comparison.md").read_text()
