"""What `attnbias train METHOD --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.methods.engine.training.dry_run import DryRun


def show_dry_run(found: DryRun) -> None:
    """Print the parameter count, the images, the batch arithmetic and the learning-rate table."""
    request, plan, train = found.request, found.plan, found.train
    processes, batch_size = plan.processes, plan.batch_size
    say(f"model: {found.parameters:,} parameters, {found.classes} classes ({found.task})")
    for group in found.groups:
        say(
            f"  group of {group.tensors} tensors, {group.parameters:,} parameters: "
            f"lr {group.lr:g}, weight decay {group.weight_decay:g}",
        )
    share = batch_size / (processes * request.accumulation)
    say(f"data: {found.images:,} training images of '{train.dataset}/{train.split}'")
    say(
        f"batch: global {batch_size} = {processes} process{'es' if processes > 1 else ''} x {share:g} x "
        f"{request.accumulation} accumulation; {plan.steps_per_epoch:,} steps an epoch, {plan.total_steps:,} in all",
    )
    for asked, known in found.evaluated.items():
        say(f"evaluation: {len(known.records):,} samples of '{known.dataset}/{known.split}' ({asked})")
    for warning in found.warnings:
        say(warning, style="yellow")
    table = Table(
        title="learning rate at the first step of each epoch"
        if found.by_epoch
        else f"learning rate over the {plan.total_steps:,} steps of the run, the first and the last among them"
    )
    for column in ("epoch", "step", *(f"group {position}" for position in range(len(found.groups))), "beta1"):
        table.column(column, justify="right")
    for row in found.rates:
        beta = "-" if row.beta1 is None else f"{row.beta1:.4f}"
        table.row(str(row.epoch), str(row.step), *(f"{lr:.6g}" for lr in row.lrs), beta)
    table.show()
