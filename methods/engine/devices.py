"""Which device of the machine a command computes on: what was asked for, held against what PyTorch sees."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.requests import Machine, Processes

MPS = "mps"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def asked_device(request: Machine) -> str | None:
    """The device that was typed; None where the numbers of GPUs and processes decide.

    By itself a command takes CUDA's GPUs, then Apple's, then the CPU.
    """
    if request.device not in (None, "auto"):
        return request.device
    counts = (request.gpus, request.processes if isinstance(request, Processes) else None)
    alone = counts == (None, None) and int(os.environ.get("WORLD_SIZE", "1")) == 1
    return MPS if alone and not torch.cuda.is_available() and torch.backends.mps.is_available() else None


def present(device: str | None) -> int:
    """GPUs that PyTorch sees, of the kind that was asked for."""
    return 1 if device == MPS else torch.cuda.device_count()


def check_present(gpus: int, seen: int) -> None:
    """Refuse more GPUs than there are.

    Raises:
        UsageError: see above.
    """
    if gpus <= seen:
        return
    have = f"{seen} GPU{'s' if seen > 1 else ''}" if seen else "no GPU"
    visible = os.environ.get(VISIBLE)
    if visible is not None and "MIG" in visible:
        have += f" ({VISIBLE}={visible!r}: of slices, a process sees the first one)"
    elif visible is not None:
        have += f" ({VISIBLE}={visible!r} hides others)"
    raise UsageError(f"--gpus {gpus} asked for, but this machine has {have}; use --gpus {seen}")


def check_own(gpus: int, seen: int) -> None:
    """Refuse a process that an outer launcher started for a GPU which is not there.

    Raises:
        UsageError: see above.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if gpus and local >= seen:
        started = os.environ.get("LOCAL_WORLD_SIZE", str(local + 1))
        raise UsageError(
            f"the launcher started {started} processes on this machine, which has {seen} GPU{'s' if seen > 1 else ''}: "
            f"one process a GPU; start {seen} (torchrun --nproc-per-node {seen}), or add --gpus 0 for the CPU"
        )


def check_cards(cards: Sequence[int]) -> None:
    """Refuse GPUs that this process does not see.

    Raises:
        UsageError: see above.
    """
    seen = torch.cuda.device_count()
    if missing := [card for card in cards if card >= seen]:
        have = f"cards 0 to {seen - 1}" if seen > 1 else "card 0" if seen else "no GPU"
        raise UsageError(f"--gpus {','.join(map(str, cards))}: there is no card {missing[0]}; this machine has {have}")


def pick(cards: Sequence[int]) -> None:
    """Show this process, and those that it starts, only some of the GPUs that it sees.

    Raises:
        UsageError: there is no such card, or CUDA has started and looks no more.
    """
    check_cards(cards)
    typed, seen = ",".join(map(str, cards)), torch.cuda.device_count()
    if torch.cuda.is_initialized():
        raise UsageError(f"--gpus {typed}: CUDA has started in this process; set {VISIBLE} before it does")
    names = os.environ.get(VISIBLE, ",".join(map(str, range(seen)))).split(",")
    os.environ[VISIBLE] = ",".join(names[card] for card in cards)


def gpus_of(device: str, gpus: int | None) -> int:
    """The number of GPUs that a typed device stands for.

    Raises:
        UsageError: there is no such device, or it contradicts `gpus`.
    """
    try:
        torch.empty(0, device=device).cpu()  # `meta` has no numbers to take
    except (RuntimeError, AssertionError, ImportError) as error:
        seen = torch.cuda.device_count()
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(seen))])
        # Of other devices torch's words are a list of all that it was ever compiled for.
        reason = str(error).splitlines()[0].split(". ")[0] if device.startswith("cuda") else "there is no such device"
        raise UsageError(f"--device {device}: {reason}; this machine has: {there}") from None
    on_gpu = torch.device(device).type in ("cuda", MPS)
    if gpus is not None and on_gpu != bool(gpus):
        raise UsageError(f"--device {device} contradicts --gpus {gpus}: leave one of them out")
    return (gpus or 1) if on_gpu else 0
