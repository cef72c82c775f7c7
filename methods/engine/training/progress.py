"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and the trackers asked for."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attnbias.methods.engine.training.sampler import Plan

HEADLINES = ("mAP", "CF1", "OF1", "top1", "top5", "mIoU", "aAcc", "vqa_score", "accuracy", "ir_r1", "tr_r1")
"""The measures of an evaluation that fit on a line; metrics.jsonl holds all."""


class Reporter:
    """Shows a run's progress on standard output; only the main process has one."""

    def __init__(self, accelerator: Accelerator, plan: Plan, start: int) -> None:
        self.accelerator, self.plan, self.done = accelerator, plan, start
        self.epochs = plan.epoch_of(plan.total_steps)
        self.console = Console()
        self.bar: Progress | None = None
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]:.0f} img/s  loss {task.fields[loss]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task(
                "train", total=plan.total_steps, completed=start, epoch=0, epochs=self.epochs, speed=0.0, loss="-"
            )
        self.pictures, self.clock, self.speed = 0, time.perf_counter(), 0.0
        self.bad_pictures = 0

    def __enter__(self) -> Reporter:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if self.bad_pictures:
            self.console.print(f"{self.bad_pictures} times an unreadable picture was left out", style="yellow")

    def warn(self, text: str) -> None:
        """Show one line that a person should know before the run starts."""
        self.console.print(text, style="yellow", markup=False, soft_wrap=True)

    def step(self, pictures: int) -> None:
        """Count one optimiser step."""
        self.done += 1
        self.pictures += pictures
        if self.bar:
            self.bar.update(self.task, advance=1, epoch=self.plan.epoch_of(self.done), speed=self.speed)

    def line(self, line: dict[str, Any]) -> None:
        """Show one line of the metrics log, and pass its numbers to the trackers."""
        split = line["split"] if line["split"] == "train" else f"{line['split']}/{line['weights']}"
        if line["split"] == "train":
            now = time.perf_counter()
            self.speed, self.pictures, self.clock = self.pictures / max(now - self.clock, 1e-9), 0, now
            if self.bar:
                self.bar.update(self.task, loss=f"{line['loss']:.4f}")
        numbers = {key: value for key, value in line.items() if isinstance(value, float)}
        if line["split"] == "train":
            numbers |= {f"lr{place or ''}": value for place, value in enumerate(line["lr"])}
        self.accelerator.log({f"{split}/{key}": value for key, value in numbers.items()}, step=line["step"])
        if line["split"] == "train" and self.bar:
            return
        speed = f"  {self.speed:.0f} img/s" if line["split"] == "train" else ""
        brief = numbers if line["split"] == "train" else {k: v for k, v in numbers.items() if k in HEADLINES}
        shown = "  ".join(f"{key} {value:.4g}" for key, value in brief.items())
        width = len(str(self.epochs))
        text = f"epoch {line['epoch']:>{width}}/{self.epochs}  {split:<12} {shown}{speed}"
        self.console.print(text, highlight=False, soft_wrap=True)

    def skipped(self, errors: list[str]) -> None:
        """Report pictures that were left out of a batch."""
        self.bad_pictures += len(errors)
        for error in errors:
            self.console.print(f"left out: {error}", style="yellow", highlight=False)
