"""What `attnbias train METHOD --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbias.methods.engine.screen import Table, say

if TYPE_CHECKING:
    from attnbias.methods.engine.training.dry_run import DryRun, Split
    from attnbias.methods.engine.training.memory import Memory
    from attnbias.methods.engine.training.sampler import Plan


def show_dry_run(found: DryRun) -> None:
    """Print the parameter count, the images, the batch arithmetic and the learning-rate table."""
    train = found.train
    say(f"model: {found.parameters:,} parameters, {train.classes} classes ({train.task})")
    if found.macs is not None:
        side = found.request.recipe.image_size
        say(f"  {found.macs:,} multiply-accumulates an image of {side} x {side} pixels, in evaluation")
    for group in found.groups:
        say(
            f"  group of {group.tensors} tensors, {group.parameters:,} parameters: "
            f"lr {group.lr:g}, weight decay {group.weight_decay:g}",
        )
    say(f"data: {_count(found.images, 'training images', train)}")
    if found.plan is not None:
        say(found.plan.arithmetic(found.request.accumulation))
    for asked, known in found.evaluated.items():
        say(f"evaluation: {_count(known.samples, 'samples', known)} ({asked})")
    for warning in found.warnings:
        say(warning, style="yellow")
    if found.memory is not None:
        _show_memory(found, found.memory)
    if found.plan is not None:
        _show_rates(found, found.plan)


def _show_memory(found: DryRun, memory: Memory) -> None:
    from attnbias.methods.engine.training.memory import GB, too_large

    say(f"memory: {memory.limit / GB:.1f} GB of {memory.device} a process, in training steps (two of each are run):")
    for images, taken in sorted(memory.peaks.items()):
        say(f"  {images} images at once take {taken / GB:.2f} GB")
    how = "run" if memory.ran else "by the line through the last two, not run"
    say(f"  at most {memory.largest:,} images at once fit ({how})")
    if not memory.fits and found.plan is not None:
        say(
            f"warning: the run's {memory.share} at once do not fit; "
            + too_large(found.plan, memory.accumulation, found.normalizes),
            style="yellow",
        )


def _count(number: int | None, what: str, split: Split) -> str:
    """How many samples a split has, and what must be said of counts that no files told."""
    name = f"'{split.dataset}/{split.name}'"
    if number is None:
        return f"{name} is not prepared here, and only its files tell how many {what} it has"
    if split.index is None:
        return (
            f"{number:,} {what} of {name} by the catalogue, as it is not prepared here: with those that a recipe drops"
        )
    return f"{number:,} {what} of {name}"


def _show_rates(found: DryRun, plan: Plan) -> None:
    from attnbias.methods.engine.training.dry_run import is_by_epoch

    table = Table(
        title="learning rate at the first step of each epoch"
        if is_by_epoch(plan)
        else f"learning rate over the {plan.total_steps:,} steps of the run, the first and the last among them"
    )
    for column in ("epoch", "step", *(f"group {position}" for position in range(len(found.groups))), "beta1"):
        table.column(column, justify="right")
    for row in found.rates:
        beta = "-" if row.beta1 is None else f"{row.beta1:.4f}"
        table.row(str(row.epoch), str(row.step), *(f"{lr:.6g}" for lr in row.lrs), beta)
    table.show()
