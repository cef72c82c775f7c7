"""Unpacking archives safely: checked name by name into a hidden folder first, then moved to where they belong.

TARGET/.unpack-ARCHIVE-STAMP/   members that are written so far; a stopped run continues with those that are missing
TARGET/.unpacked.json           archives that are unpacked, with their sizes; written last
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ConfigDict, TypeAdapter

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.lock import only_writer
from attnbias.data.members import TABLE, Member, archives_of, as_listed, keep
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import BAD_ARCHIVE, read_json, reading
from attnbias.data.walk import is_image

MANIFEST = ".unpacked.json"
LOG = logging.getLogger(__name__)
RATIO = 200
"""Unpacked bytes for each archived one above which an archive is a bomb; annotation files stay below 20."""
ALLOWANCE = 10_000_000
"""Bytes that any archive may unpack to, however small it is."""
CHUNK = 1 << 20

Packed = tuple[str, int, Callable[[], IO[bytes]], int | None]
"""Path below the target, size in bytes, what opens its content, and where its bytes begin as they are; None where they
are compressed."""


class CompressedError(DataError):
    """An image is compressed in its archive, and so cannot stay there."""


def unpack(
    archive: Path,
    target: Path,
    *,
    nested: bool = False,
    in_place: bool = False,
    progress: ProgressCallback = silent,
) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip into `target`; do nothing where that was done before.

    Several archives may go into one folder; a member replaces a file of the same name. Links, devices, absolute paths,
    `..`, encrypted members and bombs are refused, and nothing of such an archive gets into `target`.

    Args:
        archive: the file; its kind is told by its content, not by its name.
        target: the folder that its members go to.
        nested: members that are tar files are unpacked in their turn, each into a folder of its own name, as ImageNet's
            training archive asks for.
        in_place: leave images in the archive, which must not compress them, and list where they lie (data/members.py).
        progress: told the bytes of the archive that were read.

    Raises:
        DataError: the archive is damaged or hostile, the disk is full, or another process is at work in `target`.
    """
    size = archive.stat().st_size
    with only_writer(target):
        if _manifest(target).get(archive.name) == size and is_done(archive, target, in_place):
            return
        hidden = target / f".unpack-{archive.name}-{archive.stat().st_mtime_ns:x}"
        LOG.info("unpacking %s", archive.name)
        try:
            kept = _unpack_into(hidden, archive, nested, in_place, progress)
            os.sync()  # one flush for a million files instead of one for each
            _merge(hidden, target)
            hidden.rmdir()
            if kept or stays(archive, target):
                keep(target, archive, kept)
            _record(target, archive.name, size)
            LOG.info("unpacked %s into %s", archive.name, target)
        except (DataError, OSError, tarfile.TarError, *BAD_ARCHIVE) as error:
            if isinstance(error, OSError) and error.errno is not None:  # gzip's own errors have no number
                raise DataError(
                    f"cannot unpack {archive} into {target}: {error.strerror}; mend that and run again to continue"
                ) from None
            shutil.rmtree(hidden, ignore_errors=True)
            reason = str(error) or "it is cut short"
            mend = "leave --in-place out" if isinstance(error, CompressedError) else "delete it and fetch it again"
            raise DataError(f"{archive} cannot be unpacked: {reason}; {mend}") from None


def is_unpacked(archive: str, target: Path) -> bool:
    """Whether the archive of this name was unpacked into `target`; it may have been deleted since."""
    return archive in _manifest(target)


def is_done(archive: Path, target: Path, in_place: bool) -> bool:
    """Whether an archive of this name was unpacked: whole, where its images are not to stay in it, and those that did
    are there still."""
    if not is_unpacked(archive.name, target):
        return False
    return not stays(archive, target) or (in_place and as_listed(target, archive))


def stays(archive: Path, target: Path) -> bool:
    """Whether images that belong into `target` were left in an archive of this name."""
    return archive.name in {each.name for each in archives_of(target)}


