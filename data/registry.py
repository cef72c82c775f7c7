"""Datasets by name or path: which are known, which are ready, and where their prepared splits are opened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from attnbias.data.catalogue import ENTRIES
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.info import DatasetInfo, named
from attnbias.data.names import own_name, real_path
from attnbias.data.prepared import MANIFEST, Prepared, data_root, is_ready

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in ENTRIES})


def known_class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a set in its order, empty where they are only known from its files."""
    info = DATASETS.get(dataset)
    names: tuple[str, ...] = named(info.class_names)() if info and info.class_names else ()
    return names


def dataset_folder(name_or_path: str, root: Path | None = None) -> Path:
    """Folder of a dataset's prepared files: DATA_ROOT/NAME, or for a path itself or what was prepared from it."""
    path = Path(name_or_path)
    a_path = "/" in name_or_path or name_or_path in (".", "..") or (path / MANIFEST).is_file() or path.is_file()
    if name_or_path in DATASETS or not a_path:
        return data_root(root) / name_or_path
    prepared = data_root(root) / own_name(path)
    source = Prepared.read(prepared).source if is_ready(prepared) else None
    return prepared if source is not None and real_path(Path(source)) == real_path(path) else path


def split_words(dataset: str, split: str) -> str:
    """What a split shows, where that is known; else nothing."""
    info = DATASETS.get(dataset)
    return info.split_words.get(split, "") if info else ""


def ready(name_or_path: str, root: Path | None = None) -> bool:
    """Whether a dataset can be read: its manifest and all its index files are there."""
    return is_ready(dataset_folder(name_or_path, root))


def open_split(name_or_path: str, split: str, root: Path | None = None) -> Index:
    """Read one split of a prepared dataset.

    Args:
        name_or_path: a dataset's name, or a prepared folder of one's own.
        split: a split's own name, or its role: "train" or "val".
        root: DATA_ROOT; None = $ATTNBIAS_DATA, else ./datasets.

    Raises:
        DataError: unknown, not prepared, or damaged; the message says what to run.
    """
    return read_prepared(name_or_path, root).open(dataset_folder(name_or_path, root), split)


def check_splits(name_or_path: str, splits: Iterable[str], root: Path | None = None) -> None:
    """Look, without reading an index, whether a dataset is prepared and has these splits.

    Raises:
        DataError: as `open_split`.
    """
    prepared = read_prepared(name_or_path, root)
    for split in splits:
        prepared.named(split)


def read_prepared(name_or_path: str, root: Path | None = None) -> Prepared:
    """What was prepared of a dataset: its splits and their roles.

    Raises:
        DataError: as `open_split`.
    """
    folder = dataset_folder(name_or_path, root)
    try:
        return Prepared.read(folder)
    except FileNotFoundError:
        pass
    info = DATASETS.get(name_or_path)
    if info is not None:
        option = f" --root {root}" if root is not None else ""
        raise DataError(
            f"dataset '{name_or_path}' is not prepared in {folder}; "
            f"run: attnbias prepare-data {name_or_path}{option}{info.arguments}"
        )
    if "/" in name_or_path or folder.is_dir():
        mend = f"; run: attnbias prepare-data {name_or_path}" if folder.exists() else ""
        raise DataError(f"{folder} is not a prepared dataset: it holds no {MANIFEST}{mend}")
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise DataError(f"unknown dataset '{name_or_path}'{hint}; see: attnbias list datasets")
