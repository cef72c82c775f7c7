"""Images that stay in their archives (`prepare-data --in-place`): which file of a folder lies where in which archive.

FOLDER/.members.npz lists the files that would be in FOLDER, the place that archives are unpacked to, and are not: all
else is as in a set that was unpacked, its index too. Whoever reads such a file by its path gets its bytes, by one seek.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from attnbias.data.arrays import read_arrays
from attnbias.data.atomic import replacing_bytes
from attnbias.data.errors import DataError
from attnbias.data.flat import FlatTexts
from attnbias.data.reading import FileName, Items, StoredModel, Unfit, parse_json, reading

TABLE = ".members.npz"
LARGEST = 8 << 30
"""Bytes of the largest table that is read; ImageNet's has 80 million."""
SAMPLED, HEADER = 256, 512
"""Members whose headers are compared when an archive is opened, evenly spread, and the bytes of one that are."""
MEND = "put the archive back, or run prepare-data again"


class Member(NamedTuple):
    """One file in an archive, as it is stored."""

    name: str
    """Its path below the folder that the archive would be unpacked to."""
    offset: int
    size: int


class _Archive(StoredModel):
    """An archive that files lie in."""

    path: FileName
    size: int
    headers: str
    """SHA-256 of what stands before some members, which tells that they still begin there."""


_ARCHIVES = TypeAdapter(Items[_Archive])


class _Members:
    """The files of a folder that lie in archives, by name."""

    def __init__(self, folder: Path) -> None:
        """Read a folder's table.

        Raises:
            DataError: it is damaged.
        """
        table = folder / TABLE
        with reading(table, "run prepare-data again"), table.open("rb") as file:
            arrays = read_arrays(file, LARGEST)
            if {*arrays} != {"archives", "names", "ends", "archive", "offsets", "sizes"}:
                raise Unfit("it is not a table of members")
            self.archives = _ARCHIVES.validate_python(parse_json(arrays["archives"].tobytes().decode()))
            self.names = FlatTexts.stored(arrays["names"].tobytes(), arrays["ends"])
            self.archive, self.offsets, self.sizes = (arrays[name] for name in ("archive", "offsets", "sizes"))
            if {each.shape for each in (self.archive, self.offsets, self.sizes)} != {(len(self.names),)}:
                raise Unfit("its columns differ in length")
            if len(self.names) and self.archive.max() >= len(self.archives):
                raise Unfit("it names an archive that it does not describe")
        self.files: list[int] = []
        """The archives, once they are open."""

    def open(self) -> None:
        """Open the archives.

        Raises:
            DataError: one is missing or another one.
        """
        self.files = [self._open(number) for number in range(len(self.archives))]

    def _open(self, number: int) -> int:
        archive, own = self.archives[number], self.archive == number
        try:
            file = os.open(archive.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"images lie in {archive.path}: {error.strerror}; {MEND}") from None
        offsets = self.offsets[own]
        size = os.fstat(file).st_size
        if size != archive.size or _headers(file, offsets) != archive.headers:
            raise DataError(f"{archive.path} is not the archive whose images were listed; {MEND}")
        if np.any(offsets < 0) or np.any(self.sizes[own] < 0) or np.any(offsets + self.sizes[own] > size):
            raise DataError(f"an image would lie beyond the end of {archive.path}; run prepare-data again")
        return file

    def find(self, name: str) -> int | None:
        """The position of a file; None of one that is not in an archive."""
        position = bisect_left(self.names, name)
        return position if position < len(self.names) and self.names[position] == name else None

    def content(self, position: int) -> bytes:
        """The bytes of a file."""
        file, size = self.files[self.archive[position]], int(self.sizes[position])
        content = os.pread(file, size, int(self.offsets[position]))
        if len(content) != size:
            raise OSError(f"its archive, {self.archives[self.archive[position]].path}, is cut short")
        return content

    def state(self, position: int) -> tuple[str, int, int, int]:
        """What tells a file from what may stand in its place later: its archive, the time of that, offset and size."""
        archive = self.archive[position]
        written = os.fstat(self.files[archive]).st_mtime_ns
        return self.archives[archive].path, written, int(self.offsets[position]), int(self.sizes[position])

    def directly_in(self, folder: str) -> list[str]:
        """Names of the files in a folder below, not those of the folders in it."""
        prefix = f"{folder}/" if folder not in ("", ".") else ""
        first, last = bisect_left(self.names, prefix), bisect_left(self.names, prefix + chr(0x10FFFF))
        names = (self.names[position][len(prefix) :] for position in range(first, last))
        return [name for name in names if "/" not in name]


