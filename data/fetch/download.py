"""Fetching archives: resumable, checked, several at once. Nothing is called by its own name before it is whole.

FOLDER/FILE.part           what has arrived; continued by the next run
FOLDER/.FILE.validator     the server's mark of the version that the part is of (If-Range)
NOTES/manifest.json        size, time and digest of every file that was verified (NOTES is FOLDER unless said otherwise)
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit, urlunsplit

from pydantic import TypeAdapter

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.info import Archive
from attnbias.data.lock import only_writer
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import Json, StoredModel, read_json, reading

MANIFEST = "manifest.json"
LOG = logging.getLogger(__name__)
CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dropped."""
ATTEMPTS = 6
"""Tries in a row that bring nothing new before a file is given up."""
BACKOFF = 1.0
"""Seconds before the second try; doubled for each further one, at most a minute."""

JOBS = 4
"""Archives that are fetched at once."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH)

LONGEST_NAME = 200
"""Bytes of a file's name: with what is put around it for a part it must stay below the 255 that disks allow."""


def plain_name(name: str) -> bool:
    """Whether a name, which may come from a stranger, is that of one file in the folder, and of none of our own."""
    own = name.startswith(".") or name.casefold() == MANIFEST
    return (
        bool(name)
        and not own
        and len(os.fsencode(name)) <= LONGEST_NAME
        and name.isprintable()
        and not (set(name) & set("/\\"))
    )


def public(url: str) -> str:
    """An address as it may be printed and kept: user, password, query and fragment can be secrets.

    Raises:
        ValueError: it is not an address.
    """
    parts = urlsplit(url)
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def fetch(
    archives: Sequence[Archive],
    folder: Path,
    *,
    notes: Path | None = None,
    offline: bool = False,
    again: bool = False,
    progress: ProgressCallback = silent,
) -> list[Path]:
    """Bring archives into `folder` and verify them; those that are there and verified before are left alone.

    Interrupted transfers continue where they stopped. A file without a published checksum has the SHA-256 of its first
    use recorded in manifest.json and is compared with it from then on. Proxies are taken from the environment.

    Args:
        archives: what to fetch; size and digest are checked where they are known.
        folder: where the files go; archives that a person placed there are verified and used.
        notes: where the manifest is kept, for a folder that may not be written to; default: `folder`.
        offline: fetch nothing, and verify every byte again.
        again: verify every byte of what is there again, whatever its time and size.
        progress: told the bytes of each file that are there, from several threads.

    Returns:
        The paths of the files, in the order asked for.

    Raises:
        DataError: no room, no connection, a file that is not what it should be, or another process at work here.
    """
    for archive in archives:
        if not plain_name(archive.file):
            raise DataError(f"{archive.file!r} is not a name for a file in {folder}; nothing was fetched")
        if (folder / archive.file).is_dir():
            raise DataError(f"{folder / archive.file} is a folder, expected a file; move it away")
    with only_writer(notes or folder):
        store = _Store(folder, notes or folder, progress, threading.Event())
        wanted = [archive for archive in archives if not store.verified(archive, again or offline)]
        if wanted and offline:
            names = ", ".join(f"{a.file} from {a.url}" if a.url else a.file for a in wanted)
            raise DataError(f"{folder} has no {names}; place it there, or run without --offline")
        store.check_room(wanted)
        _together(store.fetch, wanted, store.stop)
    return [folder / archive.file for archive in archives]


def check_in_place(archive: Archive, folder: Path, progress: ProgressCallback = silent) -> None:
    """Verify a file of a folder that may not be written to, against what is published or was recorded there.

    Raises:
        DataError: it is not what it should be.
    """
    _Store(folder, folder, progress, threading.Event()).check(archive, folder / archive.file)


def _together(fetch_one: Callable[[Archive], None], archives: Sequence[Archive], stop: threading.Event) -> None:
    """Fetch in threads; the first error, or a signal, stops the others at their next chunk."""
    with ThreadPoolExecutor(JOBS) as pool:
        try:
            futures = [pool.submit(fetch_one, archive) for archive in archives]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        failed = next((future for future in futures if future in done and future.exception()), None)
        if failed:
            stop.set()
            pool.shutdown(cancel_futures=True)
            failed.result()


class _Known(StoredModel):
    """What the manifest says of an archive."""

    bytes: int
    mtime_ns: int
    ctime_ns: int | None = None
    """Of the last change of any kind, which nobody can set back as they can the other; old manifests have none."""
    digest: str


def _as_it_is(stat: os.stat_result) -> Json:
    """What shows that a file was not touched since its digest was taken."""
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}


