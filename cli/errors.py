"""From an error to one clear line and an exit code: 2 usage, 3 data or checkpoint, 128 + signal, 1 anything else."""

from __future__ import annotations

import signal

from attnbias.data.errors import DataError
from attnbias.methods.engine.errors import RunError, Stopped, UsageError
from attnbias.weights.errors import WeightsError

EXIT_CODES: dict[type[BaseException], int] = {UsageError: 2, DataError: 3, WeightsError: 3, RunError: 1}


def describe(error: BaseException) -> tuple[int, str] | None:
    """(exit code, message) of an error that a person can mend; None for any other, which wants a traceback."""
    if isinstance(error, Stopped):
        return 128 + error.signal_number, f"stopped by {error}; continue with the same command and --resume auto"
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "stopped by SIGINT"
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code, f"error: {error}"
    return None
