"""Mixed precision is for training steps: what a run logs is what `val` finds in its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest, ValRequest
from attnbias.methods.engine.training.train import train
from attnbias.methods.engine.validate import validate


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
