"""Mixed precision is for training steps, and for passes of a command where it is typed: what a run logs is what `val`
finds in its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest, ValRequest
from attnbias.methods.engine.training.train import train
from attnbias.methods.engine.validate import validate
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model


@pytest.fixture(autouse=True)
def another_precision() -> Iterator[None]:
    """Accelerate keeps one precision for the whole of a process, and other tests train in float32."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("name", ["absvit", "csra", "ida", "llb", "lsas"])
def test_evaluation_while_training_in_bf16_is_what_val_finds(name: str, demo_root: Path, tmp_path: Path) -> None:
    changes = {"epochs": 1, "batch_size": 24, "image_size": 32, "amp": "bf16", "ema_decay": 0.5}
    recipe = override(get_method(name).named_recipe("demo").recipe, changes)
    out = tmp_path / "run"
    machine: dict[str, Any] = {"method": name, "data_root": demo_root, "gpus": 0}
    train(TrainRequest(recipe=recipe, out=out, **machine))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = {line["weights"]: line for line in lines if line["split"] == "val"}
    assert list(logged) == ["raw", "ema"]
    AcceleratorState._reset_state()
    for weights in ("raw", "ema"):
        (found,) = validate(ValRequest(load_from=[str(out)], weights=weights, **machine))
        measures = {key: value for key, value in logged[weights].items() if key in found["measures"]}
        assert measures == found["measures"]


@pytest.fixture
def convolved() -> Iterator[set[torch.dtype]]:
    """What convolutions gave, in this process."""
    seen: set[torch.dtype] = set()

    def see(module: nn.Module, _inputs: object, output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            seen.add(output.dtype)

    handle = register_module_forward_hook(see)
    yield seen
    handle.remove()


def test_val_computes_in_the_precision_that_was_typed_and_says_so(
    convolved: set[torch.dtype], demo_root: Path, tmp_path: Path
) -> None:
    """Its maps too; figures come close, and a folder of their own says which they are."""
    model = write_model(tmp_path / "model.safetensors")
    scores, energy = [], []
    for amp, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        convolved.clear()
        out, table, bias = (tmp_path / f"{amp}{name}" for name in (".json", ".csv", "-bias"))
        typed = ("--bias", "--bias-out", bias, "--data-root", demo_root, "--gpus", 0, "--json", out, "--csv", table)
        said = attnbias("val", "csra", "--load-from", model, *typed, *(["--amp", amp] if amp != "no" else []), expect=0)
        assert convolved == {dtype}
        assert ("computed with --amp bf16" in said.out) == (amp == "bf16")
        (result,) = json.loads(out.read_text())
        assert result["amp"] == amp
        assert json.loads((bias / "bias.json").read_text()).get("amp", "no") == amp
        rows = np.loadtxt(table, delimiter=",", skiprows=1, dtype=str)
        scores.append(rows[:, 1 + len(result["classes"]) :].astype(float))
        energy.append(result["bias"]["means"]["energy"])
    assert 0 < np.abs(scores[1] - scores[0]).max() < 0.05
    assert energy[1] == pytest.approx(energy[0], rel=0.05)


def test_predict_and_visualize_compute_in_the_precision_that_was_typed_and_say_so(
    convolved: set[torch.dtype], demo_root: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    photos, page = demo_root / "demo" / "images" / "val", tmp_path / "gallery" / "gallery.html"
    for amp, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        convolved.clear()
        common = ("--load-from", model, photos, "--gpus", 0, "--amp", amp)
        found = attnbias("predict", *common, "--json", "-", expect=0)
        assert json.loads(found.out)["amp"] == amp
        drawn = attnbias(
            "visualize", "csra", *common, "--limit", 2, "--top", 2, "--out", page.parent, "--overwrite", expect=0
        )
        assert convolved == {dtype}
        for said in (found.err, drawn.err, page.read_text()):
            assert ("computed with --amp bf16" in said) == (amp == "bf16")


@pytest.mark.parametrize("command", [("val", "csra"), ("predict",), ("visualize", "csra")])
def test_a_precision_that_a_cpu_has_not_is_refused_as_in_training(
    command: tuple[str, ...], demo_root: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    images = () if command[0] == "val" else (demo_root / "demo" / "images" / "val",)
    typed = (*command, "--load-from", model, *images, "--data-root", demo_root, "--gpus", 0, "--amp", "fp16")
    assert "--amp fp16 needs a GPU; on the CPU use --amp bf16 or --amp no" in attnbias(*typed, expect=2).line


def test_figures_that_runs_are_compared_by_are_stored_in_float32_alone(demo_root: Path, tmp_path: Path) -> None:
    line = attnbias("val", "csra", "--load-from", tmp_path, "--store", "--amp", "bf16", expect=2).line
    assert "--store keeps the figures that runs are compared by, in float32" in line
