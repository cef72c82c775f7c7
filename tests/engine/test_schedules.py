"""A schedule ends with its run: also where the run's length is given in steps, fewer or more than its epochs have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.schedules import (
    Curve,
    by_epoch,
    by_step,
    constant,
    cosine,
    exponential,
    multi_step,
    oscillating,
    polynomial,
    step,
    warm_up,
)
from attnbias.methods.engine.training.setup import plan_run, run_warnings
from tests.helpers.command_line import attnbias

STEPS_PER_EPOCH = 50

BY_EPOCH: list[tuple[str, dict[str, Any]]] = [
    ("csra", {"scheduler": "step", "epochs": 12, "warmup_epochs": 2, "decay_epochs": 5}),
    ("csra", {"scheduler": "onecycle", "epochs": 12}),
    ("ida", {"scheduler": "onecycle", "epochs": 12}),
    ("ida", {"scheduler": "multistep", "epochs": 12, "milestones": (6, 9), "warmup_epochs": 2}),
    ("lsas", {"scheduler": "step", "epochs": 12, "milestones": (6, 9), "warmup_epochs": 2}),
    ("lsas", {"scheduler": "cosine", "epochs": 12}),
    ("lsas", {"scheduler": "onecycle", "epochs": 12}),
    ("absvit", {"scheduler": "onecycle", "epochs": 12}),
    ("llb", {"scheduler": "onecycle", "epochs": 12}),
    ("plain", {"scheduler": "cosine", "epochs": 12, "warmup_epochs": 2}),
    ("plain", {"scheduler": "onecycle", "epochs": 12}),
    ("llb", {"scheduler": "step", "epochs": 12, "decay_epochs": 5}),
    ("llb", {"scheduler": "multistep", "epochs": 12, "milestones": (3, 6)}),
    ("llb", {"scheduler": "exponential", "epochs": 12, "gamma": 0.5}),
    ("llb", {"scheduler": "cosine", "epochs": 12}),
    ("llb", {"scheduler": "oscillating", "epochs": 12, "t_max": 4}),
    ("absvit", {"scheduler": "cosine", "epochs": 12, "warmup_epochs": 2}),
    ("absvit", {"scheduler": "step", "epochs": 12, "warmup_epochs": 2, "decay_epochs": 5}),
    ("absvit", {"scheduler": "smooth", "epochs": 12, "warmup_epochs": 2}),
    ("absvit-segmentation", {"epochs": 12, "warmup_steps": 5}),
    ("absvit-vision-language", {"scheduler": "polynomial", "epochs": 12, "warmup_steps": 0.1}),
    ("absvit-vision-language", {"scheduler": "cosine", "epochs": 12, "warmup_steps": 0.1}),
]


TORCHS: dict[str, tuple[Curve, Callable[[torch.optim.Optimizer], LRScheduler]]] = {
    "constant": (constant(), lambda o: lr_scheduler.LambdaLR(o, lambda time: 1.0)),
    "oscillating": (oscillating(7, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 7, 0.1)),
    "polynomial": (polynomial(30, 0.9), lambda o: lr_scheduler.PolynomialLR(o, 30, 0.9)),
    "exponential": (exponential(0.8), lambda o: lr_scheduler.ExponentialLR(o, 0.8)),
    "step": (step(4, 0.5), lambda o: lr_scheduler.StepLR(o, 4, 0.5)),
    "multi_step": (multi_step((3, 9), 0.5), lambda o: lr_scheduler.MultiStepLR(o, [3, 9], 0.5)),
    "warm-up times a step": (
        warm_up(step(4, 0.5), 6, start=0.25, how="multiplies"),
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o, 0.25, 1, 6), lr_scheduler.StepLR(o, 4, 0.5)]),
    ),
    "warm-up before a step": (
        warm_up(step(4, 0.5), 6, start=0.25, how="precedes"),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.25, 1, 6), lr_scheduler.StepLR(o, 4, 0.5)], milestones=[6]
        ),
    ),
}
"""Parts and the same of torch; its optimiser starts at rate 1."""


@pytest.mark.parametrize("name", TORCHS)
def test_a_part_has_the_values_of_torchs_scheduler(name: str) -> None:
    curve, build = TORCHS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, expected = build(optimizer), []
    for _ in range(30):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [curve(time) for time in range(30)] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_cosine_ends_where_its_length_does() -> None:
    assert [cosine(4, 0.2)(time) for time in (0, 2, 4, 5)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_a_covering_warm_up_hides_the_beginning_and_may_be_read_ahead() -> None:
    curve = warm_up(multi_step((1, 3), 0.1), 2, ahead=1)
    assert [curve(time) for time in range(4)] == pytest.approx([0.5, 1, 0.1, 0.01])


def test_a_curve_by_epoch_is_played_by_step_or_held_for_an_epoch() -> None:
    curve = polynomial(4)
    smooth, held = by_step(curve, 10), by_epoch(curve, 10)
    assert [smooth(5)["lr"], smooth(15)["lr"]] == pytest.approx([0.875, 0.625])
    assert [held(9)["lr"], held(10)["lr"], held(19)["lr"]] == [1, 0.75, 0.75]


def rates(method: str, recipe: Recipe, steps: int) -> list[float]:
    schedule = get_method(method).schedule(recipe, STEPS_PER_EPOCH)
    return [schedule(step)["lr"] for step in range(steps)]


def recipe_of(method: str, changes: dict[str, Any]) -> Recipe:
    return override(next(iter(get_method(method).recipes.values())).recipe, changes)


@pytest.mark.parametrize(("method", "changes"), BY_EPOCH, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("steps", [240, 12 * STEPS_PER_EPOCH, 3000])
def test_a_schedule_by_epochs_is_played_within_the_steps(method: str, changes: dict[str, Any], steps: int) -> None:
    """The same course as over whole epochs: at the same share of the run, the same rate."""
    recipe = recipe_of(method, {"steps": None, **changes})
    whole = rates(method, recipe, 12 * STEPS_PER_EPOCH)
    found = rates(method, override(recipe, {"steps": steps}), steps)
    epochs = [found[steps * epoch // 12] for epoch in range(12)]
    assert epochs == pytest.approx([whole[STEPS_PER_EPOCH * epoch] for epoch in range(12)], rel=0.3, abs=0.02)
    assert max(found) == pytest.approx(max(whole), rel=0.02)
    assert found[-1] == pytest.approx(whole[-1], rel=0.05, abs=0.02)  # a steep fall ends a step above its end
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


@pytest.mark.parametrize(
    ("name", "fields", "warned"),
    [
        ("absvit-segmentation", {"steps": 300}, "--warmup-steps 1500"),
        ("absvit-segmentation", {"steps": 1500}, "--warmup-steps 1500"),
        ("absvit-segmentation", {"steps": 1501}, ""),
        ("absvit-vision-language", {"steps": 20}, ""),  # the warm-up is a share of them
        ("absvit-vision-language", {"steps": 20, "warmup_steps": 30.0}, "--warmup-steps 30"),
        ("csra", {"epochs": 2}, "--warmup-epochs 2"),
        ("csra", {"epochs": 3, "steps": 5}, ""),  # epochs of the schedule, which is squeezed
        ("csra", {"epochs": 1, "scheduler": "onecycle"}, ""),
    ],
)
def test_a_run_that_ends_within_its_warm_up_is_warned_of(name: str, fields: dict[str, Any], warned: str) -> None:
    method = get_method(name)
    recipe = override(method.recipe_type(), fields)
    plan = plan_run(method, recipe, samples=1000, processes=1, accumulation=1)
    warnings = run_warnings(plan, recipe, None, {})
    assert len(warnings) == bool(warned)
    assert warned in "".join(warnings)


def test_a_dry_run_says_so(tmp_path: Path) -> None:
    words = (
        "--recipe",
        "demo",
        "--dataset",
        "voc07",
        "--backbone",
        "tiny",
        "--image-size",
        32,
        "--gpus",
        0,
        "--data-root",
        tmp_path,
    )
    shown = attnbias("train", "csra", *words, "--scheduler", "step", "--epochs", 1, "--dry-run", expect=0).out
    assert "warning: the warm-up (--warmup-epochs 2) is no shorter than the run (1)" in shown
