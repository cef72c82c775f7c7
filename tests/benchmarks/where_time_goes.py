"""Where the time of a method's training step goes: by kind of module (forward), and by operator (all of it).

    python tests/benchmarks/where_time_goes.py METHOD [--evaluate] [--rows N]

METHOD is one of speed_models.py, or `engine`: a whole step of the engine, loader included, around a ResNet-18.
Times are CPU ms of one thread a step, self: without what a module's parts, or what an operator calls, take themselves.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # or torch's profiler says that there is no GPU

import torch
from rich.console import Console
from rich.table import Table
from speed_engine import demo_set, started
from speed_models import PAIRS, batch_of, built, training_step
from torch import nn
from torch.profiler import ProfilerActivity, profile

STEPS = 3


class Modules:
    """Self time of the modules that are called inside `watched`, by their class."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[tuple[float, float]] = []  # of each module entered: start, time of its parts so far

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self._open.append((time.process_time(), 0.0))

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        start, parts = self._open.pop()
        spent = time.process_time() - start
        self.seconds[type(module).__name__] += spent - parts
        self.calls[type(module).__name__] += 1
        if self._open:
            outer, known = self._open.pop()
            self._open.append((outer, known + spent))

    @contextmanager
    def watched(self) -> Iterator[None]:
        handles = [
            nn.modules.module.register_module_forward_pre_hook(self.enter),
            nn.modules.module.register_module_forward_hook(self.leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def work_of(name: str, evaluate: bool, root: Path) -> tuple[str, Callable[[], Any]]:
    """What is profiled, in words, and a call that does it once."""
    if name == "engine":
        run = started(root, root / "run", backbone="resnet18", image_size=160, ema_decay=0.999)
        return "a step of the engine, ResNet-18, 160 px, 8 images, moving average", run._step
    pair = next(pair for pair in PAIRS if pair.ours.method == name)
    words = f"{pair.ours.method}, recipe {pair.ours.recipe}, {pair.images} x {pair.size} px"
    if not evaluate:
        return f"a training step of {words}", training_step(pair.ours, pair)
    model, images = built(pair.ours, pair).eval(), batch_of(pair)["image"]
    return f"a forward pass of {words}", torch.inference_mode()(lambda: model(images))


def shares(title: str, rows: list[tuple[str, float, int]], whole: float, limit: int) -> Table:
    """The largest rows (name, seconds, calls), as ms and as parts of the whole."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "ms", "%", "calls"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds, calls in sorted(rows, key=lambda row: -row[1])[:limit]:
        cells = (f"{1e3 * seconds / STEPS:.1f}", f"{100 * seconds / whole:.1f}", f"{calls / STEPS:g}")
        table.add_row(name, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["engine", *dict.fromkeys(pair.ours.method for pair in PAIRS)])
    parser.add_argument("--evaluate", action="store_true", help="a forward pass instead of a training step")
    parser.add_argument("--rows", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with demo_set() as root:
        words, work = work_of(arguments.method, arguments.evaluate, root)
        work()  # warms up
        start = time.process_time()
        for _ in range(STEPS):
            work()
        whole = time.process_time() - start
        modules = Modules()
        with modules.watched():
            for _ in range(STEPS):
                work()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(STEPS):
                work()
    console = Console(width=100)
    console.print(f"{words}: {1e3 * whole / STEPS:.0f} ms of CPU")
    parts = [(name, seconds, modules.calls[name]) for name, seconds in modules.seconds.items()]
    console.print(shares("modules, forward pass", parts, whole, arguments.rows))
    operators = [(event.key, event.self_cpu_time_total / 1e6, event.count) for event in profiler.key_averages()]
    traced = sum(seconds for _, seconds, _ in operators)
    console.print(shares("operators", operators, traced, arguments.rows))


if __name__ == "__main__":
    main()