def _unpack_into(hidden: Path, archive: Path, nested: bool, in_place: bool, progress: ProgressCallback) -> list[Member]:
    """Write the members, and return the images among them that stay in the archive."""
    for stale in set(hidden.parent.glob(f".unpack-{archive.name}-*")) - {hidden}:
        shutil.rmtree(stale)  # of another version of the archive
    hidden.mkdir(exist_ok=True)
    size, written = archive.stat().st_size, 0
    kept: list[Member] = []
    seen: set[int] = set()  # hashes: names would take a gigabyte; where two are alike, a file is written once more
    with archive.open("rb") as file:
        zipped = file.read(2) == b"PK"
        file.seek(0)
        for name, length, content, offset in _zip_members(file) if zipped else tar_members(file, hidden, nested):
            written += length
            if written > max(ALLOWANCE, RATIO * size):
                raise DataError(f"it unpacks to more than {RATIO} times its size (a bomb?), at {name}")
            if in_place and is_image(name):
                if offset is None:
                    raise CompressedError(f"member {name!r} is compressed, and --in-place reads images as they lie")
                (hidden / name).parent.mkdir(parents=True, exist_ok=True)
                kept.append(Member(name, offset, length))
            else:
                _write(hidden / name, length, content, again=hash(name) in seen)
                seen.add(hash(name))
            progress(f"unpacking {archive.name}", min(file.tell(), size), size)
    return kept


def _write(path: Path, length: int, content: Callable[[], IO[bytes]], again: bool) -> None:
    """Write one member, unless an earlier run did: what bears its own name is whole. Of two of one name the last wins.

    Args:
        again: the archive had a member of this name before.
    """
    if not again and path.is_file() and path.stat().st_size == length:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.part")
    with content() as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    part.replace(path)


def _zip_members(file: IO[bytes]) -> Iterator[Packed]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"member {info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise DataError(f"member {info.filename!r} is encrypted")
            name = _safe(info.filename)
            if not info.is_dir():
                offset = _behind_header(file, info.header_offset) if info.compress_type == zipfile.ZIP_STORED else None
                yield name, info.file_size, partial(archive.open, info), offset


def _behind_header(file: IO[bytes], offset: int) -> int:
    """Where the bytes of a zip's member begin: behind its own header, whose name and extra field have any length."""
    file.seek(offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return int(offset + 30 + name + extra)


def tar_members(file: IO[bytes], folder: Path, nested: bool = False, start: int | None = 0) -> Iterator[Packed]:
    """The files in a tar file, checked as if they were to be unpacked into `folder`.

    Args:
        nested: of members that are tar files, those in them, each below a folder of its tar's name.
        start: where its own bytes begin in the archive; None where it is compressed.

    Raises:
        DataError: a member is a link or leads out of the folder. tarfile.TarError: it is damaged.
    """
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        if archive.fileobj is not file:
            start = None
        while (info := archive.next()) is not None:
            vars(archive)["members"].clear()  # a gigabyte for ImageNet-C's million members; only links would need them
            name = _safe(info.name)
            if not (info.isreg() or info.isdir()):
                raise DataError(f"member {info.name!r} is a link or a device")
            tarfile.data_filter(info, str(folder))  # Python's own opinion; it raises a TarError
            if nested and name.endswith(".tar"):
                begins = None if start is None else start + info.offset_data
                for member, length, content, offset in tar_members(_extracted(archive, info), folder, False, begins):
                    yield f"{name.removesuffix('.tar')}/{member}", length, content, offset
            elif info.isreg():
                offset = None if start is None or info.issparse() else start + info.offset_data
                yield name, info.size, partial(_extracted, archive, info), offset
        _check_end(archive)


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # of a regular one
    return file


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise unless zeros mark the end: `tarfile` takes an archive that breaks off at a header for a whole one."""
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise tarfile.ReadError("it is cut short")
    while stream.read(CHUNK):  # gzip checks its sum at its end
        pass


def _safe(name: str) -> str:
    """The member's path in plain form; raise DataError for one that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or (name[1:2] == ":"):
        raise DataError(f"member {name!r} leads out of the folder")
    if path.name in (MANIFEST, TABLE):  # which would say what is unpacked, and that images lie anywhere
        raise DataError(f"member {name!r} has the name of a file that prepare-data writes there")
    return str(path)


def _merge(source: Path, target: Path) -> None:
    """Move what is in `source` into `target`: whole folders where they are new, else file by file."""
    for entry in sorted(source.iterdir()):
        location = target / entry.name
        if entry.is_dir() and location.is_dir():
            _merge(entry, location)
            entry.rmdir()
        else:
            entry.replace(location)


def _manifest(target: Path) -> dict[str, int]:
    path = target / MANIFEST
    try:
        with reading(path, "delete it, and the archives are unpacked again"):
            return TypeAdapter(dict[str, int], config=ConfigDict(strict=True)).validate_python(read_json(path))
    except FileNotFoundError:
        return {}


def _record(target: Path, name: str, size: int) -> None:
    with replacing(target / MANIFEST) as file:
        file.write(json.dumps({**_manifest(target), name: size}, indent=1) + "\n")
