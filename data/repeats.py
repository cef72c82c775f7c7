"""The same image twice: in training and evaluation, with contradicting labels, or more than once in a split."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from attnbias.data.index import Index, Record
from attnbias.data.members import content_of
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.tally import Tally

TASKS = ("multilabel", "singlelabel", "segmentation")
"""Tasks in which an image is one sample; questions and captions share theirs by design."""

CONTRADICTION = "same image with different labels"
TAIL = 4096
"""Bytes at a file's end that are compared before the whole: files of one camera begin alike."""


def find_repeats(
    indexes: Sequence[Index],
    workers: int = 1,
    progress: ProgressCallback = silent,
) -> Tally:
    """Count samples whose files hold the same bytes, whatever they are called; each is named with its first double.

    Few files are read whole: only those of equal size and equal end.
    """
    files = [index for index in indexes if index.task in TASKS and not index.root.is_file()]
    paths = dict.fromkeys(f"{index.root}/{record.path}" for index in files for record in index.records)
    content = _contents(list(paths), workers, progress)
    samples: dict[Hashable, dict[str, list[Record]]] = defaultdict(dict)
    for index in files:
        for record in index.records:
            key = content[f"{index.root}/{record.path}"], record.crop
            samples[key].setdefault(index.split, []).append(record)
    tally = Tally()
    for found in samples.values():
        for one, other in combinations(found, 2):
            tally.add(f"same image in {one} and {other}", _named((one, found[one][0]), (other, found[other][0])))
        for split, records in found.items():
            if len(records) > 1:
                tally.add(f"same image more than once in {split}", _named(*((split, record) for record in records[:2])))
        everywhere = [(split, record) for split, records in found.items() for record in records]
        different = next((pair for pair in everywhere if pair[1].target != everywhere[0][1].target), None)
        if different is not None:
            tally.add(CONTRADICTION, _named(everywhere[0], different))
    return tally


def _named(*pair: tuple[str, Record]) -> str:
    return " = ".join(f"{split}: {record.path}" for split, record in pair)


def _contents(paths: Sequence[str], workers: int, progress: ProgressCallback) -> dict[str, tuple[Hashable, ...]]:
    """What is equal for files of equal bytes, and for no others; a file that cannot be read equals none."""
    known: dict[str, tuple[Hashable, ...]] = dict.fromkeys(paths, ())
    with ThreadPoolExecutor(workers) as pool:  # it waits for the disk
        for what, read in {"size": _size, "end": _tail, "bytes": _digest}.items():
            often = Counter(known.values())
            alike = [path for path in paths if often[known[path]] > 1]
            for done, (path, value) in enumerate(zip(alike, pool.map(_or_path(read), alike), strict=True), start=1):
                known[path] += (value,)
                progress(f"comparing files by {what}", done, len(alike))
    return known


def _or_path(read: Callable[[str], Hashable]) -> Callable[[str], Hashable]:
    def tried(path: str) -> Hashable:
        try:
            return read(path)
        except OSError:
            return path

    return tried


def _open(path: str) -> io.BufferedReader | io.BytesIO:
    content = content_of(Path(path))
    return Path(path).open("rb") if content is None else io.BytesIO(content)


def _size(path: str) -> int:
    with _open(path) as file:
        return file.seek(0, os.SEEK_END)


def _tail(path: str) -> bytes:
    with _open(path) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
        return hashlib.blake2b(file.read(TAIL)).digest()


def _digest(path: str) -> bytes:
    with _open(path) as file:
        return hashlib.file_digest(file, "blake2b").digest()
