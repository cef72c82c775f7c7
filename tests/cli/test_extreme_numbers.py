"""Numbers of any size: a run is planned at once, or refused in one line; nothing is built or listed to find out."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pytest

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.registry import get_method
from tests.helpers.command_line import attnbias

RECIPES = {"csra": "demo", "ida": "demo", "lsas": "demo-single", "llb": "demo", "absvit": "demo"}
LARGE = [10**6, 2**63 - 1, 10**400]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name in ("demo", "demo-single"):
        prepare(name, None, root, PrepareOptions(settings={"train": 20, "eval": 10, "size": 32}))
    return root


def whole_numbers(method: str) -> list[str]:
    fields = get_method(method).recipe_type.model_fields
    return [name for name, info in fields.items() if "int" in str(info.annotation)]


@pytest.mark.parametrize("method", RECIPES)
def test_every_whole_number_of_a_recipe(method: str, root: Path) -> None:
    words = ["train", method, "--recipe", RECIPES[method], "--data-root", root, "--dry-run"]
    attnbias(*words, expect=0)
    for name in whole_numbers(method):
        for value in LARGE:
            begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            result = attnbias(*words, f"--{name.replace('_', '-')}", value)
            assert result.code in (0, 2), (
                f"{name} {value:.3g}: {result.err}" if value < 1e300 else f"{name}: {result.err}"
            )
            assert result.code == 0 or len(result.line) < 1000
            assert time.monotonic() - begun < 8, (name, value)
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, (name, value)  # in kB
            assert len(result.out.splitlines()) < 500


@pytest.mark.parametrize("method", RECIPES)
def test_the_largest_seed_trains(method: str, root: Path, tmp_path: Path) -> None:
    def train(seed: int, expect: int) -> Any:
        words = ["train", method, "--recipe", RECIPES[method], "--data-root", root, "--gpus", 0, "--threads", 1]
        return attnbias(
            *words, "--steps", 1, "--batch-size", 8, "--seed", seed, "--out", tmp_path / "run", expect=expect
        )

    train(2**64 - 1, 0)
    assert "seed" in train(2**64, 2).line


@pytest.mark.parametrize(("option", "value"), [("--train", 10**12), ("--seed", 2**64), ("--size", 10**6)])
def test_the_built_in_set_refuses_what_it_cannot_make(option: str, value: int, tmp_path: Path) -> None:
    failed = attnbias("prepare-data", "demo", "--root", tmp_path, option, value, expect=3)
    assert option.removeprefix("--") in failed.line
    assert list(tmp_path.iterdir()) == []
