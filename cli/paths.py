"""Paths that a person types: pictures to read, files and folders to write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attnbias.methods.engine.errors import RunError, UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
"""What a folder's pictures end in; a file that is named itself may end in anything."""


def check_target(file: Path, overwrite: bool) -> None:
    """Refuse a file or folder that cannot be written to later, before hours of work.

    Raises:
        UsageError: it exists and is not to be replaced. RunError: its folder is a file, or read-only.
    """
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists; choose another name or add --overwrite")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise RunError(f"cannot write {file}: {folder} is {'read-only' if folder.is_dir() else 'no folder'}")


@contextmanager
def output_folder(out: Path, overwrite: bool, written: Sequence[str]) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` when all went well; nothing half-written is ever seen there.

    With `overwrite`, only what the command writes (`written`) is replaced; other files in `out` stay.

    Raises:
        UsageError: `out` is a file, or holds something and `overwrite` is not given.
        RunError: it cannot be written (read-only, disk full).
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"--out {out} is not empty; choose another folder or add --overwrite")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        out.mkdir(exist_ok=True)
        for name in written:
            shutil.rmtree(out / name, ignore_errors=True) if (out / name).is_dir() else (out / name).unlink(True)
            if (part / name).exists():
                (part / name).rename(out / name)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
