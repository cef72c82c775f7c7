"""Learning-rate schedules that several papers share, as pure functions of the optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import cos, pi

from attnbias.methods.engine.method import Schedule
from attnbias.methods.engine.recipe import Recipe


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimiser steps of a run, at whose end its schedule ends: `steps` where the recipe gives it, else all epochs."""
    return recipe.steps or recipe.epochs * steps_per_epoch


def epoch_length(recipe: Recipe, steps_per_epoch: int) -> int | Fraction:
    """Steps of one epoch of the schedule.

    Schedules are written in epochs: warm-up, milestones, periods, the end. Where the recipe gives `steps`, the schedule
    of all its epochs is played within them, so one of its epochs lasts steps / epochs steps, however many pictures
    the run sees in them.
    """
    return steps_per_epoch if recipe.steps is None else Fraction(recipe.steps, recipe.epochs)


def one_cycle(
    total_steps: int,
    *,
    pct_start: float,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    beta1: tuple[float, float] | None = (0.95, 0.85),
) -> Schedule:
    """One cosine up and one down (Smith and Topin 2018): the values of torch's OneCycleLR.

    The rate starts at 1 / div_factor of its highest value, reaches that after `pct_start` of the steps, and ends at
    1 / (div_factor * final_div_factor). `beta1` = (at the ends, at the peak) mirrors Adam's first
    beta or SGD's momentum; None leaves it.
    """
    peak, last = pct_start * total_steps - 1, total_steps - 1
    lows = 1 / div_factor, 1 / (div_factor * final_div_factor)

    def settings(step: int) -> dict[str, float]:
        rising = step <= peak
        height = _cosine(0, 1, step / peak if peak else 1) if rising else _cosine(1, 0, (step - peak) / (last - peak))
        low = lows[0] if rising else lows[1]
        values = {"lr": low + (1 - low) * height}
        if beta1 is not None:
            values["beta1"] = beta1[0] + (beta1[1] - beta1[0]) * height
        return values

    return settings


def multi_step(
    epoch: int | Fraction, milestones: Sequence[int], *, gamma: float = 0.1, warmup_epochs: int = 0
) -> Schedule:
    """Multiply the rate by `gamma` after each milestone (in epochs); a linear warm-up starts at 0, step by step.

    `epoch` is its length in steps (`epoch_length`).
    """
    warmup = warmup_epochs * epoch

    def settings(step: int) -> dict[str, float]:
        passed = sum(step >= milestone * epoch for milestone in milestones)
        return {"lr": gamma**passed * min(1.0, float(step / warmup) if warmup else 1.0)}

    return settings


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * share)) / 2
