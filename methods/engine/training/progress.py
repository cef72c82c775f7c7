"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and the trackers asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch
from accelerate import Accelerator

from attnbias.data.atomic import replacing
from attnbias.data.reading import parse_json, read_bytes, reading
from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.metrics import names
from attnbias.methods.engine.screen import TrainingBar, say
from attnbias.methods.engine.training.sampler import Plan
from attnbias.methods.engine.types import LogLine
from attnbias.weights.errors import WeightsError

TIMINGS = "timings.jsonl"
EXPECTED_AFTER = 20
"""Steps after which it is said how long a run will take."""
LARGEST = 1 << 30
"""Bytes of it."""


class Timings:
    """RUN/timings.jsonl: how fast the steps were, one line beside each of the training's in metrics.jsonl, which holds
    nothing that a resumed run would not repeat to the byte. Evaluations and checkpoints are not in it."""

    def __init__(self, run: Path, batch_size: int) -> None:
        self.path, self.batch_size = run / TIMINGS, batch_size
        self.steps, self.busy, self.waited, self.speed = 0, 0.0, 0.0, 0.0
        self.a_step = 0.0
        """Seconds of a step, of late."""
        self.begun = time.monotonic()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure one optimiser step."""
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.busy += took
        self.steps += 1
        self.a_step = took if not self.a_step else 0.9 * self.a_step + 0.1 * took

    def log(self, step: int, epoch: int, waited: float) -> None:
        """Write what the steps since the last line took. `waited` are all seconds in which they waited for data."""
        self.speed = self.steps * self.batch_size / max(self.busy, 1e-9)
        line = {
            "step": step,
            "epoch": epoch,
            "images_per_second": round(self.speed, 2),
            "waiting_share": round((waited - self.waited) / max(self.busy, 1e-9), 4),
            "peak_memory_mb": _peak_memory(),
            "seconds": round(time.monotonic() - self.begun, 2),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.steps, self.busy, self.waited = 0, 0.0, waited

    def rewind(self, step: int) -> None:
        """Keep what was measured up to a step, for a run that goes on from there; a line that is torn goes.

        Raises:
            WeightsError: it is no file.
        """
        try:
            with reading(self.path, "move it away", WeightsError):
                content = read_bytes(self.path, LARGEST)
        except FileNotFoundError:
            return
        kept = []
        for line in content.decode("utf-8", "replace").splitlines():
            try:
                if parse_json(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError):
                continue
        with replacing(self.path) as file:
            file.writelines(f"{line}\n" for line in kept)


def _peak_memory() -> int | None:
    """Most megabytes that the GPU has held since the run began; that the process has, where there is no GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() // 2**20
    if sys.platform == "win32":
        return None
    import resource  # not for Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


class Reporter:
    """Shows a run's progress on standard output; only the main process has one."""

    def __init__(self, accelerator: Accelerator, plan: Plan, timings: Timings) -> None:
        self.accelerator, self.plan, self.timings = accelerator, plan, timings
        self.epochs = plan.epoch_of(plan.total_steps)
        self.bar = TrainingBar()
        self.loss, self.steps = "-", 0
        self.bad_images = 0

    def __enter__(self) -> Reporter:
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__()
        if self.bad_images:
            say(f"{self.bad_images} times an unreadable image was left out", style="yellow")

    def warn(self, text: str) -> None:
        """Show one line that a person should know before the run starts."""
        say(text, style="yellow")

    def step(self, done: int) -> None:
        """Show that so many optimiser steps are done."""
        self.steps += 1
        if self.steps == EXPECTED_AFTER and not self.bar.shown:
            left = timedelta(seconds=round(self.timings.a_step * (self.plan.total_steps - done)))
            say(f"about {left} to go, without evaluations: {self.timings.a_step:.2g} s a step")
        epoch = f"epoch {self.plan.epoch_of(done)}/{self.epochs}"
        self.bar.tell(epoch, done, self.plan.total_steps, f"{self.timings.speed:.0f} img/s  loss {self.loss}")

    def line(self, line: LogLine) -> None:
        """Show one line of the metrics log, and pass its numbers to the trackers."""
        training = "weights" not in line  # an evaluated split may be called "train" too
        split = line["split"] if training else f"{line['split']}/{line['weights']}"
        if training:
            self.loss = f"{line['loss']:.4f}"
        numbers = {key: value for key, value in line.items() if isinstance(value, float)}
        if training:
            numbers |= {f"lr{position or ''}": value for position, value in enumerate(line["lr"])}
        self.accelerator.log({f"{split}/{key}": value for key, value in numbers.items()}, step=line["step"])
        if training and self.bar.shown:
            return
        speed = f"  {self.timings.speed:.0f} img/s" if training else ""
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
