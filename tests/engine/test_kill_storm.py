"""Runs that are killed again and again: whatever the moment, they end in the bytes of a run that was left alone."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from tests.helpers.forked import ForkedRun
from tests.helpers.language_sets import prepared

TINY = ["--epochs", 3, "--batch-size", 8, "--ema-decay", 0.9, "--eval-batch-size", 5]
RUN = ["--gpus", 0, "--threads", 1, "--save-steps", 1, "--log-every", 2, "--resume", "auto"]
METHODS = {
    "csra": ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32],
    "ida": ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32],
    "lsas": ["--recipe", "demo-single", "--depth", 8],
    "llb": ["--recipe", "demo", "--image-size", 32],
    "absvit": ["--recipe", "demo", "--image-size", 32],
}
TASKS = {
    "segmentation": ["--recipe", "mini", "--steps", 9, "--eval-steps", 3, "--channels", 8, "--aux-channels", 4],
    "vqa": ["--recipe", "tiny-vqa", "--epochs", 3],
    "nlvr2": ["--recipe", "tiny-nlvr2", "--epochs", 3],
    "retrieval": ["--recipe", "tiny-retrieval", "--epochs", 3],
}
"""AbSViT's other tasks."""
SETS = {"vqa": "vqav2", "nlvr2": "nlvr2", "retrieval": "flickr30k"}
CUTS = [(processes, workers, accumulation) for processes in (1, 2) for workers in (0, 2) for accumulation in (1, 3)]
CUTS += [(4, 0, 1)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of 22 training images: the last step of an epoch has shares of unequal size."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("demo", "demo-single"):
        prepare(name, None, root, PrepareOptions(settings={"train": 22, "eval": 12}))
    return root


def everything(out: Path) -> dict[str, bytes]:
    """All that a run left, but when it started and how fast it was."""
    passing = {".lock", "environment.json", "timings.jsonl"}
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in passing}


def killed_at(moment: str, run: ForkedRun, out: Path, draw: random.Random) -> bool:
    """Kill a run at a moment of some kind; false where it was done before."""
    if moment == "in a checkpoint's write":
        writes = draw.randint(1, 3)
        for _ in range(writes):
            if not run.wait_until(lambda: any((out / "checkpoints").glob(".tmp-*"))):
                return False
            if writes > 1:
                run.wait_until(lambda: not any((out / "checkpoints").glob(".tmp-*")))
        time.sleep(draw.uniform(0, 0.01))
    elif moment == "at a line of the log":
        lines = (out / "metrics.jsonl").stat().st_size if (out / "metrics.jsonl").exists() else 0
        if not run.wait_until(lambda: (log := out / "metrics.jsonl").exists() and log.stat().st_size > lines):
            return False
    else:
        time.sleep(draw.uniform(0, 1.5))
    if not run.alive:
        return False
    if moment == "one process before the other":
        draw.choice(run.processes).kill()
        time.sleep(draw.uniform(0, 0.5))  # what the other one does before its launcher ends it
    run.kill()
    return True


MOMENTS = ["any", "in a checkpoint's write", "at a line of the log", "one process before the other"]


def storm(start: Callable[[Path], ForkedRun], folder: Path, kills: int, seed: str) -> Counter[str]:
    """Kill a run `kills` times, from a fresh start again where it got to its end before; count the kills by kind."""
    draw, survived = random.Random(seed), Counter[str]()
    straight = start(folder / "straight")
    assert not any(straight.wait()), straight.log.read_text()
    expected = everything(folder / "straight")
    rounds = 0
    while survived.total() < kills:
        rounds += 1
        out = folder / f"run{rounds}"
        while True:
            run = start(out)
            moment = draw.choice(MOMENTS)
            if survived.total() == kills or not killed_at(moment, run, out, draw):
                break
            survived[moment] += 1
        assert not any(run.wait()), run.log.read_text()
        found = everything(out)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
    return survived


def run_of(method: str, cut: tuple[int, int, int], images: Path) -> Callable[[Path], ForkedRun]:
    processes, workers, accumulation = cut
    words: list[Any] = ["train", method, *METHODS[method], *TINY, *RUN, "--data-root", images]
    words += ["--workers", workers, "--accumulation", accumulation]
    return lambda out: ForkedRun([*words, "--out", out], out.with_suffix(".log"), processes)


@pytest.mark.parametrize("cut", [(2, 2, 3)])
def test_a_run_survives_kills(cut: tuple[int, int, int], images: Path, tmp_path: Path) -> None:
    storm(run_of("csra", cut, images), tmp_path, 4, "quick")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "{}p-{}w-{}a".format(*cut))
@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives_a_storm(method: str, cut: tuple[int, int, int], images: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    survived = storm(run_of(method, cut, images), tmp_path, 5, f"{method} {cut}")
    print(f"\n{method} {cut}: {dict(survived)} in {time.monotonic() - begun:.0f} s")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of a set for each of AbSViT's other tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in SETS.values():
        prepared(name, folder)
    rng = np.random.default_rng(0)
    for number in range(11):
        for part, shape in (("images", (40, 48, 3)), ("labels", (40, 48))):
            (folder / "shapes" / part).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 3 if part == "labels" else 255, shape, np.uint8)
            Image.fromarray(pixels).save(folder / "shapes" / part / f"{number}.png")
    prepare(str(folder / "shapes"), root=folder / "root")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cut", [(1, 0, 1), (2, 2, 1), (2, 0, 2)], ids=lambda cut: "{}p-{}w-{}a".format(*cut))
@pytest.mark.parametrize("task", TASKS)
def test_every_task_survives_a_storm(task: str, cut: tuple[int, int, int], tasks: Path, tmp_path: Path) -> None:
    processes, workers, accumulation = cut
    dataset = SETS.get(task, tasks / "shapes")
    words: list[Any] = ["train", "absvit", "--task", task, *TASKS[task], "--dataset", dataset, "--batch-size", 8]
    words += [*RUN, "--data-root", tasks / "root", "--workers", workers, "--accumulation", accumulation]
    begun = time.monotonic()
    survived = storm(
        lambda out: ForkedRun([*words, "--out", out], out.with_suffix(".log"), processes),
        *(tmp_path, 5, f"{task} {cut}"),
    )
    print(f"\n{task} {cut}: {dict(survived)} in {time.monotonic() - begun:.0f} s")
