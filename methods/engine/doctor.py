"""Whether this machine is ready: packages, devices, folders and the network, a finding each.

Each check stands for itself, so that a broken PyTorch is one finding and not the end of the rest.
"""

from __future__ import annotations

import os
import platform
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from attnbias import __version__
from attnbias.data.cores import available_cores
from attnbias.data.prepared import data_root
from attnbias.weights.cache import cache_folder, offline

HUB = "https://huggingface.co"
PATIENCE = 10
"""Seconds that the hub has for an answer."""
GB = 1e9
SHARED = 1 * GB
"""Less shared memory than this is soon full of batches: Docker gives 64 MB."""
ROOM = 5 * GB
"""Less free space than this does not hold a run of a large model with its checkpoints."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    value: str
    verdict: Literal["ok", "note", "problem"]
    """A note does not keep anything from running; a problem does."""
    advice: str = ""
    """What mends it."""


def doctor(root: Path | None = None, network: bool = False) -> list[Finding]:
    """Look at everything that a run depends on and that is not in its recipe.

    Args:
        root: where prepared datasets stand; None = $ATTNBIAS_DATA or ./datasets.
        network: also ask whether the hub of weights can be reached.
    """
    checks = (_software(), _devices(), _memory(), _folders(root), _network() if network else ())
    return [finding for check in checks for finding in check]


# Packages -------------------------------------------------------------------------------------------------------------


def _software() -> Iterator[Finding]:
    """Python, each package that this one needs, and each extra."""
    yield Finding("attnbias", f"{__version__} on Python {platform.python_version()}, {platform.system()}", "ok")
    needed = [Requirement(line) for line in requires("attnbias") or ()]
    for requirement in needed:
        if requirement.marker is None:
            yield _package(requirement)
    for extra in metadata("attnbias").get_all("Provides-Extra") or ():
        # `dev` names other extras of this package; they have their own rows.
        parts = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra})]
        missing = [each.name for each in parts if _installed(each) is None and each.name != "attnbias"]
        state = f"not installed: {', '.join(missing)}" if missing else "installed"
        yield Finding(f"extra {extra}", state, "ok", f"to get it: pip install 'attnbias[{extra}]'" if missing else "")


def _package(requirement: Requirement) -> Finding:
    found, bounds = _installed(requirement), str(requirement.specifier)
    install = f"pip install '{requirement.name}{bounds}'"
    if found is None:
        return Finding(requirement.name, "not installed", "problem", install)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding(requirement.name, f"{found}, not {bounds}: never tried", "problem", install)
    return Finding(requirement.name, found, "ok")


def _installed(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


# The machine ----------------------------------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    """The CPU cores, and what PyTorch sees beside them."""
    cores, present = available_cores(), os.cpu_count() or 1
    yield Finding("CPU", f"{cores} of {present} cores may be used", "ok")
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Finding("PyTorch", f"cannot be imported: {reason}", "problem", "pip install torch torchvision")
        return
    built = torch.version.cuda
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        room = f"{free / GB:.0f} of {total / GB:.0f} GB free"
        yield Finding(f"GPU {number}", f"{card.name}, {room}, compute capability {card.major}.{card.minor}", "ok")
    if torch.cuda.device_count() > 1:
        yield _links()
    elif torch.cuda.device_count() == 0:
        yield _without_gpu(built)
    if torch.backends.mps.is_available():
        yield Finding("MPS", "there, but never tried", "note", "--device cpu is what was tried")


def _links() -> Finding:
    """What several GPUs talk over."""
    import torch

    if not torch.distributed.is_nccl_available():
        return Finding("NCCL", "not in this PyTorch", "problem", "several GPUs need a PyTorch that was built with it")
    return Finding("NCCL", ".".join(map(str, torch.cuda.nccl.version())), "ok")


def _without_gpu(built: str | None) -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if built is None:
        return Finding("GPU", "none: this PyTorch is for the CPU alone", "ok")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding("GPU", f"none: CUDA_VISIBLE_DEVICES='{hidden}' hides them", "note", "unset CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi"):
        advice = f"this PyTorch wants CUDA {built}: compare with the driver in nvidia-smi"
        return Finding("GPU", "PyTorch sees none, though nvidia-smi is here", "problem", advice)
    return Finding("GPU", "none", "ok")


def _memory() -> Iterator[Finding]:
    """The memory that loader processes share batches in."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    free = shutil.disk_usage(shared).free
    advice = "start the container with --shm-size 8g, or train with --workers 0" if free < SHARED else ""
    yield Finding("shared memory", f"{free / GB:.1f} GB free in {shared}", "note" if advice else "ok", advice)


def _folders(root: Path | None) -> Iterator[Finding]:
    """Where data, weights and runs go: whether they can be written, and how much fits."""
    mend = {"data": "--data-root or $ATTNBIAS_DATA", "weights": "$ATTNBIAS_CACHE", "runs": "--out"}
    folders = {"data": data_root(root), "weights": cache_folder(), "runs": Path("runs")}
    for name, folder in folders.items():
        absolute = folder.absolute()
        there = next(each for each in (absolute, *absolute.parents) if each.exists())
        words = str(folder) if folder.exists() else f"{folder}, made when it is needed"
        if not (there.is_dir() and os.access(there, os.W_OK)):
            yield Finding(name, f"{words}: {there} cannot be written", "problem", f"choose another by {mend[name]}")
            continue
        free = shutil.disk_usage(there).free
        advice = f"choose another disk by {mend[name]}" if free < ROOM else ""
        yield Finding(name, f"{words}, {free / GB:.0f} GB free", "note" if advice else "ok", advice)


def _network() -> Iterator[Finding]:
    """Whether the hub answers."""
    if offline():
        yield Finding("network", "not asked: --offline, or $ATTNBIAS_OFFLINE is set", "note", "leave it out to fetch")
        return
    hub = os.environ.get("HF_ENDPOINT", HUB)
    try:
        with urllib.request.urlopen(hub, timeout=PATIENCE):
            yield Finding("network", f"{hub} answers", "ok")
    except (OSError, ValueError) as error:
        advice = "weights and data must be put in place by hand: attnbias list weights -v, attnbias list datasets -v"
        yield Finding("network", f"{hub} does not answer: {error}", "note", advice)
