"""From what a person names to a file on this disk: a path, a published name, a URL, or a file of Hugging Face's hub.

The table of names is weights/manifest.py; what arrives over HTTP comes through data/fetch/download.py, resumable
and checked. The two rooms do not know each other, so the engine brings them together here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from attnbias.data.fetch.download import LONGEST_NAME, MANIFEST, check_in_place, fetch, plain_name, public
from attnbias.data.info import Archive
from attnbias.data.progress import ProgressCallback, silent
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.weights.cache import cache_folder, offline
from attnbias.weights.errors import OtherEntryError, WeightsError
from attnbias.weights.manifest import PUBLISHED, Published

HUB, WEB = "hf://", ("http://", "https://")
BOOKKEEPING = (".turn", ".lock", MANIFEST)
"""What a folder of the cache holds beside weights."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
"""A URL, or what is meant as one, to the end of a text: alone, or behind the option that it is given to."""
RACES = 100
"""Times that a folder may be taken away by other processes before the system is believed that there can be none."""
LOG = logging.getLogger(__name__)

_unread: set[Path] = set()
"""What this process fetched without a published checksum: its first reader shows whether it is a weight file."""

_verified: set[tuple[Path, int, int]] = set()
"""Path, size and time of what this process has verified: a command asks for one file several times."""
BLOB = re.compile("[0-9a-f]{64}")
"""How the hub's cache calls a large file: by its SHA-256."""


def locate(source: str, progress: ProgressCallback = silent) -> Path:
    """The file or folder that `--load-from` or `--backbone-weights` names, fetched where it is not on this disk.

    A path that exists goes before a published name. Processes that ask for one file at once wait for each other.

    Raises:
        UsageError: it looks like a URL and is none that can be fetched.
        WeightsError: no such path or name, or the file cannot be had: offline, behind a form, not on the server.
        DataError: the transfer broke off, or what arrived is not what was published.
    """
    if (path := on_disk(source)) is not None:
        return path
    if source in PUBLISHED:
        return fetch_published(PUBLISHED[source], progress)
    if source.startswith(HUB):
        return _from_hub(source)
    if source.lower().startswith(WEB):
        folder = cache_folder() / f"url-{hashlib.sha256(source.encode(errors='replace')).hexdigest()[:12]}"
        return _fetched(Archive(source, _file_name(source)), folder, progress)
    raise WeightsError(
        f"no checkpoint {shown(source)}{did_you_mean(source, PUBLISHED)}; give a run folder, a .safetensors or a "
        "published .pth file, a URL, or a name of: attnbias list weights"
    )


def on_disk(source: str) -> Path | None:
    """The path that a person named, where there is one; a URL's name may be one that no disk can hold."""
    try:
        return Path(source) if Path(source).exists() else None
    except OSError:
        return None


def published_weights(name: str) -> Published:
    """Published weights by name.

    Raises:
        UsageError: there are none; the nearest name is offered.
    """
    if name not in PUBLISHED:
        raise UsageError(f"no published weights '{name}'{did_you_mean(name, PUBLISHED)}; see: attnbias list weights")
    return PUBLISHED[name]


def fetch_published(published: Published, progress: ProgressCallback = silent) -> Path:
    """Bring a published file to the cache; one that is there is not fetched, but verified whenever it is used."""
    if published.url.startswith(HUB):
        return _from_hub(published.url)
    folder = cache_folder() / published.name
    if published.browser and not (folder / published.file).is_file():
        raise WeightsError(
            f"{published.name} is behind a form that only a browser gets past: download {published.url} "
            f"and put it at {folder / published.file}"
        )
    archive = Archive(published.url, published.file, algorithm=published.algorithm, digest=published.digest)
    return _fetched(archive, folder, progress)


def published_recipe(source: str, method: str) -> str | None:
    """The named recipe of a published name; None for anything else.

    Raises:
        UsageError: the name is of another method, or of a backbone.
    """
    published = None if on_disk(source) else PUBLISHED.get(source)
    if published is None:
        return None
    if not published.recipe:
        raise UsageError(f"{source} is a backbone, no whole model; use: attnbias train {method} {published.option}")
    if method not in published.methods:
        raise UsageError(f"{source} is a checkpoint of '{published.methods[0]}', not of '{method}'")
    return published.recipe


