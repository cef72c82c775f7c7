"""One walk of a folder for all commands: which files are images, in which order, and what is left out, by reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from attnbias.data.errors import DataError
from attnbias.data.tally import Tally

# fmt: off
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)
# fmt: on
"""Endings, in any case, of the files of a folder that are images. Their content is decoded whatever they are called."""

SYSTEM = (
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "icon\r"),  # macOS; its ._NAME and .DS_Store are hidden
    *("@eadir", "#recycle", "#snapshot", "lost+found"),  # file servers, Linux
)
"""Names, in lower case, of what systems and programs leave in folders."""

HIDDEN = "hidden or system file or folder"
OTHER = "file of another kind"
BROKEN = "broken link"
LOOP = "link to a folder that it is in"
SPECIAL = "device, pipe or socket"


class Listing(NamedTuple):
    """Names of the folders and of the files in a folder that count, each sorted."""

    folders: list[str]
    files: list[str]


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return name.lower().endswith(SUFFIXES)


def list_folder(folder: Path, left_out: Tally, below: str = "") -> Listing:
    """List a folder; what never counts is added to `left_out`, its name behind `below`.

    Raises:
        DataError: there is no such folder, or it may not be read.
    """
    from attnbias.data.members import TABLE, names_in  # with numpy, which a command's start must not wait for

    listing = Listing([], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror})") from None
    for entry in entries:
        # Links are followed by Path, for which one that leads nowhere, or to itself, is neither folder nor file.
        kind = Path(entry) if entry.is_symlink() else entry
        if entry.name == TABLE:
            continue
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
            left_out.add(HIDDEN, below + entry.name)
        elif kind.is_dir():
            listing.folders.append(entry.name)
        elif kind.is_file():
            listing.files.append(entry.name)
        else:
            left_out.add(BROKEN if entry.is_symlink() else SPECIAL, below + entry.name)
    if in_archives := names_in(folder):
        return listing._replace(files=sorted({*listing.files, *in_archives}))
    return listing


def walk_images(root: Path, left_out: Tally, below: str = "") -> list[str]:
    """Paths, relative to `root`, of all images in a folder and the folders in it, those behind links too.

    In the order of torchvision's ImageFolder: by folder, then by name. What is left out is added to `left_out`, by
    reason, its path behind `below`.

    Raises:
        DataError: a folder may not be read.
    """
    found: list[tuple[str, str]] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset([_identity(root)]))]
    while pending:
        location, above = pending.pop()
        folders, files = list_folder(root / location, left_out, below + location)
        found += [(location, name) for name in files if is_image(name)]
        for name in files:
            if not is_image(name):
                left_out.add(OTHER, f"{below}{location}{name}")
        for name in reversed(folders):
            identity = _identity(root / location / name)
            if identity in above:
                left_out.add(LOOP, f"{below}{location}{name}")
            else:
                pending.append((f"{location}{name}/", above | {identity}))
    # "b-1/" comes before "b/", as "b-1" comes behind "b".
    return [location + name for location, name in sorted(found, key=lambda path: (path[0][:-1], path[1]))]


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, by whatever path it is reached.

    Unlike its real path it costs one call to the system, however deep the folder lies.
    """
    try:
        known = folder.stat()
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror})") from None
    return known.st_dev, known.st_ino
