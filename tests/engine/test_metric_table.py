"""A metric is one entry of a table: evaluations, screens, comparisons and the documentation follow from it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from attnbias.methods.engine import metrics
from attnbias.methods.engine.metrics import METRICS, Metric, names
from tests.helpers import measure_tables
from tests.helpers.command_line import attnbias

REPO = Path(__file__).parents[2]
CPU = ["--gpus", 0, "--threads", 1]


def test_a_metric_that_is_added_to_the_table_is_everywhere(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = Metric(
        "highest",
        "share of images whose highest score is of a label that they have",
        labels="multilabel",
        of_sample=lambda targets, scores: targets[range(len(targets)), scores.argmax(1)] == 1,
        brief=True,
        compared=True,
        robustness=True,
    )
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, added))
    run = tmp_path / "run"
    small = ["--recipe", "demo", "--epochs", 1, "--batch-size", 24, "--image-size", 32, *CPU]
    said = attnbias("train", "csra", *small, "--data-root", demo_root, "--out", run, expect=0).out
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (value,) = (line["highest"] for line in logged if line["split"] == "val")
    assert 0 <= value <= 100
    assert f"highest {value:.4g}" in said
    asked = ["val", "csra", "--load-from", run, "--data-root", demo_root, *CPU, "--attack", "fgsm", "--store"]
    said = attnbias(*asked, "--json", tmp_path / "val.json", expect=0).out
    (result,) = json.loads((tmp_path / "val.json").read_text())
    assert result["measures"]["highest"] == value
    assert sum("highest" in line for line in said.splitlines()) == 2  # among the metrics, and under attack
    again = shutil.copytree(run, tmp_path / "again")
    attnbias("compare", run, again, "--out", tmp_path / "out", expect=0)
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["measure"].endswith("highest")]
    assert [(row["measure"], row["difference"]) for row in rows[:2]] == [("highest", ""), ("highest", "0")]
    assert float(rows[0]["value"]) == pytest.approx(value)
    assert {row["measure"].partition(":")[0] for row in rows[2:]} == {"demo/val", "demo/val fgsm"}


def test_each_metric_is_there_once_and_of_one_kind() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.of_sample is None or metric.of_all is None, metric.name
        assert bool(metric.of_sample or metric.of_all) == (metric.labels is not None), metric.name


def test_the_documentation_has_exactly_the_table() -> None:
    assert measure_tables.metrics() in (REPO / "methods" / "engine" / "README.md").read_text()


def test_each_task_shows_a_measure_while_it_trains() -> None:
    shown = names(lambda metric: metric.brief)
    assert {"mAP", "top1", "mIoU", "vqa_score", "accuracy", "ir_r1", "tr_r1"} <= {*shown}
