"""The folder that a command writes: whole or not at all, and replaced only where the same command wrote before."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attnbias.data.names import real_path
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.data.reading import read_json
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.output_files import check_location, check_writable

HOST = socket.gethostname()

WRITTEN = ".written.json"
"""Names what a command wrote into its --out folder; --overwrite deletes that and nothing else."""


@contextmanager
def output_folder(out: Path, overwrite: bool, names: Sequence[str]) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` when all went well; nothing half-written is ever seen there.

    With `overwrite`, what an earlier run of the command wrote is replaced; other files in `out` stay. `names` are all
    that the command may write there.

    Raises:
        UsageError: `out` is a file, or holds something and `overwrite` is not given, or one of `names` is there and
            holds what no earlier run wrote, or `out` is inside a run, a checkpoint or a dataset, or cannot be made.
        RunError: it cannot be written (disk full).
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    check_location(out)
    for name in names if out.is_dir() else ():  # of a dataset or a checkpoint it may be the folder itself
        check_location(out / name)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty; choose another folder or add --overwrite")
    folder = real_path(out)  # a link to another disk stays a link, and "." has a name
    if folder.is_symlink():
        raise UsageError(f"{out} is a link to itself; name a folder")
    check_writable(folder)
    owned = _written_before(folder)
    if folder.is_dir() and (foreign := first_foreign(folder, owned.__contains__, names)):
        raise UsageError(
            f"--overwrite replaces what an earlier run of the command wrote, and {out / foreign.relative_to(folder)} "
            "is not of one; move it away, or choose another --out"
        )
    part = folder.with_name(f".{folder.name}.{HOST}.{os.getpid()}.part")
    try:
        _remove_left(folder)
        part.mkdir(parents=True)
        yield part
        files = [f"{path.relative_to(part)}{'/' if path.is_dir() else ''}" for path in sorted(part.rglob("*"))]
        (part / WRITTEN).write_text(json.dumps(files, indent=0) + "\n")
        if not folder.exists():
            part.rename(folder)  # all of it at once, whenever the process is killed
            return
        remove_owned(folder, owned.__contains__, names)
        for name in (WRITTEN, *names):
            if (part / name).exists():
                (part / name).rename(folder / name)
    except OSError as error:
        elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(folder.parent)
        if elsewhere or error.errno == errno.ENAMETOOLONG:
            raise  # of something that the command reads, or no name at all
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Remove what commands that were killed here, without time to tidy up, have left beside a folder."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.{glob.escape(HOST)}.*.part"):
        number = left.name.removesuffix(".part").rpartition(".")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another person's, or no number that could tell
    return True


def _written_before(folder: Path) -> set[str]:
    """What an earlier run of a command wrote into a folder; nothing where that cannot be told."""
    try:
        names = read_json(folder / WRITTEN)
    except (OSError, ValueError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