@dataclass
class _Store:
    """The folder of archives and its manifest."""

    folder: Path
    notes: Path
    progress: ProgressCallback
    stop: threading.Event

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        path = self.notes / MANIFEST
        try:
            with reading(path, "delete it, and the archives are verified again"):
                known = TypeAdapter(dict[str, _Known]).validate_python(read_json(path))
        except FileNotFoundError:
            known = {}
        self.manifest: dict[str, Json] = {name: info.model_dump() for name, info in known.items()}

    # Verifying ----------------------------------------------------------------------------------------------------

    def verified(self, archive: Archive, again: bool) -> bool:
        """Whether the file is there and right. A known size, times and digest are believed unless `again`."""
        path = self.folder / archive.file
        if not path.is_file():
            return False
        known, stat = self.manifest.get(archive.file, {}), path.stat()
        if not again and {**known, **_as_it_is(stat)} == known:
            return True
        LOG.info("verifying %s (%s)", archive.file, readable_size(stat.st_size))
        self.verify(archive, path)
        return True

    def verify(self, archive: Archive, path: Path) -> None:
        """Check size, then digest, and record both; raise DataError where they differ from what is known."""
        entry = self.check(archive, path)
        if entry != self.manifest.get(archive.file):
            self._record(archive.file, entry)

    def check(self, archive: Archive, path: Path) -> Json:
        """Size, time and digest of a file; raise DataError where they differ from what is known."""
        stat = path.stat()
        known = self.manifest.get(archive.file, {})
        expected = archive.size if archive.size is not None or archive.digest else known.get("bytes")
        if expected is not None and stat.st_size != expected:
            raise DataError(f"{path} has {stat.st_size:,} bytes, expected {expected:,}; delete it and fetch it again")
        algorithm = archive.algorithm if archive.digest and archive.algorithm else "sha256"
        digest = self._digest(path, algorithm)
        published = f"{algorithm}:{archive.digest}" if archive.digest else known.get("digest")
        if published is not None and not digest.startswith(published):
            origin = "published" if archive.digest else f"recorded in {MANIFEST} at first use"
            raise DataError(f"{path} has {digest}, expected {published} ({origin}); delete it and fetch it again")
        return {**_as_it_is(stat), "digest": digest}

    def _digest(self, path: Path, algorithm: str) -> str:
        state = hashlib.new(algorithm, usedforsecurity=False)
        size = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                self._stop_here()
                state.update(chunk)
                self.progress(f"verifying {path.name.removesuffix('.part')}", file.tell(), size)
        return f"{algorithm}:{state.hexdigest()}"

    def _record(self, name: str, entry: Json) -> None:
        with self.lock:
            self.manifest[name] = entry
            with replacing(self.notes / MANIFEST) as file:
                file.write(json.dumps(self.manifest, indent=1) + "\n")

    # Fetching -----------------------------------------------------------------------------------------------------

    def check_room(self, archives: Sequence[Archive]) -> None:
        """Raise DataError unless what is still to come fits on the disk."""
        needed = sum(max(0, (archive.size or 0) - _size(self._part(archive))) for archive in archives)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{self.folder} has room for {readable_size(free)}, the archives need {readable_size(needed)} more"
            )

    def fetch(self, archive: Archive) -> None:
        """Transfer one archive, trying again after dropped connections, then verify and name it."""
        part = self._part(archive)
        begun_with, begun = _size(part), time.monotonic()
        best, failures = begun_with, 0
        whole = readable_size(archive.size) if archive.size is not None else "size unknown"
        LOG.info("fetching %s (%s)%s", archive.file, whole, f", {readable_size(best)} are here" if best else "")
        while True:
            try:
                self._transfer(archive, part)
                break
            except urllib.error.HTTPError as error:
                if error.code in REDIRECTS:
                    raise DataError(f"{public(archive.url)} redirects in a circle, or not to http(s)") from None
                if error.code < 500 and error.code not in (408, 429):
                    raise DataError(f"{public(archive.url)} answers {error.code} {_one_line(error.reason)}") from None
                reason = f"{error.code} {error.reason}"
            except (ValueError, http.client.InvalidURL):
                raise DataError(f"{public(archive.url)} is, or redirects to, no address that can be asked") from None
            except (http.client.HTTPException, OSError) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise DataError(
                        f"the disk of {self.folder} is full at {readable_size(_size(part))} of {archive.file}; "
                        "make room and run the same command to continue"
                    ) from None
                reason = str(error) or type(error).__name__
                if _nobody_there(error) and _size(part) <= begun_with:
                    raise DataError(f"{public(archive.url)} cannot be reached: {_one_line(reason)}") from None
            # A server that always starts from the beginning and always breaks off brings nothing new.
            failures = 0 if _size(part) > best else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                if not best:  # nothing to continue from
                    part.unlink(missing_ok=True)
                    self._validator(archive).unlink(missing_ok=True)
                raise DataError(f"{public(archive.url)}: {_one_line(reason)}; run the same command to continue")
            self._stop_here(min(60.0, BACKOFF * 2**failures))
        try:
            entry = self.check(archive, part)
        except DataError as error:
            part.unlink()  # complete and wrong: nothing to continue from
            self._validator(archive).unlink(missing_ok=True)
            raise DataError(str(error).replace("delete it and fetch it again", "it was deleted")) from None
        path = part.replace(self.folder / archive.file)
        self._record(archive.file, {**entry, **_as_it_is(path.stat())})  # a new name is a change, too
        self._validator(archive).unlink(missing_ok=True)
        size = readable_size(_size(path))
        LOG.info("fetched %s (%s in %.0f s, verified)", archive.file, size, time.monotonic() - begun)

    def _transfer(self, archive: Archive, part: Path) -> None:
        """Append to the part what it does not have; start over where the server cannot continue this very version."""
        have, validator = _size(part), self._validator(archive)
        mark = None
        with suppress(OSError, ValueError):  # none, or no mark that a server gave
            mark = validator.read_text(encoding="ascii")
        if archive.size is not None and have == archive.size:
            return
        if have and mark is None and archive.digest is None:
            have = 0  # two versions could be glued together and nobody would notice
        headers = {"User-Agent": "attnbias", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": mark} if mark else {})
        try:
            opener = urllib.request.build_opener(_WebRedirects)  # with the proxies of the environment
            answer = opener.open(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416 or not have:
                raise
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had arrived
            part.unlink()  # longer than the file: of another version
            raise ConnectionError("the file on the server has changed; starting over") from None
        with answer:
            try:
                start, total = _extent(answer, have)
            except ValueError:
                raise DataError(f"{public(archive.url)} answers with a Content-Length that is not a size") from None
            if archive.size is not None and total is not None and total != archive.size:
                raise DataError(f"{public(archive.url)} offers {total:,} bytes, expected {archive.size:,}")
            if archive.digest is None and answer.headers.get_content_type() == "text/html":
                raise DataError(f"{public(archive.url)} answers with a web page instead of {archive.file}")
            free = shutil.disk_usage(self.folder).free
            if total is not None and total - start > free:
                raise DataError(
                    f"{self.folder} has room for {readable_size(free)}, {archive.file} needs {readable_size(total)}"
                )
            if part.is_symlink():  # what it points to is nobody's part
                part.unlink()
            with part.open("r+b" if part.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                if start == 0:  # only now: the mark must never stand beside bytes of another version
                    validator.unlink(missing_ok=True)
                    if mark := _version(answer):
                        validator.write_text(mark)
                self._copy(answer, file, archive.file, total)
            if total is not None and _size(part) < total:
                raise ConnectionError(f"the connection broke at {_size(part):,} of {total:,} bytes")

    def _copy(self, answer: http.client.HTTPResponse, file: BinaryIO, name: str, total: int | None) -> None:
        try:
            while chunk := answer.read1(CHUNK):
                self._stop_here()
                file.write(chunk)
                self.progress(f"fetching {name}", file.tell(), total or file.tell())
        finally:
            file.flush()
            os.fsync(file.fileno())

    def _stop_here(self, seconds: float = 0.0) -> None:
        """Wait, and leave at once where another transfer has failed or the user asked to stop."""
        if self.stop.wait(seconds) if seconds else self.stop.is_set():
            raise DataError("stopped")

    def _part(self, archive: Archive) -> Path:
        return self.folder / f"{archive.file}.part"

    def _validator(self, archive: Archive) -> Path:
        return self.folder / f".{archive.file}.validator"


REDIRECTS = range(300, 400)


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to the web alone; the library's own handler would go to FTP servers too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _nobody_there(error: Exception) -> bool:
    """Whether there was no server to ask: a name that cannot be resolved, a refused connection, no way there. Asking
    again changes nothing, unless it was there a moment ago."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(cause, socket.gaierror | ConnectionRefusedError) or getattr(cause, "errno", None) in NO_WAY


def _one_line(words: object) -> str:
    """What a server or the system said, which may be anything, as the end of a message."""
    first = (str(words).splitlines() or [""])[0]
    return "".join(letter if letter.isprintable() else "?" for letter in first[:160])


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer's first byte belongs, and the size of the whole file; (0, ...) where the server starts over.

    Raises:
        ValueError: what the server says of the size is not a number.
    """
    if answer.status == 206:
        extent = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", ""))
        if extent is None or int(extent[1]) != have:
            raise http.client.HTTPException(f"asked for bytes from {have}, got {answer.headers.get('Content-Range')}")
        return have, None if extent[2] == "*" else int(extent[2])
    length = answer.headers.get("Content-Length")
    if length and not re.fullmatch("[0-9]{1,19}", length):
        raise ValueError(length)
    return 0, int(length) if length else None


def _version(answer: http.client.HTTPResponse) -> str:
    """A strong mark of the file's version that If-Range accepts, or an empty string."""
    tag: str = answer.headers.get("ETag", "")
    mark: str = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    return mark if mark.isascii() and mark.isprintable() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def readable_size(count: int) -> str:
    """A size for people: 13.5 GB."""
    size, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and unit != "GB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"
