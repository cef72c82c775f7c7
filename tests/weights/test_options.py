"""Whose weights, which of them, by which recipe, trusted or not: what is typed arrives where weights are read."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from attnbias.methods.engine.stored import EXPORTED, KEY
from tests.helpers.command_line import Result, attnbias
from tests.helpers.small_model import DIGITS, write_model

SMALL = ("--image-size", 64)


class Foreign(Namespace):
    """What only a trusted checkpoint may hold."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as authors write them, which tell no lam: tensors alone, raw and averaged ones, a foreign object."""
    folder = tmp_path_factory.mktemp("published")
    states = [load_file(write_model(folder / f"{seed}.safetensors", seed=seed, backbone="resnet18")) for seed in (0, 1)]
    torch.save(states[0], folder / "plain.pth")
    torch.save({"model": states[0], "model_ema": states[1]}, folder / "both.pth")
    torch.save({"model": states[0], "args": Foreign()}, folder / "foreign.pth")
    return {name: folder / f"{name}.pth" for name in ("plain", "both", "foreign")}


Run = Callable[..., Result]


@pytest.fixture
def commands(demo_root: Path, tmp_path: Path) -> dict[str, Run]:
    """Each command that reads weights; what each writes stands in a folder of its name."""
    image = min((demo_root / "demo" / "images" / "val").iterdir())
    data = ("--data-root", demo_root)

    def named(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return folder

    def val(file: Path, *more: Any) -> Result:
        out = named("val") / "scores.csv"
        return attnbias(
            "val", "csra", "--load-from", file, "--dataset", "demo", *SMALL, *data, "--csv", out, "--gpus", 0, *more
        )

    def predict(file: Path, *more: Any) -> Result:
        out = named("predict") / "scores.csv"
        return attnbias("predict", "--load-from", file, image, "--csv", out, "--gpus", 0, *more)

    def visualize(file: Path, *more: Any) -> Result:
        out = named("visualize") / "out"
        asked = ("--classes", 3, "--npz", "--out", out, "--device", "cpu")
        return attnbias("visualize", "csra", "--load-from", file, image, *asked, *more)

    def export(file: Path, *more: Any) -> Result:
        out = named("export") / "model.pt2"
        return attnbias("export", "csra", "--load-from", file, "--format", "torch-export", "--out", out, *SMALL, *more)

    def convert(file: Path, *more: Any) -> Result:
        return attnbias("weights", "convert", file, "--to", named("convert") / "ours.safetensors", *more)

    def inspect(file: Path, *more: Any) -> Result:
        return attnbias("weights", "inspect", file, *more)

    def audit(file: Path, *more: Any) -> Result:
        out, quick = named("audit") / "out", ("--limit", 1, "--faithfulness", 1, "--device", "cpu")
        return attnbias("audit", file, "demo", *quick, *SMALL, *data, "--out", out, *more)

    def train(file: Path, *more: Any) -> Result:
        small = (
            "--recipe",
            "demo",
            "--backbone",
            "resnet18",
            "--steps",
            1,
            "--gpus",
            0,
            *data,
            "--out",
            named("train") / "run",
        )
        return attnbias("train", "csra", "--load-from", file, *small, *more)

    return {name: run for name, run in locals().items() if callable(run) and name not in ("named",)}


READERS = ("val", "predict", "visualize", "export", "convert", "inspect", "train", "audit")


@pytest.mark.parametrize("command", READERS)
def test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed(
    command: str, commands: dict[str, Run], published: dict[str, Path]
) -> None:
    refused = commands[command](published["foreign"])
    assert refused.code == 3
    assert "--trust-checkpoint" in refused.line
    if command == "export":  # what is asked next is refused, so that nothing is exported
        asked = commands[command](published["foreign"], "--trust-checkpoint", "--classes", "none")
        assert "no class 'none'" in asked.err
        return
    trusted = commands[command](published["foreign"], "--trust-checkpoint")
    assert trusted.code == 0, trusted.err


def scores(file: Path) -> np.ndarray:
    rows = list(csv.reader(file.read_text().splitlines()))
    columns = [place for place, name in enumerate(rows[0]) if name.removeprefix("score:").startswith("digit_")]
    columns = columns or list(range(1, len(rows[0])))
    return np.array([[float(row[place]) for place in columns] for row in rows[1:]])


def written(command: str, folder: Path) -> np.ndarray:
    """What a command computed of the first image with the weights that it read, as one array."""
    if command in ("val", "predict"):
        return scores(folder / command / "scores.csv")
    if command == "visualize":
        with np.load(folder / command / "out" / "maps.npz") as arrays:
            return np.asarray(arrays["maps_0"])
    return load_file(folder / command / "ours.safetensors")["classifier.weight"].numpy()


@pytest.mark.parametrize("command", ["val", "predict", "visualize", "convert"])
def test_raw_or_averaged_weights_are_read_as_typed(
    command: str, commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    found = {}
    for kind in ("raw", "ema"):
        done = commands[command](published["both"], "--weights", kind, "--overwrite")
        assert done.code == 0, done.err
        found[kind] = written(command, tmp_path)
    plain = commands[command](published["plain"], "--overwrite")
    assert plain.code == 0, plain.err
    np.testing.assert_allclose(found["raw"], written(command, tmp_path), atol=1e-6)
    assert not np.allclose(found["ema"], found["raw"], atol=1e-4)


@pytest.mark.parametrize("command", ["val", "predict", "visualize"])
def test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed(
    command: str, commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    found = []
    for recipe in ("demo", "voc07-resnet101"):  # lam 0.5 at 64 pixels, lam 0.1 at 448
        done = commands[command](published["plain"], "--recipe", recipe, "--overwrite")
        assert done.code == 0, done.err
        found.append(written(command, tmp_path))
    assert found[0].shape != found[1].shape or not np.allclose(found[0], found[1], atol=1e-4)


def test_a_converted_file_holds_the_recipe_that_was_typed(
    commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    for recipe, lam in (("demo", 0.5), ("voc07-resnet101", 0.1)):
        done = commands["convert"](published["plain"], "--recipe", recipe, "--overwrite")
        assert done.code == 0, done.err
        with safe_open(tmp_path / "convert" / "ours.safetensors", "pt") as file:
            (said,) = (json.loads(text) for text in file.metadata().values() if '"lam"' in text)
        assert said["recipe"]["lam"] == lam


def test_a_graph_is_of_the_recipe_that_was_typed_and_replaces_another_only_where_that_is_typed(
    commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    for recipe, lam, more in (("demo", 0.5, ()), ("voc07-resnet101", 0.1, ("--overwrite",))):
        done = commands["export"](published["plain"], "--recipe", recipe, *more)
        assert done.code == 0, done.err
        assert "images (B, 3, 64, 64)" in done.out  # --image-size, a field of the recipe, goes before its own
        extra = {EXPORTED: ""}
        torch.export.load(tmp_path / "export" / "model.pt2", extra_files=extra)
        assert json.loads(extra[EXPORTED])["recipe"]["lam"] == lam
        refused = commands["export"](published["plain"])
        assert refused.code == 2
        assert "--overwrite" in refused.line


def test_a_method_that_is_typed_is_believed_or_refused(
    commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    for command in ("predict", "convert", "inspect"):
        refused = commands[command](published["plain"], "--method", "ida")
        assert refused.code == 3
        assert "'ida'" in refused.line
        done = commands[command](published["plain"], "--method", "csra")
        assert done.code == 0, done.err


def test_what_is_there_is_replaced_only_where_that_is_typed(
    commands: dict[str, Run], published: dict[str, Path], tmp_path: Path
) -> None:
    for command in ("predict", "convert"):
        first = commands[command](published["plain"], "--weights", "raw")
        assert first.code == 0, first.err
        refused = commands[command](published["plain"])
        assert refused.code == 2
        assert "--overwrite" in refused.line
        again = commands[command](published["plain"], "--overwrite")
        assert again.code == 0, again.err


def test_classes_are_named_as_the_set_where_the_data_lie(
    commands: dict[str, Run], published: dict[str, Path], demo_root: Path, tmp_path: Path
) -> None:
    for root, names in ((tmp_path, [f"class {position}" for position in range(10)]), (demo_root, list(DIGITS))):
        told = (published["plain"], "--recipe", "demo", "--data-root", root)
        done = commands["predict"](*told, "--overwrite")
        assert done.code == 0, done.err
        assert next(csv.reader((tmp_path / "predict" / "scores.csv").open())) == ["path", *names]
        assert commands["convert"](*told, "--overwrite").code == 0
        with safe_open(tmp_path / "convert" / "ours.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()[KEY])["classes"] == names
        assert json.loads(commands["inspect"](*told, "--json").out)["methods"][0]["classes"] == names


def test_top_k_and_threshold_choose_what_predict_names(published: dict[str, Path], demo_root: Path) -> None:
    image = min((demo_root / "demo" / "images" / "val").iterdir())
    common = ("predict", "--load-from", published["plain"], image, "--gpus", 0, "--json", "-")

    def named(*more: Any) -> list[float]:
        (found,) = json.loads(attnbias(*common, *more, expect=0).out)["pictures"]
        return [entry["score"] for entry in found["classes"]]

    everything = named("--threshold", 0)
    assert len(everything) == 10
    assert everything == sorted(everything, reverse=True)
    middle = everything[4]
    assert named("--threshold", middle - 1e-6) == everything[:5]
    assert named("--threshold", 0, "--top-k", 3) == everything[:3]
    assert named() == [score for score in everything if score >= 0.5]
