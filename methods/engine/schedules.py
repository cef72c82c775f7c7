"""Learning-rate schedules in parts. A paper's recipe says which parts it takes, and with what numbers.

A part is a curve over time, in steps or in epochs: in whatever its lengths are given in. `by_step` and `by_epoch` make
a schedule of it, and `total_steps` and `epoch_length` say where a schedule ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import cos, pi
from typing import Literal

from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.types import Schedule

Curve = Callable[[float], float]
"""Time since the start of the run -> factor on the base learning rate."""

# How long ------------------------------------------------------------------------------------------------------------


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimiser steps of a run, at whose end its schedule ends: `steps` where the recipe gives it, else all epochs."""
    return recipe.steps or recipe.epochs * steps_per_epoch


def epoch_length(recipe: Recipe, steps_per_epoch: int) -> int | Fraction:
    """Steps of one epoch of the schedule.

    Schedules are written in epochs: warm-up, milestones, periods, the end. Where the recipe gives `steps`, the schedule
    of all its epochs is played within them, so one of its epochs lasts steps / epochs steps, however many images
    the run sees in them.
    """
    return steps_per_epoch if recipe.steps is None else Fraction(recipe.steps, recipe.epochs)


# Parts ---------------------------------------------------------------------------------------------------------------


def constant() -> Curve:
    """The base rate."""
    return lambda time: 1.0


def oscillating(half_period: float, low: float = 0.0) -> Curve:
    """A cosine from 1 down to `low` in `half_period`, up again in the next, and so on."""
    return lambda time: low + (1 - low) * (1 + cos(pi * time / half_period)) / 2


def cosine(length: float, low: float = 0.0) -> Curve:
    """Half a cosine from 1 down to `low`, where it stays."""
    wave = oscillating(length, low)
    return lambda time: wave(min(time, length))


def polynomial(length: float, power: float = 1.0, low: float = 0.0) -> Curve:
    """A fall from 1 to `low`, where it stays; power 1 is a straight line."""
    return lambda time: (1 - low) * (1 - min(1.0, time / length)) ** power + low


def exponential(gamma: float) -> Curve:
    """Multiplied by `gamma` in every unit of time."""
    return lambda time: gamma**time


def step(every: float, gamma: float) -> Curve:
    """Multiplied by `gamma` whenever `every` has passed."""
    return lambda time: gamma ** (time // every)


def multi_step(milestones: Sequence[float], gamma: float) -> Curve:
    """Multiplied by `gamma` at each milestone."""
    return lambda time: gamma ** sum(time >= milestone for milestone in milestones)


def warm_up(
    curve: Curve,
    length: float,
    *,
    start: float = 0.0,
    ahead: float = 0.0,
    how: Literal["covers", "multiplies", "precedes"] = "covers",
) -> Curve:
    """A curve with a straight rise from `start` to 1 in `length` around it.

    covers: the rise hides the beginning of the curve; multiplies: it is a factor on the curve; precedes: the curve
    begins where the rise ends. The rise is read `ahead` of time: by 1 where it begins one unit above `start`.
    """

    def factor(time: float) -> float:
        if time >= length:
            return curve(time - length if how == "precedes" else time)
        rise = start + (1 - start) * (time + ahead) / length
        return rise * curve(time) if how == "multiplies" else rise

    return factor


# Schedules -----------------------------------------------------------------------------------------------------------


def by_step(curve: Curve, unit: int | Fraction = 1) -> Schedule:
    """A rate for each step. `unit` is the number of steps in a unit of the curve's time: 1, or an epoch's length."""
    return lambda step: {"lr": curve(float(step / unit))}


def by_epoch(curve: Curve, epoch: int | Fraction) -> Schedule:
    """One rate in each epoch, of `epoch` steps: what the curve has at its start."""
    return lambda step: {"lr": curve(int(step // epoch))}


def one_cycle(total_steps: int, *, pct_start: float) -> Schedule:
    """One cosine up and one down (Smith and Topin 2018): the values of torch's OneCycleLR, with its defaults.

    The rate starts at 1 / 25 of its highest value, reaches that after `pct_start` of the steps, and ends at
    1 / 250,000. Adam's first beta, or SGD's momentum, mirrors it: 0.95 at the ends, 0.85 at the peak.
    """
    peak, last = pct_start * total_steps - 1, total_steps - 1
    fall = cosine(1.0)

    def settings(step: int) -> dict[str, float]:
        rising = step <= peak
        height = 1 - fall(step / peak if peak else 1) if rising else fall((step - peak) / (last - peak))
        low = 1 / 25 if rising else 1 / (25 * 1e4)
        return {"lr": low + (1 - low) * height, "beta1": 0.95 + (0.85 - 0.95) * height}

    return settings
