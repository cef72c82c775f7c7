"""Files that are whole or not there: written beside their place, flushed, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TextIO

from attnbias.data.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises:
        DataError: a folder, a device or a pipe stands in its place.
    """
    with _replaced_by(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        yield file
        _flush(file)


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, of a file that is not text."""
    with _replaced_by(path) as part, part.open("wb") as file:
        yield file
        _flush(file)


@contextmanager
def _replaced_by(path: Path) -> Iterator[Path]:
    """The file to write, which takes the place of `path` in the end."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, where a file belongs; move it away")
    if path.exists() and not path.is_file():  # a rename would take the place of a device, /dev/null too
        raise DataError(f"{path} is a device or a pipe, where a file belongs; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
        flush_to_disk(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # what the person named, which a full disk's error does not
        raise


def _flush(file: IO[str] | IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not only in the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
