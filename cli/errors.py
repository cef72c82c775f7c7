"""From an error to one clear line and an exit code: 2 usage, 3 data or checkpoint, 128 + signal, 1 anything else."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from typing import Any

import typer

from attnbias.data.errors import DataError
from attnbias.methods.engine.errors import Interrupted, RunError, Stopped, UsageError, did_you_mean
from attnbias.methods.engine.text import brief, visible
from attnbias.weights.errors import WeightsError

EXIT_CODES: dict[type[BaseException], int] = {UsageError: 2, DataError: 3, WeightsError: 3, RunError: 1}

TypedWrong = typer.BadParameter.__mro__[1]
"""Click's UsageError, of which Typer has its own copy in some versions and the click package's in others."""


def describe(error: BaseException) -> tuple[int, str]:
    """(exit code, one line) of an error; the traceback goes before it where `--debug` asks for it."""
    code, line = _one_line(error)
    line = visible(brief(line))
    if os.environ.get("ATTNBIAS_DEBUG"):
        lines = "".join(traceback.format_exception(error)).splitlines()
        line = "\n".join([*map(visible, lines), line])
    return code, line


def _one_line(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Stopped):
        return 128 + error.signal_number, f"stopped by {error}; continue with the same command and --resume auto"
    if isinstance(error, KeyboardInterrupt):  # in a process that was started for a run
        error = Interrupted(signal.SIGINT)
    if isinstance(error, Interrupted):
        return 128 + error.signal_number, f"stopped by {error}; the same command starts it again"
    if isinstance(error, TypedWrong):
        return 2, _typed_wrong(error)
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code, f"error: {_words(error)}"
    if isinstance(error, MemoryError):
        return 1, "error: out of memory; try fewer --workers, or a smaller --batch-size with --accumulation"
    if isinstance(error, RuntimeError) and _words(error).startswith(("DataLoader", "Pin memory thread")):
        return 1, f"error: {_words(error).rstrip('. ')}; did memory run out, or a disk hang? try fewer --workers"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 2, f"error: {error.filename}: a name of more than 255 bytes; choose a shorter one"
    if isinstance(error, OSError) and error.filename:
        return 1, f"error: {error.filename}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        cut = "raise --accumulation (the same recipe in smaller pieces) or lower --eval-batch-size"
        return 1, f"error: the GPU's memory is full; {cut}, or try --grad-checkpointing or --amp bf16"
    first, *_ = [*_words(error).splitlines(), ""]
    return 1, f"error: {type(error).__name__}: {first} (see where with: attnbias --debug ...)"


def _words(error: BaseException) -> str:
    """An error's message; where a loader's worker put a traceback around it, the last line."""
    words = str(error).strip()
    if "\nOriginal Traceback" in words:
        return words.splitlines()[-1].split(": ", 1)[-1]
    return words


def _typed_wrong(error: Any) -> str:
    """What Typer refuses, in our words: one line, the nearest option, where to read more."""
    words = error.format_message().replace("Value error, ", "").replace(". Did you", "; did you").rstrip(".")
    if not words:  # no arguments at all: the help was shown
        return ""
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        words = f"no such option {error.option_name}{did_you_mean(error.option_name, error.possibilities or ())}"
    more = f"; see: {error.ctx.command_path} --help" if error.ctx else ""
    return f"error: {words[:1].lower()}{words[1:]}{more}"
