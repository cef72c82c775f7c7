"""The root of all errors that a person can mend; a room's own kinds stand in its `errors.py`.

    AttnbiasError
        UsageError     something asked for cannot be                     exit code 2
        DataError      data are missing or damaged                       exit code 3
        WeightsError   weights are missing, damaged or do not fit        exit code 3
        RunError       a run cannot go on                                exit code 1
        Stopped        a signal stopped a run; its state was saved       exit code 128 + signal

Each message is one line that names the thing, what was expected, and what mends it. In messages an option stands as
it is typed on the command line: `--eval-batch-size` is `eval_batch_size=` in Python.
"""

from __future__ import annotations


class AttnbiasError(Exception):
    """What a person can mend; its message is one line."""

    exit_code = 1
    """That of the command line."""
