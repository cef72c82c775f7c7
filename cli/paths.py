"""Paths that a person types: pictures to read, files and folders to write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attnbias.data.owned import first_foreign, remove_owned
from attnbias.methods.engine.errors import RunError, UsageError

WRITTEN = ".written.json"
"""Names what a command wrote into its --out folder; --overwrite deletes that and nothing else."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
"""What a folder's pictures end in; a file that is named itself may end in anything."""


def check_target(file: Path, overwrite: bool, folder: bool = False) -> None:
    """Refuse a file, or a folder, that cannot be written to later, before hours of work.

    Raises:
        UsageError: it exists and is not to be replaced. RunError: its folder is a file, or read-only.
    """
    if file.exists() and file.is_dir() != folder:
        raise UsageError(f"{file} is a {'file; name a folder' if folder else 'folder; name a file'}")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists; choose another name or add --overwrite")
    above = next(parent for parent in file.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise RunError(f"cannot write {file}: {above} is {'read-only' if above.is_dir() else 'no folder'}")


@contextmanager
def output_folder(out: Path, overwrite: bool, names: Sequence[str]) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` when all went well; nothing half-written is ever seen there.

    With `overwrite`, what an earlier run of the command wrote is replaced; other files in `out` stay. `names` are all
    that the command may write there.

    Raises:
        UsageError: `out` is a file, or holds something and `overwrite` is not given, or one of `names` is there and
            holds what no earlier run wrote.
        RunError: it cannot be written (read-only, disk full).
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"--out {out} is not empty; choose another folder or add --overwrite")
    home = out.resolve()  # a link to another disk stays a link, and "." has a name
    owned = _written_before(home)
    if home.is_dir() and (foreign := first_foreign(home, owned.__contains__, names)):
        raise UsageError(
            f"--overwrite replaces what an earlier run of the command wrote, and {out / foreign.relative_to(home)} is "
            "not of one; move it away, or choose another --out"
        )
    part = home.with_name(f".{home.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        home.mkdir(exist_ok=True)
        remove_owned(home, owned.__contains__, names)
        files = [f"{path.relative_to(part)}{'/' if path.is_dir() else ''}" for path in sorted(part.rglob("*"))]
        (home / WRITTEN).write_text(json.dumps(files, indent=0) + "\n")
        for name in names:
            if (part / name).exists():
                (part / name).rename(home / name)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _written_before(folder: Path) -> set[str]:
    """What an earlier run of a command wrote into a folder; nothing where that cannot be told."""
    try:
        names = json.loads((folder / WRITTEN).read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def find_pictures(paths: Sequence[Path]) -> tuple[list[tuple[str, Path]], int]:
    """Named files, and the pictures below named folders, each with a name to show; and the count of other files.

    Raises:
        UsageError: a path does not exist, or a folder holds no picture.
    """
    found: list[tuple[str, Path]] = []
    others = 0
    for path in paths:
        if path.is_file():
            found.append((path.name, path))
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
            if not pictures:
                raise UsageError(f"folder {path} holds no picture ({', '.join(sorted(SUFFIXES))})")
            found += [(str(file.relative_to(path)), file) for file in pictures]
            others += len(files) - len(pictures)
        else:
            raise UsageError(f"no file or folder {path}")
    return found, others
