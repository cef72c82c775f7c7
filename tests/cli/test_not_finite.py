"""An answer that is not finite is laid to what was typed, by name (2), else to the weights (3); nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model
from tests.helpers.tiny_runs import contents

SIDE = 32
AUDIT = ("--limit", 3, "--faithfulness", 1, "--out", "new", "--device", "cpu")
CPU = ("--gpus", 0)
MORE = {
    "val": CPU,
    "visualize": ("--limit", 2, "--out", "new", *CPU),
    "export": ("--format", "torch-export", "--out", "new.pt2", "--check", "--limit", 2, *CPU),
    "predict": ("datasets/demo/images/val", "--csv", "new.csv", *CPU),
    "audit": ("demo", *AUDIT),
}


@pytest.fixture
def desk(here: Path, demo_root: Path) -> Path:
    """A folder with a prepared set."""
    (here / "datasets").symlink_to(demo_root)
    return here


def asked(command: str, method: str, weights: Path) -> tuple[object, ...]:
    """A command about weights."""
    source = (weights,) if command == "audit" else ("--load-from", weights)
    return (command, *((method,) if command in ("val", "visualize", "export") else ()), *source, *MORE[command])


@pytest.mark.parametrize(
    ("command", "method", "typed"),
    [
        ("val", "absvit", ("--gain", 1e38, "--bias")),
        ("val", "absvit", ("--gain", 1e38, "--faithfulness", 1)),
        ("visualize", "absvit", ("--gain", 1e38)),
        ("val", "absvit", ("--feedback-gain", 1e38)),
        ("audit", "absvit", ("--feedback-gain", 1e38)),
        ("predict", "csra", ("--lam", 1e308)),
        ("visualize", "csra", ("--lam", 1e308)),
        ("val", "csra", ("--temperatures", "1e+308,1e+308,1.0,1.0")),
        ("val", "llb", ("--temperature", 1e-320)),
    ],
)
def test_a_number_that_a_model_does_not_bear_is_named(
    command: str, method: str, typed: tuple[object, ...], desk: Path
) -> None:
    weights = write_model(desk / "model.safetensors", method, image_size=SIDE)
    before = contents(desk)
    line = attnbias(*asked(command, method, weights), *typed, expect=2).err.splitlines()[-1]
    assert "NaN or infinity" in line
    assert f"{typed[0]} {typed[1]}" in line
    assert contents(desk) == before


@pytest.mark.parametrize("command", MORE)
def test_weights_that_are_finite_and_too_large_are_damaged(command: str, desk: Path) -> None:
    weights = write_model(desk / "model.safetensors", "csra", image_size=SIDE)
    with safe_open(weights, "pt") as file:
        about = file.metadata()
    large = {name: value * 1e30 if value.is_floating_point() else value for name, value in load_file(weights).items()}
    assert all(torch.isfinite(value).all() for value in large.values())
    save_file(large, weights, about)
    before = contents(desk)
    line = attnbias(*asked(command, "csra", weights), expect=3).err.splitlines()[-1]
    assert "NaN or infinity: the weights are damaged" in line
    assert contents(desk) == before
