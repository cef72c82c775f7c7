"""A measure of attention is one entry of a table: the files, screens, pages and documentation follow from it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from attnbias.methods.engine import attention_measures
from attnbias.methods.engine.attention_measures import ATTENTION, HEADLINE, AttentionMeasure
from tests.helpers import measure_tables
from tests.helpers.command_line import attnbias

REPO = Path(__file__).parents[2]
CPU = ["--gpus", 0, "--threads", 1]


def test_a_measure_that_is_added_to_the_table_is_everywhere(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    small = ["--recipe", "demo", "--epochs", 1, "--batch-size", 24, "--image-size", 32, *CPU]
    attnbias("train", "csra", *small, "--data-root", demo_root, "--out", run, expect=0)
    common = ["val", "csra", "--load-from", run, "--data-root", demo_root, *CPU, "--bias", "--store"]
    attnbias(*common, "--split", "counter", expect=0)  # a run that was evaluated before the measure was there
    added = AttentionMeasure(
        "covered",
        "share of the object above a tenth of the highest value",
        "higher",
        of_sample=lambda held: np.asarray(((held.level > 0.1) & held.masks).sum((1, 2)) / held.masks.sum((1, 2))),
        shown=5,
        compared="paired",
    )
    monkeypatch.setattr(attention_measures, "ATTENTION", (*ATTENTION, added))
    said = attnbias(*common, "--split", "val", "--json", tmp_path / "val.json", expect=0).out
    (result,) = json.loads((tmp_path / "val.json").read_text())
    mean = result["bias"]["means"]["covered"]
    assert 0 <= mean <= 1
    assert "covered" in result["bias"]["intervals_95"]
    rows = [line.split()[0] for line in said.splitlines() if line.split()]
    assert rows.index("covered") + 1 == rows.index("position_biased")
    assert f"{mean:.3f}" in next(line for line in said.splitlines() if line.startswith("covered"))
    again = shutil.copytree(run, tmp_path / "again")
    asked = ["compare", run, again, "--page", "--split", "val", "--limit", 2, "--data-root", demo_root]
    assert "covered" in attnbias(*asked, "--out", out, expect=0).out
    with (out / "comparison.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["measure"] == "covered"]
    by_split = {split: [row for row in found if row["split"] == split] for split in ("demo/val", "demo/counter")}
    assert float(by_split["demo/val"][0]["value"]) == pytest.approx(mean)
    assert by_split["demo/val"][1]["difference"] == "0"
    assert [row["value"] for row in by_split["demo/counter"]] == ["", ""]  # and is still read
    assert '"covered"' in (out / "comparison.html").read_text()


def test_each_name_is_there_once_and_of_one_kind() -> None:
    names = [measure.name for measure in ATTENTION]
    assert len({*names}) == len(names)
    places = [measure.shown for measure in ATTENTION if measure.shown is not None]
    assert len({*places}) == len(places)
    for measure in ATTENTION:
        assert measure.of_sample is None or measure.of_all is None, measure.name
        assert measure.of_sample or measure.ratio or measure.compared != "paired", measure.name
        assert not measure.ratio or {*measure.ratio} <= {each.name for each in ATTENTION if each.of_sample}
        assert measure.of_sample or not measure.between, measure.name
        assert measure.of_sample or not measure.flag, measure.name
    (headline,) = (measure for measure in ATTENTION if measure.name == HEADLINE)
    assert (headline.better, headline.compared) == ("higher", "paired")  # pages show the lowest first


def test_the_documentation_has_exactly_the_table() -> None:
    assert measure_tables.attention() in (REPO / "methods" / "engine" / "bias" / "README.md").read_text()
