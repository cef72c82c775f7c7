"""What a dataset's own `prepare` function is given, what it gives back, and what most of them call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from attnbias.data.index import Index
from attnbias.data.info import DatasetInfo, together
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import Json
from attnbias.data.tally import Tally


@dataclass(frozen=True)
class PrepareOptions:
    """What a person may ask of `prepare-data` beside the dataset and its source."""

    verify: bool = False
    """Decode every image."""
    overwrite: bool = False
    """Replace what was prepared with another source or other settings."""
    dry_run: bool = False
    """Read and check, write nothing."""
    download: bool = False
    """Fetch the official archives."""
    in_place: bool = False
    """Leave images in their archives, and list where they lie there."""
    offline: bool = False
    """Verify every byte of the archives, fetch nothing."""
    splits: tuple[str, ...] = ()
    """Only these; none named = all that are found."""
    workers: int = 1
    """Processes or threads that make or decode images."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the set's defaults."""
    train_split: str | None = None
    """The split that trains, where the names do not tell."""
    val_split: str | None = None
    """The split that evaluates, where the names do not tell."""
    val_fraction: float | None = None
    """Hold out this share of the training files to evaluate on, where no split is for that."""
    name: str | None = None
    """What a set of one's own is called, where not after its folder or file."""
    val_seed: int = 0
    """Decides which files `val_fraction` takes."""
    progress: ProgressCallback = silent


class Reading(NamedTuple):
    """What a dataset's own `prepare` function found or made."""

    indexes: Sequence[Index]
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = {}
    """All settings, those that were not changed too."""
    files: Mapping[str, str] = {}
    """Further text files for the dataset's folder, such as a published program's own index."""
    remarks: Tally = Tally()
    """What a person should know of how the source was read."""
    left_out: Tally = Tally()
    """Files and folders that do not count, by reason."""
    masks: Mapping[int, Path] = {}
    """Image id -> mask of its object, where a person's own images have masks in files."""


Preparer = Callable[[DatasetInfo, Path, Path, PrepareOptions], Reading]
"""(info, source folder, the dataset's folder below DATA_ROOT, options) -> Reading; of a generated set both are one.

It reads annotations and raises DataError for what it cannot understand. Missing and broken images, counts, roles and
the writing of indexes are the caller's part. A generated set writes its own images, unless `dry_run`."""

FurtherFiles = Callable[[Sequence[Index]], Mapping[str, str]]
"""All splits that were read -> text files for the dataset's folder, as a published program has them: {file: text}."""


def chosen_settings(info: DatasetInfo, options: PrepareOptions) -> Json:
    """All settings of a set that is not generated, and how its roles were decided; those that are None are left out."""
    roles = {
        "train_split": options.train_split,
        "val_split": options.val_split,
        "val_fraction": options.val_fraction,
        "val_seed": None if options.val_fraction is None else options.val_seed,
    }
    chosen = {**info.settings, **options.settings, **roles}
    return {name: value for name, value in chosen.items() if value is not None}


def check_counts(info: DatasetInfo, indexes: Sequence[Index]) -> list[str]:
    """A warning for each split whose number of samples is not the official one; of many splits, for all alike."""
    wrong = {
        index.split: f"{len(index.records):,} samples, the official set has {info.counts[index.split]:,}"
        for index in indexes
        if index.split in info.counts and len(index.records) != info.counts[index.split]
    }
    return [f"{splits}: {words}" for splits, words in together(wrong)]


def first_existing(paths: Sequence[Path]) -> Path | None:
    """The first of the paths that exists."""
    return next((path for path in paths if path.exists()), None)
