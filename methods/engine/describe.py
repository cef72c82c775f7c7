"""From an error to one clear line and an exit code: 2 usage, 3 data or checkpoint, 128 + signal, 1 anything else."""

from __future__ import annotations

import errno
import os
import signal
import traceback

from attnbias.errors import AttnbiasError
from attnbias.methods.engine.errors import Interrupted, Stopped
from attnbias.methods.engine.text import brief, visible


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
    if isinstance(error, AttnbiasError):
        return error.exit_code, f"error: {_words(error)}"
    if isinstance(error, MemoryError):
        return 1, "error: out of memory; try fewer --workers, or a smaller --batch-size with --accumulation"
    if isinstance(error, RuntimeError) and _words(error).startswith(("DataLoader", "Pin memory thread")):
        return 1, f"error: {_words(error).rstrip('. ')}; did memory run out, or a disk hang? try fewer --workers"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 2, f"error: {error.filename}: a name of more than 255 bytes; choose a shorter one"
    if isinstance(error, OSError) and error.filename:
        return 1, f"error: {error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("attnbias"):
        return 1, f"error: {_not_installed(error.name.partition('.')[0])}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        cut = "raise --accumulation (the same recipe in smaller pieces) or lower --eval-batch-size"
        return 1, f"error: the GPU's memory is full; {cut}, or try --grad-checkpointing or --amp bf16"
    first, *_ = [*_words(error).splitlines(), ""]
    return 1, f"error: {type(error).__name__}: {first} (see where with: attnbias --debug ...)"


def _not_installed(package: str) -> str:
    """The line about a package that attnbias needs, as where it was installed without its dependencies."""
    if package in ("torch", "torchvision"):
        cpu = "for a CPU alone, which is 4 GB less: --index-url https://download.pytorch.org/whl/cpu"
        return f"{package} is not installed; pip install torch torchvision ({cpu})"
    return f"the package {package} is not installed; pip install {package}"


def _words(error: BaseException) -> str:
    """An error's message; where a loader's worker put a traceback around it, the last line."""
    words = str(error).strip()
    if "\nOriginal Traceback" in words:
        return words.splitlines()[-1].split(": ", 1)[-1]
    return words