def content_of(path: Path) -> bytes | None:
    """The bytes of a file that lies in an archive; None of any other.

    Raises:
        DataError: its archive is missing or another one. OSError: it cannot be read.
    """
    members, name = _above(path)
    position = None if members is None else members.find(name)
    return None if members is None or position is None else members.content(position)


def state_of(path: Path) -> tuple[int | str, ...] | None:
    """What tells whether a file, on the disk or in an archive, is another one by now; None of a missing one.

    Raises:
        DataError: its archive is missing or another one.
    """
    members, name = _above(path)
    position = None if members is None else members.find(name)
    if members is not None and position is not None:
        return members.state(position)
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class _Content(io.BytesIO):
    """The bytes of a file; in Pillow's messages its path, as if it were opened by that."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __repr__(self) -> str:
        return repr(str(self.path))


def opened(path: Path) -> Path | io.BytesIO:
    """What Pillow is to open: the path, or the bytes of a file that lies in an archive. Errors are `content_of`'s."""
    content = content_of(path)
    return path if content is None else _Content(content, path)


def check_archives(folder: Path) -> None:
    """Open the archives that files of a folder lie in, before processes are started, which then share what is known.

    Raises:
        DataError: the table is damaged, or an archive is missing or another one.
    """
    _above(folder / TABLE)


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder that lie in archives."""
    members, name = _above(folder / TABLE)
    return [] if members is None else members.directly_in(name.removesuffix(TABLE).rstrip("/"))


def archives_of(folder: Path) -> list[Path]:
    """The archives that files of a folder's table lie in, which need not be there."""
    written = _written(folder)
    return [Path(archive.path) for archive in _listed(folder, written).archives] if written else []


def as_listed(folder: Path, archive: Path) -> bool:
    """Whether the files of a folder that lie in an archive of this name are to be found: in this one where it is there,
    else where it was."""
    members = _listed(folder, _written(folder) or 0)
    number = next(n for n, each in enumerate(members.archives) if Path(each.path).name == archive.name)
    listed = members.archives[number]
    try:
        found = _described(listed.path, members.offsets[members.archive == number])
    except OSError:
        return False
    return found == listed and (str(archive) == listed.path or not archive.is_file())


def keep(folder: Path, archive: Path, found: Sequence[Member]) -> None:
    """List, in a folder's table, the files that lie in an archive, in the place of what was listed of one of its name;
    where there are none, and no others, there is no table. Of two files of one name the last counts, as in unpacking.
    """
    last = {member.name: member for member in found}.values()
    rows: list[tuple[str, str, int, int]] = [(str(archive), *member) for member in last]
    known: dict[str, _Archive] = {}
    if written := _written(folder):
        members = _listed(folder, written)
        known = {each.path: each for each in members.archives if Path(each.path).name != archive.name}
        for position, name in enumerate(members.names):
            own = members.archives[members.archive[position]].path
            if own in known:
                rows.append((own, name, int(members.offsets[position]), int(members.sizes[position])))
    _KNOWN.clear()
    if not rows:
        (folder / TABLE).unlink(missing_ok=True)
        return
    _store(folder, rows, known)


