"""Optimisers from a recipe, and the schedule's hand on them. Parameter groups themselves come from each method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.types import ParamGroups, Schedule


def build_optimizer(groups: ParamGroups, recipe: Recipe, *, fused: bool = False) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over a method's parameter groups.

    Each group keeps its own base rate in `initial_lr`; `apply_schedule` multiplies it. `fused` picks the single-kernel
    update, which rounds otherwise: for GPUs, so that what was measured on CPUs stays what it is.
    """
    for group in groups:
        group["initial_lr"] = group["lr"]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
        if fused and recipe.momentum:
            # torch leaves the buffers of a fused first step uninitialised where the gradient scaler skips that step.
            # Momentum from zero is the same first update: momentum * 0 + gradient.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, fused=fused)


def decay_groups(model: nn.Module, recipe: Recipe, free: Callable[[str, nn.Parameter], bool]) -> ParamGroups:
    """Two groups of the parameters that learn: those that are `free` of weight decay, by name and shape, then the rest.

    (timm's param_groups_weight_decay makes one group of all where the decay is 0: stored optimisers would not fit.)
    """
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[free(name, parameter)].append(parameter)
    return [
        {"params": parts[True], "lr": recipe.lr, "weight_decay": 0.0},
        {"params": parts[False], "lr": recipe.lr, "weight_decay": recipe.weight_decay},
    ]


def rate_groups(
    model: nn.Module, recipe: Recipe, apart: Callable[[str], bool], rates: tuple[float, float]
) -> ParamGroups:
    """Two groups of the parameters that learn, each with its rate of `rates`: all others, then those that are `apart`
    by name; the recipe's weight decay on everything."""
    parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[apart(name)].append(parameter)
    return [
        {"params": parts[is_apart], "lr": rate, "weight_decay": recipe.weight_decay}
        for is_apart, rate in zip((False, True), rates, strict=True)
    ]


def is_vector(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a bias or a vector, such as a norm's: what most programs spare the weight decay."""
    return parameter.ndim <= 1 or name.endswith(".bias")


def apply_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set what the schedule says for optimiser step `step` (from 0): rates, and Adam's first beta or SGD's momentum."""
    settings = schedule(step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * settings["lr"]
        if "beta1" in settings and "betas" in group:
            group["betas"] = (settings["beta1"], group["betas"][1])
        elif "beta1" in settings and group["momentum"]:
            group["momentum"] = settings["beta1"]
