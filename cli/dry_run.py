"""`attnbias train METHOD --dry-run`: what a run would be, computed by the run's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbias.data.registry import open_split
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.methods.engine.training.options import Options
    from attnbias.methods.engine.training.sampler import Plan

LONGEST = 400
"""Rows of the learning-rate table where it has one for each epoch."""
ROWS = 21
"""Rows where it has not: where the run ends by `steps`, or lasts longer."""


def dry_run(described: Description, recipe: Recipe, options: Options, processes: int) -> None:
    """Print the parameter count, the pictures, the batch arithmetic and the learning-rate table.

    Raises:
        DataError: the dataset is not prepared.
    """
    import torch

    from attnbias.methods.engine.training.setup import plan_run, training_data_warning

    method = get_method(described.name)
    index = open_split(recipe.dataset, "train", options.data_root)
    dataset = method.open_dataset(recipe, index, train=True, decode=recipe.decode)
    plan = plan_run(method, recipe, len(dataset), processes, options.accumulation)
    with torch.device("meta"):
        model = method.build_model(recipe, len(index.classes), index.task)
    groups = method.param_groups(model, recipe)
    count = sum(p.numel() for p in model.parameters())
    share = recipe.batch_size / (processes * options.accumulation)
    say(f"model: {count:,} parameters, {len(index.classes)} classes ({index.task})")
    for group in groups:
        size = sum(p.numel() for p in group["params"])
        say(
            f"  group of {len(group['params'])} tensors, {size:,} parameters: "
            f"lr {group['lr']:g}, weight decay {group['weight_decay']:g}",
        )
    pictures = len(dataset)
    say(f"data: {pictures:,} training pictures of '{index.dataset}/{index.split}'")
    say(
        f"batch: global {recipe.batch_size} = {processes} process{'es' if processes > 1 else ''} x {share:g} x "
        f"{options.accumulation} accumulation; {plan.steps_per_epoch:,} steps an epoch, {plan.total_steps:,} in all",
    )
    evaluated = {split: open_split(recipe.dataset, split, options.data_root) for split in options.eval_splits}
    for asked, known in evaluated.items():
        say(f"evaluation: {len(known.records):,} samples of '{known.dataset}/{known.split}' ({asked})")
    if warning := training_data_warning(index, evaluated):
        say(warning, style="yellow")
    schedule = method.schedule(recipe, plan.steps_per_epoch)
    rates = [group["lr"] for group in groups]
    title, steps = _rows(plan)
    table = Table(title=title)
    for column in ("epoch", "step", *(f"group {place}" for place in range(len(rates))), "beta1"):
        table.column(column, justify="right")
    for step in steps:
        settings = schedule(step)
        cells = [f"{rate * settings['lr']:.6g}" for rate in rates]
        beta = f"{settings['beta1']:.4f}" if "beta1" in settings else "-"
        table.row(str(plan.epoch_of(step + 1)), str(step), *cells, beta)
    table.show()


def _rows(plan: Plan) -> tuple[str, list[int]]:
    """Title of the learning-rate table, and the optimiser steps that it shows."""
    if plan.steps is None and plan.epochs <= LONGEST:
        return (
            "learning rate at the first step of each epoch",
            [epoch * plan.steps_per_epoch for epoch in range(plan.epochs)],
        )
    last = plan.total_steps - 1
    steps = sorted({last * place // (ROWS - 1) for place in range(ROWS)})
    return f"learning rate over the {plan.total_steps:,} steps of the run, the first and the last among them", steps
