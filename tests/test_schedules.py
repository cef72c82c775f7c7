"""A schedule ends with its run: also where the run's length is given in steps, fewer or more than its epochs have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from command_line import attnbias

from attnbias.methods import METHODS, get_method
from attnbias.methods.engine.recipe import Recipe, revise

STEPS_PER_EPOCH = 50

BY_EPOCH: list[tuple[str, dict[str, Any]]] = [
    ("csra", {"scheduler": "step", "epochs": 12, "warmup_epochs": 2, "decay_epochs": 5}),
    ("csra", {"scheduler": "onecycle", "epochs": 12}),
    ("ida", {"scheduler": "onecycle", "epochs": 12}),
    ("ida", {"scheduler": "multistep", "epochs": 12, "milestones": (6, 9), "warmup_epochs": 2}),
    ("lsas", {"scheduler": "step", "epochs": 12, "milestones": (6, 9), "warmup_epochs": 2}),
    ("lsas", {"scheduler": "cosine", "epochs": 12}),
    ("lsas", {"scheduler": "onecycle", "epochs": 12}),
    ("llb", {"scheduler": "step", "epochs": 12, "lr_step": 5}),
    ("llb", {"scheduler": "multistep", "epochs": 12, "lr_steps": (3, 6)}),
    ("llb", {"scheduler": "exponential", "epochs": 12, "lr_gamma": 0.5}),
    ("llb", {"scheduler": "cosine", "epochs": 12}),
    ("llb", {"scheduler": "oscillating", "epochs": 12, "t_max": 4}),
    ("absvit", {"scheduler": "cosine", "epochs": 12, "warmup_epochs": 2}),
    ("absvit", {"scheduler": "step", "epochs": 12, "warmup_epochs": 2, "decay_epochs": 5}),
    ("absvit", {"scheduler": "smooth", "epochs": 12, "warmup_epochs": 2}),
    ("absvit-segmentation", {"epochs": 12, "warmup_steps": 5}),
    ("absvit-vision-language", {"scheduler": "polynomial", "epochs": 12, "warmup": 0.1}),
    ("absvit-vision-language", {"scheduler": "cosine", "epochs": 12, "warmup": 0.1}),
]


def rates(method: str, recipe: Recipe, steps: int) -> list[float]:
    schedule = get_method(method).schedule(recipe, STEPS_PER_EPOCH)
    return [schedule(step)["lr"] for step in range(steps)]


def recipe_of(method: str, changes: dict[str, Any]) -> Recipe:
    return revise(next(iter(get_method(method).recipes.values())).recipe, changes)


@pytest.mark.parametrize(("method", "changes"), BY_EPOCH, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("steps", [240, 12 * STEPS_PER_EPOCH, 3000])
def test_a_schedule_by_epochs_is_played_within_the_steps(method: str, changes: dict[str, Any], steps: int) -> None:
    """The same course as over whole epochs: at the same share of the run, the same rate."""
    recipe = recipe_of(method, {"steps": None, **changes})
    whole = rates(method, recipe, 12 * STEPS_PER_EPOCH)
    found = rates(method, revise(recipe, {"steps": steps}), steps)
    epochs = [found[steps * epoch // 12] for epoch in range(12)]
    assert epochs == pytest.approx([whole[STEPS_PER_EPOCH * epoch] for epoch in range(12)], rel=0.3, abs=0.02)
    assert max(found) == pytest.approx(max(whole), rel=0.02)
    assert found[-1] == pytest.approx(whole[-1], rel=0.05, abs=0.01)
    if steps == 12 * STEPS_PER_EPOCH:
        assert found == pytest.approx(whole, rel=1e-12)


def test_every_scheduler_of_every_method_is_tried_here() -> None:
    tried = {(method, changes.get("scheduler")) for method, changes in BY_EPOCH}
    for method in METHODS:
        fields = get_method(method).recipe_type.model_fields
        choices = get_args(fields["scheduler"].annotation) if "scheduler" in fields else [None]
        assert {(method, choice) for choice in choices} <= tried


def test_a_dry_run_shows_the_schedule_to_its_end(demo_root: Path) -> None:
    words = ["train", "csra", "--recipe", "demo", "--scheduler", "onecycle", "--lr", 1, "--image-size", 32]
    shown = attnbias(*words, "--steps", 101, "--data-root", demo_root, "--dry-run", expect=0).out
    table = [line.split() for line in shown.splitlines()[-21:]]
    assert [int(row[1]) for row in table] == list(range(0, 101, 5))
    assert max(float(row[2]) for row in table) > 0.99
    assert float(table[-1][2]) < 1e-3