def keep_all(folder: Path, found: Mapping[Path, Sequence[Member]]) -> None:
    """Make a folder's table one of the files that lie in these archives, and of no others; each has its own name."""
    _KNOWN.clear()
    _store(folder, [(str(archive), *member) for archive, members in found.items() for member in members], {})


@contextmanager
def as_before_on_error(folder: Path) -> Iterator[None]:
    """Where the block fails, leave a folder's table as it was."""
    table = folder / TABLE
    before = table.read_bytes() if table.is_file() else None
    try:
        yield
    except BaseException:
        _KNOWN.clear()
        if before is not None:
            with replacing_bytes(table) as file:
                file.write(before)
        elif table.exists():
            table.unlink()
            folder.rmdir()
        raise


def _store(folder: Path, rows: list[tuple[str, str, int, int]], known: Mapping[str, _Archive]) -> None:
    """Write a folder's table: rows of archive, name, offset and size. Archives that are not `known` are looked into."""
    rows.sort(key=lambda row: row[1])
    paths = sorted({row[0] for row in rows})
    numbers = {path: number for number, path in enumerate(paths)}
    archives = np.array([numbers[row[0]] for row in rows], np.uint16)
    offsets, sizes = (np.array([row[part] for row in rows], np.int64) for part in (2, 3))
    described = [known.get(path) or _described(path, offsets[archives == number]) for path, number in numbers.items()]
    names = FlatTexts(row[1] for row in rows)
    text = json.dumps([each.model_dump() for each in described]).encode()
    with replacing_bytes(folder / TABLE) as file:
        np.savez(
            file,
            archives=np.frombuffer(text, np.uint8),
            names=np.frombuffer(names.content, np.uint8),
            ends=names.ends,
            archive=archives,
            offsets=offsets,
            sizes=sizes,
        )


def _described(path: str, offsets: NDArray[np.int64]) -> _Archive:
    file = os.open(path, os.O_RDONLY)
    try:
        return _Archive(path=path, size=os.fstat(file).st_size, headers=_headers(file, offsets))
    finally:
        os.close(file)


def _headers(file: int, offsets: NDArray[np.int64]) -> str:
    """The digest of what stands before some of an archive's members: the header that names each and tells its size."""
    offsets = np.sort(offsets)
    chosen = offsets[np.unique(np.linspace(0, len(offsets) - 1, min(SAMPLED, len(offsets))).astype(int))]
    digest = hashlib.sha256()
    for offset in chosen.tolist():
        start = max(0, offset - HEADER)
        digest.update(os.pread(file, offset - start, start))
    return digest.hexdigest()


def _above(path: Path) -> tuple[_Members | None, str]:
    """The table of the nearest folder above a file that has one, and the file's name from there on."""
    folder = _folder_above(path.parent)
    if folder is None:
        return None, ""
    return _members(folder, _written(folder) or 0), path.relative_to(folder).as_posix()


_KNOWN: dict[Path, Path | None] = {}
"""Folders, and the nearest one above each, or itself, that has a table."""
MOST_KNOWN = 1 << 16


def _folder_above(folder: Path) -> Path | None:
    """The nearest folder above that has a table; a walk from above looks once into each, however deep it lies."""
    looked, found = list[Path](), None
    for each in chain([folder], folder.parents):
        if each in _KNOWN:
            found = _KNOWN[each]
            break
        looked.append(each)
        if (each / TABLE).is_file():
            found = each
            break
    if len(_KNOWN) > MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN.update(dict.fromkeys(looked, found))
    return found


def _written(folder: Path) -> int | None:
    try:
        return (folder / TABLE).stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=8)
def _listed(folder: Path, written: int) -> _Members:
    """A folder's table, read once; one that was written since is another one."""
    return _Members(folder)


@lru_cache(maxsize=8)
def _members(folder: Path, written: int) -> _Members:
    """The same, and its archives are open."""
    members = _listed(folder, written)
    members.open()
    return members
