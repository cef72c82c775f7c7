"""`train --bias-every N`: the curve is that of `val --bias`, and the run is the same run, byte by byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from attnbias.methods.engine.evaluation.comparison import read_run
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training import watch
from tests.engine.test_training import run, same_state, tiny_recipe
from tests.helpers.command_line import attnbias

RECIPE = {"epochs": 3, "ema_decay": None}


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_bias(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith("bias")}


@pytest.fixture(scope="module")
def watched(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs x 4 steps that is looked at after the second one, and at its end."""
    out = tmp_path_factory.mktemp("watched") / "run"
    run(out, demo_root, tiny_recipe(**RECIPE), bias_every=2, save_steps=1, keep=100)
    return out


def test_the_run_is_the_same_byte_by_byte_with_and_without(demo_root: Path, watched: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", demo_root, tiny_recipe(**RECIPE), save_steps=1, keep=100)
    for step in range(1, 13):
        one, other = (RunFolder(out).folder(step) for out in (watched, tmp_path / "run"))
        assert same_state(one, other), step
    assert [without_bias(line) for line in lines(watched)] == lines(tmp_path / "run")
    assert [line["epoch"] for line in lines(watched) if "bias_of" in line] == [2, 3]


def test_a_run_that_is_resumed_writes_the_same_curve(demo_root: Path, watched: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "metrics.jsonl").write_bytes((watched / "metrics.jsonl").read_bytes())
    source = str(RunFolder(watched).folder(6))
    run(out, demo_root, tiny_recipe(**RECIPE), bias_every=2, save_steps=1, keep=100, resume=source)
    assert (out / "metrics.jsonl").read_bytes() == (watched / "metrics.jsonl").read_bytes()
    assert same_state(RunFolder(out).folder(12), RunFolder(watched).folder(12))


def test_the_last_point_is_what_val_measures(demo_root: Path, watched: Path) -> None:
    """The demo's validation split has fewer images than are drawn: all of them are looked at."""
    (last,) = [line for line in lines(watched) if line["step"] == 12 and "bias_of" in line]
    newest = RunFolder(watched).folder(12)
    asked = ("val", "csra", "--load-from", newest, "--data-root", demo_root, "--gpus", 0, "--bias", "--json", "-")
    (result,) = json.loads(attnbias(*asked, expect=0).out)
    assert last["bias_of"]["images"] == min(watch.IMAGES, result["samples"])
    assert last["bias_of"]["seed"] == 0
    assert last["bias_of"]["truth"] == result["bias"]["truth"]
    assert last["bias_of"]["samples"] == result["bias"]["samples"]
    for name, value in result["bias"]["means"].items():
        assert value is None or math.isclose(last[f"bias/{name}"], value, rel_tol=1e-9), name


def test_the_same_few_images_are_looked_at_each_time(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "IMAGES", 5)
    out = tmp_path / "run"
    asked = ("--recipe", "demo", "--epochs", 2, "--batch-size", 20, "--image-size", 32, "--gpus", 0, "--out", out)
    said = attnbias("train", "csra", *asked, "--bias-every", 1, "--data-root", demo_root, expect=0).out
    assert "attention bias is measured on 5 of the" in said
    assert "bias/area_matched" in said
    found = [line["bias_of"] for line in lines(out) if "bias_of" in line]
    assert [each["images"] for each in found] == [5] * len(found)
    assert len({json.dumps({**each, "skipped": {}}) for each in found}) == 1


def test_compare_draws_the_curve(watched: Path) -> None:
    pytest.importorskip("matplotlib")
    from attnbias.methods.engine.display.plots import learning_curves

    read = read_run(watched)
    (curve,) = read.bias_curves.values()
    assert curve == {line["epoch"]: line["bias/area_matched"] for line in lines(watched) if "bias_of" in line}
    accuracy, bias = learning_curves([read]).axes
    assert bias.lines[0].get_ydata().tolist() == [*curve.values()]
    assert "area matched" in bias.get_ylabel()
    assert accuracy.lines


def test_a_set_without_objects_is_refused_before_any_work(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for number, name in enumerate("abab"):
        path = tmp_path / "set" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    attnbias("prepare-data", "set", cwd=tmp_path, expect=0)
    asked = ("--recipe", "demo", "--dataset", "set", "--image-size", 32, "--gpus", 0, "--bias-every", 1, "--out", "run")
    line = attnbias("train", "csra", *asked, cwd=tmp_path, expect=3).line
    assert "dataset 'set' has no boxes" in line
    assert not (tmp_path / "run").exists()
