"""Recipes, checkpoints and commands that call a field by its name of earlier versions go on working."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import stored_info
from attnbias.methods.engine.recipe import OLD_NAMES, Recipe, parse, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored import KEY
from tests.helpers.command_line import attnbias

THEN: dict[str, dict[str, Any]] = {
    "lsas": {"milestones": (5, 9), "lr_gamma": 0.3},
    "llb": {"scheduler": "multistep", "lr_steps": (5, 9), "lr_step": 7, "lr_gamma": 0.3, "eta_min": 1e-5},
    "absvit": {"scheduler": "step", "decay_epochs": 7, "decay_rate": 0.3, "min_lr": 1e-5},
    "absvit-vision-language": {"warmup": 0.2, "decay_power": 2.0, "end_lr": 1e-6},
}
"""Fields as they were written by earlier versions."""


def of_then(method: str) -> tuple[dict[str, Any], Recipe]:
    """A whole recipe under the names of earlier versions, and the same under today's."""
    kind = get_method(method).recipe_type
    today = {OLD_NAMES.get(name, name): value for name, value in THEN[method].items()}
    rest = kind().model_dump(mode="json")
    written = {name: value for name, value in rest.items() if name not in today} | THEN[method]
    return written, kind(**today)


@pytest.mark.parametrize("method", THEN)
def test_a_recipe_file_with_old_names_is_read(method: str, tmp_path: Path) -> None:
    written, recipe = of_then(method)
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in {"method": method, **written}.items()))
    kind = get_method(method).recipe_type
    assert read_recipe(path, kind, method) == recipe
    write_recipe(path, recipe, method)
    assert read_recipe(path, kind, method) == recipe
    names = {line.split(":")[0] for line in path.read_text().splitlines()}
    assert not names & set(OLD_NAMES)


@pytest.mark.parametrize("method", THEN)
def test_a_checkpoint_with_old_names_is_read(method: str, tmp_path: Path) -> None:
    written, recipe = of_then(method)
    path = tmp_path / "model.safetensors"
    said = {"method": method, "recipe": written, "classes": ["a", "b"], "task": "singlelabel"}
    save_file({}, path, {KEY: json.dumps(said)})
    assert stored_info(path, get_method(method)).recipe == recipe


def test_an_old_flag_is_another_name_of_todays(demo_root: Path) -> None:
    words = ["train", "llb", "--recipe", "demo", "--scheduler", "multistep", "--epochs", 4, "--dry-run"]
    words += ["--data-root", demo_root]
    then = attnbias(*words, "--lr-steps", "1,3", "--lr-gamma", 0.5, expect=0).out
    assert then == attnbias(*words, "--milestones", "1,3", "--gamma", 0.5, expect=0).out
    help_text = attnbias("train", "llb", "--help-all", expect=0).out
    assert "--milestones" in help_text
    assert "--lr-steps" not in help_text
    twice = attnbias(*words, "--gamma", 0.5, "--lr-gamma", 0.5, expect=2)
    assert "'gamma' is given twice" in twice.err


def test_a_field_under_both_names_is_refused() -> None:
    with pytest.raises(UsageError, match="'gamma' is given twice"):
        parse(get_method("llb").recipe_type, {"gamma": 0.1, "lr_gamma": 0.1})


def test_every_old_name_was_one_of_a_field_that_is_there() -> None:
    fields = {name for method in METHODS for name in get_method(method).recipe_type.model_fields}
    assert set(OLD_NAMES.values()) <= fields
    assert not set(OLD_NAMES) & fields