def shown(source: str) -> str:
    """What a person named, or typed, as it may be printed and kept: a URL without what can be a secret."""
    return ADDRESS.sub(lambda found: _public(found[0]), source)


def _public(url: str) -> str:
    try:
        return public(url)
    except ValueError:  # it is none
        scheme, _, rest = url.partition("?")[0].partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"


def _file_name(url: str) -> str:
    """The name that a file of the web gets on this disk: the end of its path, never a place outside its folder."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and url.isascii() and url.isprintable() and " " not in url
        known = known and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise UsageError(f"{shown(url)!r} is not an URL; expected https://HOST/PATH/FILE, other letters as %XX")
    name = unquote(parts.path).rpartition("/")[2] or "weights"
    if not plain_name(name):
        raise UsageError(
            f"{shown(url)} ends in no name for a weight file (letters, no \\, no dot before it, at most {LONGEST_NAME} "
            "bytes); fetch it yourself and give its path"
        )
    return name


def _fetched(archive: Archive, folder: Path, progress: ProgressCallback) -> Path:
    target = folder / archive.file
    if not target.is_file() and offline():
        raise WeightsError(
            f"offline, and {target} is not there; put {shown(archive.url)} there, or run without --offline"
        )
    if target.is_file() and _version(target) in _verified:
        return target
    if target.is_file() and not os.access(folder, os.W_OK):  # a cache that is shared read-only
        check_in_place(archive, folder, progress)
    else:
        with _in_turn(folder):
            if not target.is_file():
                LOG.warning("fetching %s into %s", shown(archive.url), folder)
                if archive.digest is None:
                    _unread.add(target)
            fetch([archive], folder, again=True, progress=progress)
    _verified.add(_version(target))
    return target


def _version(file: Path) -> tuple[Path, int, int]:
    known = file.stat()
    return file, known.st_size, known.st_mtime_ns


@contextmanager
def refused_leaves_nothing(path: Path) -> Iterator[None]:
    """Around the reading of a weight file: what this command fetched and cannot be read does not stay in the cache.

    A file that was there before, and any file outside the cache, is left alone.
    """
    try:
        yield
    except OtherEntryError:
        raise
    except WeightsError as error:
        if path not in _unread:
            raise
        _unread.remove(path)
        with _in_turn(path.parent):
            path.unlink(missing_ok=True)
        raise WeightsError(f"{error}; the download was deleted") from None


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work in the folder: the processes of a run all name the same file.

    A folder in which nothing was kept is taken away again.
    """
    turn, races = FileLock(folder / ".turn"), 0
    while not turn.is_locked:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            turn.acquire()
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or races == RACES:
                raise WeightsError(
                    f"cannot write into {folder}: {error.strerror}; choose another $ATTNBIAS_CACHE"
                ) from None
            races += 1  # whose turn it was took the folder away
    try:
        yield
    finally:
        _tidy(folder)
        turn.release()


def _tidy(folder: Path) -> None:
    """Take a folder away in which there is nothing but our own notes."""
    notes = list(folder.iterdir())
    if all(note.name in BOOKKEEPING for note in notes):
        with suppress(OSError):  # a person may put a file there at this moment
            for note in notes:
                note.unlink()
            folder.rmdir()
            folder.parent.rmdir()


def _from_hub(source: str) -> Path:
    """A file of a model repository, by way of its own cache, which timm uses too."""
    parts = source.removeprefix(HUB).split("/", 2)
    if len(parts) < 3 or not source.isprintable() or {"", ".", ".."} & set("/".join(parts).split("/")):
        raise UsageError(f"{shown(source)!r}: expected {HUB}ORGANISATION/REPOSITORY/FILE")
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download("/".join(parts[:2]), parts[2], local_files_only=offline()))
    except Exception as error:  # its HTTP client raises errors of several families
        why = "offline, and it is not in the hub's cache" if offline() else (str(error).splitlines() or ["?"])[0]
        raise WeightsError(f"{shown(source)} cannot be had: {why}") from None
    blob = path.resolve()
    if BLOB.fullmatch(blob.name) and _version(blob) not in _verified:
        check_in_place(Archive(source, blob.name, algorithm="sha256", digest=blob.name), blob.parent)
        _verified.add(_version(blob))
    return path
