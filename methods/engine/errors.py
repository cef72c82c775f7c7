"""Errors that a person can mend. The command line turns each into one clear line and an exit code (describe.py)."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

from attnbias.errors import AttnbiasError


class UsageError(AttnbiasError):
    """Something a person typed cannot be (exit code 2)."""

    exit_code = 2


class RunError(AttnbiasError):
    """A run cannot go on: a non-finite loss, a full disk, a folder in use (exit code 1)."""


class NotFiniteError(RunError):
    """A model answers with NaN or infinity (`Request.finite_answers`)."""

    def __init__(self, what: str) -> None:
        self.what = f"{what} NaN or infinity"
        super().__init__(f"{self.what}; the weights are damaged, or --amp is too coarse for them")


class Stopped(AttnbiasError):
    """A signal asked the run to stop; it did so at the end of a step, with its state saved (exit code 128 + signal)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


class Interrupted(BaseException):
    """A signal ended a command that had nothing to save (exit code 128 + signal); no handler of errors swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" when a known name is near, else an empty string; one that holds all of what was
    typed (--dataset for --set) goes before one of other letters."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    near.sort(key=lambda each: name.lstrip("-") not in each)
    return f" (did you mean '{near[0]}'?)" if near else ""
