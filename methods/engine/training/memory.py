"""The memory of training steps: what they take, by taking some, and how a batch is cut that does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.training.sampler import Plan

GB = 1e9
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Of Linux: a process's own figures, and what sets its highest one back (5)."""
CONTAINER = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Memory:
    """What training steps of a run take of a device's memory, in each process."""

    device: str
    limit: int
    """Bytes that a process may have."""
    share: int
    """Images that the run shows a process at once."""
    peaks: dict[int, int]
    """Images at once -> the most bytes that were in use over steps of so many."""
    largest: int
    """The most images at once."""
    accumulation: int | None
    """Pieces that each share must be cut into; None where a single image does not fit."""

    @property
    def ran(self) -> bool:
        """Whether steps of the largest number of images were taken; else it follows from the two largest that were."""
        return self.largest in self.peaks

    @property
    def fits(self) -> bool:
        """Whether the run does as it is."""
        return self.share <= self.largest


def measure(plan: Plan, device: torch.device, peak_of: Callable[[int], int], limit: int | None = None) -> Memory:
    """Take steps of 2, 4, 8 ... images, up to a process's share or to what fits, and of the most that fit.

    Memory grows with the images by a line; how far it reaches is computed from the two largest numbers that were
    tried. `peak_of` takes steps of so many images and says the most bytes that they needed; `limit` is what the device
    has, where it is not asked itself.
    """
    limit = limit or limit_of(device) // (plan.processes if device.type == "cpu" else 1)
    share = min(images_at_once(plan), plan.samples)
    peaks: dict[int, int] = {}

    def run(images: int) -> bool:
        """Whether steps of so many images fit."""
        try:
            peaks[images] = peak_of(images)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return peaks[images] <= limit

    size = min(2, share)
    fits = run(size)
    while fits and size < share:
        following = min(2 * size, share)
        if len(peaks) > 1 and _reach(peaks, limit) < following:
            break
        size, fits = following, run(following)
    largest = _reach(peaks, limit) if len(peaks) > 1 else share if fits else 0
    if not fits:  # a device may be full sooner than the line says
        largest = min(largest, size - 1)
    while 0 < largest < share and largest not in peaks and not run(largest):
        largest = (max([images for images, taken in peaks.items() if taken <= limit], default=0) + largest) // 2
    return Memory(str(device), limit, share, peaks, largest, cut(plan, largest))


def _reach(peaks: dict[int, int], limit: int) -> int:
    """The most images whose memory lies below the limit, by the line through the two largest numbers of them."""
    (fewer, low), (more, high) = sorted(peaks.items())[-2:]
    return int(more + (limit - high) * (more - fewer) / max(high - low, 1))


def images_at_once(plan: Plan) -> int:
    """The most images that a process is shown at once."""
    return -(-plan.batch_size // (plan.processes * plan.accumulation))


def cut(plan: Plan, largest: int) -> int | None:
    """The fewest pieces of each process's share of a batch that have no more than `largest` images; None for none."""
    return None if largest < 1 else max(plan.accumulation, -(-plan.batch_size // (plan.processes * largest)))


def normalizes(model: nn.Module) -> bool:
    """Whether a model's answers in training depend on what else is in the batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def too_large(plan: Plan, accumulation: int | None, normalizes: bool) -> str:
    """How a batch that does not fit is cut, and what that changes, in words."""
    if accumulation is None or accumulation * plan.processes > plan.batch_size:
        return "try --grad-checkpointing, --amp or a smaller --image-size"
    pieces = -(-plan.batch_size // (plan.processes * accumulation))
    words = f"--accumulation {accumulation} shows {pieces} at once; gradients stay the mean over {plan.batch_size}"
    return f"{words}, and batch normalisation is over {pieces}" if normalizes else words


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch found no more memory, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# Devices --------------------------------------------------------------------------------------------------------------


def limit_of(device: torch.device) -> int:
    """Bytes that the processes of this machine may have on a device.

    Raises:
        UsageError: it does not tell.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type != "cpu" or not RESET.exists():
        raise UsageError(f"--measure reads memory of CUDA's GPUs and of Linux alone, not of {device} here")
    total = _kilobytes(Path("/proc/meminfo"), "MemTotal")
    quota = CONTAINER.read_text().strip() if CONTAINER.exists() else "max"
    return total if quota == "max" else min(total, int(quota))


def reset_peak(device: torch.device) -> None:
    """Begin to look for the most memory that is in use, anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        RESET.write_text("5")


def peak(device: torch.device) -> int:
    """The most bytes that were in use since: by PyTorch on a GPU, by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes(STATUS, "VmHWM")


def _kilobytes(file: Path, name: str) -> int:
    """A figure of one of Linux's files, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
