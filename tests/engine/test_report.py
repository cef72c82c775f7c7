"""The first sentences of `compare --report`: who wins, by how much, and how sure that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnbias.data.index import Index, Record
from attnbias.methods.engine.attention_measures import compared_measures
from attnbias.methods.engine.display.report import Columns, headline
from attnbias.methods.engine.display.report_images import Chosen, what_suggests
from attnbias.methods.engine.evaluation.comparison import Line
from attnbias.methods.engine.evaluation.measure_words import described
from attnbias.methods.engine.metrics import METRICS
from attnbias.methods.engine.statistics import Change
from attnbias.methods.engine.stored_evaluations import Scores

CHOSEN = Chosen("mAP", "demo/val", "demo/counter")


def change(difference: float, low: float, high: float, *, sure: bool = True) -> Change:
    return Change(difference, (low, high), 0.001, p_together=0.01 if sure else 0.5)


def columns(counter: list[float | None], moved: Change, *, val: Change | None = None, seeds: int = 1) -> Columns:
    lines = [
        Line("demo/counter", "mAP", counter, [None, moved]),
        Line("demo/val", "mAP", [95.0, 96.0], [None, val or change(1.0, 0.2, 1.8)]),
        Line("demo/counter", "area_matched", [0.21, 0.48], [None, change(0.27, 0.2, 0.34)]),
    ]
    return Columns(["plain", "csra"], lines, [seeds, seeds])


def test_the_winner_stands_first_with_both_figures_and_the_interval_of_the_difference() -> None:
    said = headline(columns([41.4, 84.0], change(42.6, 40.1, 45.0)), CHOSEN)
    assert said[0] == (
        "csra wins on demo/counter: mAP 84.0 against 41.4, 42.6 more than plain (95 % interval of the difference "
        "+40.1 to +45.0)."
    )
    assert said[1].startswith("On demo/val csra has mAP 96.0 against 95.0, 1.0 more than plain")
    assert said[2] == (
        "Of the attention of csra on demo/counter 48 % is on the object, of that of plain 21 %: 27.0 points more (95 % "
        "interval of the difference +20.0 to +34.0)."
    )
    assert said[-1].startswith("Each was trained once: intervals say what other images would give")


def test_where_the_reference_wins_the_difference_is_told_from_its_side() -> None:
    said = headline(columns([41.4, 30.4], change(-11.0, -13.0, -9.0)), CHOSEN)
    assert said[0] == (
        "plain wins on demo/counter: mAP 41.4 against 30.4, 11.0 more than csra (95 % interval of the difference "
        "+9.0 to +13.0)."
    )
    assert said[1].startswith("On demo/val plain has mAP 95.0 against 96.0, 1.0 less than csra")


def test_a_difference_that_may_be_chance_is_no_win() -> None:
    said = headline(columns([41.4, 42.0], change(0.6, -0.5, 1.7, sure=False)), CHOSEN)
    assert said[0].startswith("csra is not surely better on demo/counter: mAP 42.0 against 41.4, 0.6 more than plain")
    assert said[0].endswith("not sure among all that is compared).")


def test_seeds_are_counted_and_their_intervals_named() -> None:
    said = headline(columns([41.4, 84.0], change(42.6, 40.1, 45.0), seeds=3), CHOSEN)
    assert said[-1].startswith("Figures are means over seeds (3 of plain, 3 of csra)")


def test_one_run_and_runs_without_scores_are_said_to_be_so() -> None:
    alone = Columns(["plain"], [Line("demo/counter", "mAP", [41.4], [None])], [1])
    assert headline(alone, CHOSEN) == [
        "plain reaches mAP 41.4 on demo/counter.",
        "One run stands alone: name another one to compare it with.",
    ]
    assert "run attnbias val with --store" in headline(alone, None)[0]


def test_every_line_of_compare_has_words_and_a_direction_from_its_own_table() -> None:
    for metric in METRICS:
        assert described(metric.name) == (metric.name, metric.words, metric.better, "")
    for measure in compared_measures():
        assert described(measure.name).words == measure.words
        assert described(measure.name).better == measure.better
    lost = described("mAP demo/val - counter")
    assert (lost.better, "mAP is lost" in lost.words) == ("lower", True)
    assert described("pgd: mAP").better == "higher"


def test_what_suggests_a_class_is_measured_where_the_class_is_not_there() -> None:
    """In training photographs of grass had class 0; here they have not, and a run names it all the same."""
    train = index([((1, 0), "grass")] * 9 + [((0, 1), "grass")] + [((0, 1), "sea")] * 10)
    here = index([((0, 1), "grass")] * 10 + [((0, 1), "sea")] * 10 + [((1, 0), "sea")] * 5)
    targets = np.array([record.target for record in here.records])
    fooled, sees = np.full((25, 2), 0.1, np.float32), np.full((25, 2), 0.1, np.float32)
    fooled[:8, 0] = [0.6, 0.7, 0.9, 0.6, 0.6, 0.6, 0.6, 0.6]  # 8 of 10 with grass
    fooled[10, 0] = 0.8  # 1 of 10 without
    paths = np.array([record.path for record in here.records])
    (row,) = what_suggests(here, train, [Scores(paths, targets, each) for each in (fooled, sees)])
    assert (row["thing"], row["label"], row["images"], row["image"]) == ("grass", 0, 10, 2)
    assert row["share"] == pytest.approx(0.9)
    assert row["alone"] == pytest.approx([0.8, 0.0])
    assert row["neither"] == pytest.approx([0.1, 0.0])


def index(rows: list[tuple[tuple[int, ...], str]]) -> Index:
    records = tuple(Record(f"{n}.jpg", target, group=group) for n, (target, group) in enumerate(rows))
    return Index("scenes", "counter", "multilabel", ("cat", "dog"), Path(), records)
