"""One process at a time in a folder: a lock file in it, which the system releases however its holder ends.

Processes that are forked meanwhile hold nothing: a loader's may outlive a killed run by some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from attnbias.data.errors import DataError

LOCK = ".lock"
"""The file that one process holds while it writes into a folder."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and make the folder where it is missing.

    Raises:
        DataError: another process holds it, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(f"another process is at work in {folder}; wait for it, or stop it") from None
    except OSError as error:
        raise DataError(f"cannot write into {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
