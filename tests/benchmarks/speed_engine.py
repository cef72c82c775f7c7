"""The engine against bare loops, and what a checkpoint of a ResNet-101 costs to save and to resume."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Figure, compare
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.evaluation.evaluate import evaluate
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run

CLASSES, BATCH = 10, 8


@contextmanager
def demo_set() -> Iterator[Path]:
    """A data root with the built-in scenes: 200 images to train on, 40 to evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        prepare("demo", None, Path(folder), PrepareOptions(settings={"train": 200, "eval": 40}))
        yield Path(folder)


def started(root: Path, out: Path, resume: str | None = None, workers: int = 0, **changes: Any) -> _Run:
    """A run of the engine that is ready for its first step."""
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"batch_size": BATCH, "epochs": 100, **changes})
    asked = {"data_root": root, "gpus": 0, "workers": workers, "resume": resume, "overwrite": resume is None}
    request = TrainRequest(method="csra", recipe=recipe, out=out, **asked)
    run = _Run(request, build_accelerator(request), RunFolder(out), Control())
    run.reporter = None
    run._read_start()
    run._prepare(run._open_folder())
    return run


def engine(rounds: int) -> Iterator[Figure]:
    """A step (loader, guard, schedule, agreement) and an evaluation (gathering, measures) against bare loops."""
    with demo_set() as root:
        run = started(root, root / "run", backbone="resnet18", image_size=160)
        bare = run.method.build_model(run.recipe, CLASSES, "multilabel")
        what = f"ResNet-18, 160 px, {BATCH} at a time"
        yield compare(f"training step / bare loop, {what}", run._step, bare_step(run, bare), rounds, 1.03)
        _, dataset = run.eval_sets[0]

        def bare_evaluation() -> None:
            bare.eval()
            with torch.inference_mode():
                scores = [bare(b["image"]).sigmoid() for b in DataLoader(dataset, batch_size=BATCH)]
            np.concatenate([part.numpy() for part in scores])

        yield compare(
            f"evaluation with its measures / bare loop without, {what}",
            lambda: evaluate(run.method, run.model, dataset, run.recipe, run.accelerator, batch_size=BATCH),
            bare_evaluation,
            rounds,
            1.05,
        )
        run.folder.close()


def bare_step(run: _Run, model: nn.Module) -> Callable[[], None]:
    """What a person would write: the same images and model, loss, backward, step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loader = DataLoader(run.dataset, batch_size=BATCH, shuffle=True, drop_last=True)

    def forever() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    stream = forever()

    def step() -> None:
        batch = next(stream)
        loss = F.binary_cross_entropy_with_logits(model(batch["image"]), batch["target"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def checkpoint(rounds: int) -> Iterator[Figure]:
    """Weights, momentum and moving average of a ResNet-101: 540 MB."""
    what: dict[str, Any] = {"backbone": "resnet101", "image_size": 64, "optimizer": "sgd", "ema_decay": 0.9997}
    with demo_set() as root:
        run = started(root, root / "run", **what)
        run._step()
        yield from seconds("save a checkpoint", run._save, min(rounds, 5), target=3)
        run.folder.close()

        def start(resume: str | None) -> None:
            started(root, root / ("run" if resume else "fresh"), resume, **what).folder.close()

        yield from seconds("resume, from the checkpoint to the next step", lambda: start("auto"), min(rounds, 5), 2)
        yield from seconds("start afresh, to the first step", lambda: start(None), min(rounds, 5))


def seconds(case: str, call: Callable[[], Any], rounds: int, target: float | None = None) -> Iterator[Figure]:
    """CPU seconds, which the target is about, and seconds by the clock, in which the disk is waited for."""
    spent: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (statistics.median(column) for column in zip(*spent[1:], strict=True))
    yield Figure(f"{case}: CPU", cpu, "s", target=target)
    yield Figure(f"{case}: by the clock", wall, "s")
