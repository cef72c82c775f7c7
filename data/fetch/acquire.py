"""From a dataset's archives to a folder that can be read: fetched where that is allowed, verified, unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.fetch.download import fetch, readable_size
from attnbias.data.fetch.unpack import is_done, unpack
from attnbias.data.info import Archive, DatasetInfo
from attnbias.data.progress import ProgressCallback

ARCHIVES, UNPACKED = "archives", "source"
"""Folders, below the dataset's own, of what is fetched and of what is unpacked."""


def acquire(
    info: DatasetInfo,
    source: Path | None,
    folder: Path,
    *,
    download: bool,
    offline: bool,
    dry_run: bool,
    in_place: bool,
    splits: Sequence[str],
    progress: ProgressCallback,
) -> Path | None:
    """Make archives readable; return the folder to read, or `source` as it was where there are no archives.

    Archives are taken from `source` where it holds some, else from FOLDER/archives. They are verified, and unpacked to
    FOLDER/source (CIFAR's and STL-10's are read where they lie). What was unpacked before needs no archive any more.

    Args:
        download: fetch what is missing.
        offline: fetch nothing, verify every byte of the archives.
        dry_run: only say what would be done.
        in_place: leave images in the archives, and list where they lie (data/members.py).
        splits: those that are asked for; archives of another single split are passed over unless they are there.

    Raises:
        DataError: an archive is missing, is wrong, may not be fetched by a program, or the disk is full.
    """
    if download and info.acquisition != "auto":
        raise DataError(f"'{info.name}' cannot be downloaded by a program: {instructions(info)}")
    location = source or folder / ARCHIVES
    present = [archive for archive in info.archives if (location / archive.file).is_file()]
    offered = [a for a in info.archives if not a.split or a.split in splits or a in present]
    wanted = offered if download or (offline and source is None) else present
    if in_place and info.archives and not wanted and source is not None:
        raise DataError(f"--in-place: {source} holds none of the archives of '{info.name}'")
    if not wanted:
        return source
    target = folder / UNPACKED if info.unpack else location
    unpacked = {a for a in wanted if info.unpack and is_done(location / a.file, target / a.into, in_place)}
    pending = [a for a in wanted if a not in unpacked or (offline and a in present)]
    if dry_run and (missing := [a for a in pending if info.unpack or not (location / a.file).is_file()]):
        what = f"fetched into {location}" if download else "unpacked"
        raise DataError(f"dry run: {', '.join(named(archive) for archive in missing)} would be {what} first")
    if pending and not dry_run:
        fetch(pending, location, notes=folder / ARCHIVES, offline=offline, progress=progress)
    if info.unpack and not dry_run:
        for each in pending:
            unpack(location / each.file, target / each.into, nested=each.nested, in_place=in_place, progress=progress)
    return target


def instructions(info: DatasetInfo) -> str:
    """Where to get a dataset by hand, which files are expected, and what to type next."""
    files = ", ".join(named(archive) for archive in info.archives)
    expected = f"{files} (or {info.layout})" if files else info.layout
    return (
        f"get it ({info.size}) from {info.page}, put {expected} into one folder, "
        f"and run: attnbias prepare-data {info.name} --source THAT_FOLDER"
    )


def named(archive: Archive) -> str:
    """An archive's name, and its size where that is known."""
    return archive.file if archive.size is None else f"{archive.file} ({readable_size(archive.size)})"
