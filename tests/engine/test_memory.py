"""`--dry-run --measure` and a memory that is full: how many images fit, and how a batch is cut that does not."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnbias.methods.csra.method import ResidualAttention
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.training.memory import limit_of, measure, peak, reset_peak, too_large
from attnbias.methods.engine.training.sampler import Plan, shuffled
from attnbias.methods.engine.training.setup import build_accelerator
from attnbias.methods.engine.training.train import _Run
from attnbias.methods.engine.types import Batch
from tests.helpers.command_line import attnbias
from tests.helpers.forked import FORKS
from tests.helpers.tiny_runs import CPU, TINY, contents, instead

CPU_ALONE = torch.device("cpu")


def plan(batch_size: int, processes: int = 1, accumulation: int = 1, samples: int = 1000) -> Plan:
    order = shuffled(samples, 0)
    return Plan(samples, batch_size, 1, order, processes=processes, accumulation=accumulation)


def line(images: int) -> int:
    """Bytes of steps that need 50 for the model and 10 an image."""
    return 50 + 10 * images


def full_at(bytes_: int, peak_of: Callable[[int], int] = line) -> Callable[[int], int]:
    """The same on a device that says when it is full, and has fewer bytes than the line says."""

    def run(images: int) -> int:
        if peak_of(images) > bytes_:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return peak_of(images)

    return run


def test_what_fits_is_found_by_a_line_and_what_is_said_of_it_was_run() -> None:
    found = measure(plan(20), CPU_ALONE, line, limit=1000)
    assert [*found.peaks] == [2, 4, 8, 16, 20]
    assert (found.fits, found.largest, found.ran, found.accumulation) == (True, 95, False, 1)
    found = measure(plan(64), CPU_ALONE, line, limit=300)
    assert [*found.peaks] == [2, 4, 8, 16, 25]
    assert (found.fits, found.largest, found.ran, found.accumulation) == (False, 25, True, 3)
    found = measure(plan(64, processes=2, accumulation=2), CPU_ALONE, line, limit=300)
    assert (found.share, found.fits, found.accumulation) == (16, True, 2)
    assert not measure(plan(64), CPU_ALONE, line, limit=60).largest
    assert measure(plan(500, samples=3), CPU_ALONE, line, limit=300).share == 3
    # Processes share a CPU's memory.
    assert measure(plan(64, processes=4), CPU_ALONE, line).limit == limit_of(CPU_ALONE) // 4


def test_a_device_that_is_full_sooner_than_the_line_says_is_believed() -> None:
    found = measure(plan(64), CPU_ALONE, full_at(250), limit=10_000)
    assert (found.largest, found.ran, found.accumulation) == (19, True, 4)

    def broken(images: int) -> int:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        measure(plan(64), CPU_ALONE, broken, limit=300)


def test_the_pieces_of_a_batch_are_said_with_what_they_change() -> None:
    assert too_large(plan(64), 3, False) == "--accumulation 3 shows 22 at once; gradients stay the mean over 64"
    assert too_large(plan(64), 3, True).endswith("over 64, and batch normalisation is over 22")
    assert too_large(plan(64), None, True) == "try --grad-checkpointing, --amp or a smaller --image-size"


def test_the_peak_of_a_process_is_its_own_and_begins_anew() -> None:
    """In a process that has freed nothing: what another test left free would be used again."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=peaks, args=(theirs,))
    process.start()
    assert ours.poll(60)
    with_200, without, with_60 = ours.recv()
    process.join()
    assert with_200 > 200 << 20
    assert without < with_200 - (150 << 20)
    assert without + (30 << 20) < with_60 < limit_of(CPU_ALONE)


def peaks(answer: Connection) -> None:
    """Send the peaks with a block of 200 MB, anew without it, and with one of 60 MB."""
    found = [peak_with(200 << 20)]
    reset_peak(CPU_ALONE)
    found += [peak(CPU_ALONE), peak_with(60 << 20)]
    answer.send(found)


def peak_with(size: int) -> int:
    block = torch.ones(size // 4)
    return peak(CPU_ALONE) + 0 * block.nbytes


def test_a_dry_run_measures_and_writes_nothing(demo_root: Path, tmp_path: Path) -> None:
    words = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", tmp_path / "run"]
    words = [*instead(words, "--batch-size", 5), "--measure"]
    shown = attnbias(*words, "--steps", 1, "--dry-run", expect=0).out  # of a run of one step too
    assert "  5 images at once take " in shown
    assert "images at once fit (by the line through the last two, not run)" in shown
    assert attnbias(*words, expect=2).line == "error: --measure changes nothing without --dry-run"
    assert contents(tmp_path) == {}


class Hungry(ResidualAttention):
    """Its loss wants more memory than there is."""

    def loss(self, model: nn.Module, batch: Batch, recipe: Any, task: Any) -> dict[str, Tensor]:
        return {"loss": torch.empty(1 << 60).sum()}


def test_a_full_memory_names_the_accumulation_that_would_do(demo_root: Path, tmp_path: Path) -> None:
    method = Hungry()
    recipe = override(method.named_recipe("demo").recipe, {"image_size": 32, "batch_size": 12})
    request = TrainRequest(method="csra", recipe=recipe, out=tmp_path / "run", data_root=demo_root, gpus=0)
    run = _Run(request, build_accelerator(request), RunFolder(tmp_path / "run"), Control())
    run.method = method
    with pytest.raises(RunError) as caught:
        run.fit(lambda: None)
    assert str(caught.value) == (
        "the memory of cpu is full at step 0, with 12 images at once; --accumulation 2 shows 6 at once; gradients stay "
        "the mean over 12, and batch normalisation is over 6; --dry-run --measure finds how many fit"
    )
    run.folder.close()
