"""Names that become files: what a dataset or a split may be called, so that nothing is written where it should not."""

from __future__ import annotations

import os
from pathlib import Path

TABLES = (".csv", ".tsv")
LONGEST = 200
"""Bytes; file systems take 255, and ".json" and a temporary file's ending are added."""
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
"""Names that are not files on Windows, with whatever ending."""


def unfit_name(name: str) -> str | None:
    """Why a dataset or a split cannot have this name, as the rest of a sentence; None where it can."""
    if not name.strip():
        return "is empty"
    if not name.isprintable():
        return "holds characters that cannot be printed"
    if "/" in name or "\\" in name:
        return "holds a separator of folders"
    if name[0] in "-." or name != name.strip():
        return "begins with '-' or '.', or has spaces around it"
    if len(name.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if name.split(".")[0].casefold() in DEVICES:
        return "is a device on some systems"
    return None


def real_path(path: Path) -> Path:
    """What a path leads to through all links. One that leads to itself stays as it is, where `Path.resolve` raises."""
    return Path(os.path.realpath(path))


def own_name(path: Path) -> str:
    """What a set of one's own is called after its folder, or after its file without the ending."""
    path = real_path(path) if path.name in ("", "..") else path  # which stand for a folder that has a name
    return path.stem if path.suffix.lower() in (*TABLES, ".json") and not path.is_dir() else path.name
