"""What `--overwrite` may delete: only what an earlier run of the command wrote. Anything else is foreign, and stays.

A command says which entries of a folder are its own: files by their relative paths, folders with a slash at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Owns = Callable[[str], object]
"""Relative path of an entry, "checkpoints/" or "recipe.yaml" -> true where the command may have written it."""


def first_foreign(folder: Path, owns: Owns, parts: Sequence[str] | None = None) -> Path | None:
    """The first entry of a folder, or of some parts of it, that the command did not write; None where all is its own.

    A link of the folder itself and of an entry in it is followed, as where checkpoints lie on another disk; a link
    further down is foreign.
    """
    return next((path for path, own in _entries(folder, owns, parts) if not own), None)


def remove_owned(folder: Path, owns: Owns, parts: Sequence[str] | None = None) -> None:
    """Delete what the command wrote: its files, then its folders where they are empty; links to folders stay."""
    for path, own in reversed([*_entries(folder, owns, parts)]):  # what a folder holds comes before the folder
        if own and path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif own and not path.is_dir():
            path.unlink()


def _entries(folder: Path, owns: Owns, parts: Sequence[str] | None) -> Iterator[tuple[Path, bool]]:
    """Every entry with whether it is the command's own, a folder before what it holds; foreign ones are not entered."""

    def visit(entry: Path, name: str) -> Iterator[tuple[Path, bool]]:
        linked_below = entry.is_symlink() and "/" in name
        own = not linked_below and bool(owns(f"{name}/" if entry.is_dir() else name))
        yield entry, own
        if own and entry.is_dir():
            for below in sorted(entry.iterdir()):
                yield from visit(below, f"{name}/{below.name}")

    for part in sorted(path.name for path in folder.iterdir()) if parts is None else parts:
        if os.path.lexists(folder / part):
            yield from visit(folder / part, part)
