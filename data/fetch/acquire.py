"""From a dataset's archives to a folder that can be read: fetched where that is allowed, verified, unpacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.facts import Archive, DatasetFacts
from attnbias.data.fetch.download import fetch, readable_size
from attnbias.data.fetch.unpack import is_unpacked, unpack

ARCHIVES, UNPACKED = "archives", "source"
"""Folders, below the dataset's own, of what is fetched and of what is unpacked."""


def acquire(
    facts: DatasetFacts,
    source: Path | None,
    folder: Path,
    *,
    download: bool,
    offline: bool,
    dry_run: bool,
    splits: Sequence[str],
    progress: Callable[[str, int, int], None],
) -> Path | None:
    """Make archives readable; return the folder to read, or `source` as it was where there are no archives.

    Archives are taken from `source` where it holds some, else from FOLDER/archives. They are verified, and unpacked to
    FOLDER/source (CIFAR's and STL-10's are read where they lie). What was unpacked before needs no archive any more.

    Args:
        download: fetch what lacks.
        offline: fetch nothing, verify every byte of the archives.
        dry_run: only say what would be done.
        splits: those that are asked for; archives of another single split are passed over unless they are there.

    Raises:
        DataError: an archive lacks, is wrong, may not be fetched by a program, or the disk is full.
    """
    if download and facts.acquisition != "auto":
        raise DataError(f"'{facts.name}' cannot be downloaded by a program: {instructions(facts)}")
    place = source or folder / ARCHIVES
    present = [archive for archive in facts.archives if (place / archive.file).is_file()]
    offered = [a for a in facts.archives if not a.split or a.split in splits or a in present]
    wanted = offered if download or (offline and source is None) else present
    if not wanted:
        return source
    target = folder / UNPACKED if facts.unpack else place
    unpacked = {a for a in wanted if facts.unpack and is_unpacked(a.file, target / a.into)}
    pending = [a for a in wanted if a not in unpacked or (offline and a in present)]
    if dry_run and (lacking := [a for a in pending if facts.unpack or not (place / a.file).is_file()]):
        names = ", ".join(named(archive) for archive in lacking)
        raise DataError(f"dry run: {names} would be {'fetched into ' + str(place) if download else 'unpacked'} first")
    if pending and not dry_run:
        fetch(pending, place, notes=folder / ARCHIVES, offline=offline, progress=progress)
    if facts.unpack and not dry_run:
        for archive in pending:
            unpack(place / archive.file, target / archive.into, nested=archive.nested, progress=progress)
    return target


def instructions(facts: DatasetFacts) -> str:
    """Where to get a dataset by hand, which files are expected, and what to type next."""
    files = ", ".join(named(archive) for archive in facts.archives)
    expected = f"{files} (or {facts.layout})" if files else facts.layout
    return (
        f"get it ({facts.size}) from {facts.page}, put {expected} into one folder, "
        f"and run: attnbias prepare-data {facts.name} --source THAT_FOLDER"
    )


def named(archive: Archive) -> str:
    """An archive's name, and its size where that is known."""
    return archive.file if archive.size is None else f"{archive.file} ({readable_size(archive.size)})"
