"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and the trackers asked for."""

from __future__ import annotations

import time
from types import TracebackType

from accelerate import Accelerator

from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.metrics import names
from attnbias.methods.engine.screen import say, training_bar
from attnbias.methods.engine.training.sampler import Plan
from attnbias.methods.engine.types import LogLine


class Reporter:
    """Shows a run's progress on standard output; only the main process has one."""

    def __init__(self, accelerator: Accelerator, plan: Plan, start: int) -> None:
        self.accelerator, self.plan, self.done = accelerator, plan, start
        self.epochs = plan.epoch_of(plan.total_steps)
        self.bar = training_bar()
        if self.bar:
            self.task = self.bar.add_task(
                "train", total=plan.total_steps, completed=start, epoch=0, epochs=self.epochs, speed=0.0, loss="-"
            )
        self.images, self.clock, self.speed = 0, time.perf_counter(), 0.0
        self.bad_images = 0

    def __enter__(self) -> Reporter:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if self.bad_images:
            say(f"{self.bad_images} times an unreadable image was left out", style="yellow")

    def warn(self, text: str) -> None:
        """Show one line that a person should know before the run starts."""
        say(text, style="yellow")

    def step(self, images: int) -> None:
        """Count one optimiser step."""
        self.done += 1
        self.images += images
        if self.bar:
            self.bar.update(self.task, advance=1, epoch=self.plan.epoch_of(self.done), speed=self.speed)

    def line(self, line: LogLine) -> None:
        """Show one line of the metrics log, and pass its numbers to the trackers."""
        training = "weights" not in line  # an evaluated split may be called "train" too
        split = line["split"] if training else f"{line['split']}/{line['weights']}"
        if training:
            now = time.perf_counter()
            self.speed, self.images, self.clock = self.images / max(now - self.clock, 1e-9), 0, now
            if self.bar:
                self.bar.update(self.task, loss=f"{line['loss']:.4f}")
        numbers = {key: value for key, value in line.items() if isinstance(value, float)}
        if training:
            numbers |= {f"lr{position or ''}": value for position, value in enumerate(line["lr"])}
        self.accelerator.log({f"{split}/{key}": value for key, value in numbers.items()}, step=line["step"])
        if training and self.bar:
            return
        speed = f"  {self.speed:.0f} img/s" if training else ""
        known = names(lambda metric: metric.brief)
        known.append(f"bias/{HEADLINE}")
        brief = numbers if training else {name: value for name, value in numbers.items() if name in known}
        shown = "  ".join(f"{key} {value:.4g}" for key, value in brief.items())
        width = len(str(self.epochs))
        text = f"epoch {line['epoch']:>{width}}/{self.epochs}  {split:<12} {shown}{speed}"
        say(text)

    def skipped(self, errors: list[str]) -> None:
        """Report images that were left out of a batch."""
        self.bad_images += len(errors)
        for error in errors:
            say(f"left out: {error}", style="yellow")
