"""Errors that a person can mend. The command line turns each into one clear line and an exit code (cli/errors.py)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something a person typed cannot be (exit code 2)."""


class RunError(Exception):
    """A run cannot go on: a non-finite loss, a full disk, a folder in use (exit code 1)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" when a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
