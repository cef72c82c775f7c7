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
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from attnbias.data.errors import DataError
from attnbias.data.fetch.download import LONGEST_NAME, MANIFEST, check_in_place, fetch, plain_name, public
from attnbias.data.info import Archive
from attnbias.data.names import real_path
from attnbias.data.progress import ProgressCallback, silent
from attnbias.methods import METHODS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.recipe import OWN
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.stored import stored_dataset
from attnbias.weights.cache import cache_folder, offline
from attnbias.weights.errors import OtherEntryError, WeightsError
from attnbias.weights.manifest import PUBLISHED, Published

HUB, WEB = "hf://", ("http://", "https://")
LIBRARIES = ("timm", "torchvision")
"""What may stand before a network's name, as timm:NAME."""
FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""A function of one's own, as my_package.models:build."""
TRANSFORMERS = "transformers"
"""What stands before an image classifier of Hugging Face's transformers."""
BOOKKEEPING = (".turn", ".lock", MANIFEST)
"""What a folder of the cache holds beside weights."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
"""A URL, or what is meant as one, to the end of a text: alone, or behind the option that it is given to."""
RACES = 100
"""Times that a folder may be taken away by other processes before the system is believed that there can be none."""
NOBODYS = "the one that it was made with is not published"
LOG = logging.getLogger(__name__)

_unread: set[Path] = set()
"""What this process fetched without a published checksum: its first reader shows whether it is a weight file."""

_verified: dict[tuple[Path, int, int], str] = {}
"""Path, size and time of what this process has verified -> against what, in words: a command asks for one file several
times."""
BLOB = re.compile("[0-9a-f]{64}")
"""How the hub's cache calls a large file: by its SHA-256."""


def locate(source: str) -> Path:
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
        return fetch_published(PUBLISHED[source])
    if source.startswith(HUB):
        return _from_hub(source)
    if source.lower().startswith(WEB):
        return _fetched(_Known.of_url(source, _file_name(source)))
    if names_network(source):
        raise WeightsError(
            f"no checkpoint {shown(source)}: it names a network, not a file; training starts from one with "
            "--backbone NAME --pretrained"
        )
    meant = method_before(source)
    if not meant and (names_function(source) or names_transformers(source)):
        raise WeightsError(
            f"no checkpoint {shown(source)}: it names a model, not a file; val, visualize and predict of plain take it"
        )
    raise WeightsError(
        f"no checkpoint {shown(source)}{meant or did_you_mean(source, PUBLISHED)}; give a run folder, a .safetensors "
        "or a published .pth file, a URL, or a name of: attnbias list weights"
    )


def check_source(source: str) -> None:
    """Refuse what names no weights, without fetching any.

    Raises:
        WeightsError: as `locate`.
    """
    if source not in PUBLISHED and not ADDRESS.fullmatch(source):
        locate(source)


def on_disk(source: str) -> Path | None:
    """The path that a person named, where there is one; a URL's name may be one that no disk can hold."""
    try:
        return Path(source) if Path(source).exists() else None
    except OSError:
        return None


def dataset_of(source: str, method: Description | None, recipe: str | None) -> str | None:
    """The dataset that weights are of, as far as their name, what they say of themselves and a named recipe of the
    method tell; None where only reading them does."""
    path = on_disk(source)
    if path is not None and (stored := stored_dataset(path)) is not None:
        return stored
    published = PUBLISHED.get(source) if path is None else None
    if published is not None and published.recipe:
        method, recipe = method or get_description(published.methods[0]), recipe or published.recipe
    named = None if method is None or recipe is None else method.recipes.get(recipe)
    return None if named is None else named.recipe.dataset


def names_network(source: str) -> bool:
    """Whether this is meant as `timm:NAME` or `torchvision:NAME`, and is not a file of such a name."""
    library, colon, _ = source.partition(":")
    return library in LIBRARIES and colon != "" and on_disk(source) is None


def names_transformers(source: str) -> bool:
    """Whether this is meant as `transformers:NAME`, and is not a file of such a name."""
    return source.startswith(f"{TRANSFORMERS}:") and on_disk(source) is None


def names_function(source: str) -> bool:
    """Whether this is meant as `module:function`, and is neither a file of such a name nor a network of a library."""
    library = source.partition(":")[0] in (*LIBRARIES, TRANSFORMERS)
    return FUNCTION.fullmatch(source) is not None and not library and on_disk(source) is None


def method_before(source: str) -> str:
    """What is said of a name that is none, where a method stands before it as a library would: `ida:runs/x`."""
    method, colon, name = source.partition(":")
    if not (colon and name) or method not in METHODS:
        return ""
    return f" ({method} is a method, which stands by itself: attnbias val {method} --load-from {shown(name)})"


def published_weights(name: str) -> Published:
    """Published weights by name.

    Raises:
        UsageError: there are none; the nearest name is offered.
    """
    if name not in PUBLISHED:
        raise UsageError(f"no published weights '{name}'{did_you_mean(name, PUBLISHED)}; see: attnbias list weights")
    return PUBLISHED[name]


def recipes_weights(source: str) -> Path:
    """The file or folder that a recipe starts its backbone from, as `locate`.

    Raises:
        WeightsError: it cannot be had; how to start at random is said too. UsageError, DataError: as `locate`.
    """
    if source == OWN:
        raise WeightsError(
            f"the recipe starts from a backbone of yours: {NOBODYS}; give it with --backbone-weights FILE, or start at "
            "random with --from-scratch"
        )
    try:
        return locate(source)
    except (WeightsError, DataError) as error:
        raise type(error)(f"the recipe's starting weights: {error}; --from-scratch starts at random") from None


def also_missing(source: str | None) -> str:
    """What is said of a recipe's starting weights where a run is refused for want of its data; nothing where they are
    here."""
    if source is None or on_disk(source) is not None or (source in PUBLISHED and in_cache(PUBLISHED[source])):
        return ""
    return f". It also starts from {state_of(source)}; --from-scratch starts at random"


def fetch_published(published: Published, progress: ProgressCallback = silent) -> Path:
    """Bring a published file to the cache; one that is there is not fetched, but verified whenever it is used."""
    known = _Known.of(published)
    if published.url.startswith(HUB) and not known.target.is_file():
        return _from_hub(published.url, known)
    if published.browser and not known.target.is_file() and not offline():
        return _from_drive(published, known)
    return _fetched(known, progress)


def state_of(source: str) -> str:
    """What a person named as weights, as it may be printed; of a published name also its size, and whether it is here
    or where it comes from."""
    if source == OWN:
        return f"a backbone of yours, by --backbone-weights FILE ({NOBODYS})"
    if on_disk(source) is not None or source not in PUBLISHED:
        return shown(source)
    published = PUBLISHED[source]
    known = _Known.of(published)
    if (here := in_cache(published)) is not None:
        return f"{source} ({known.size}, in {here})"
    if published.browser or offline():
        return f"{source} ({known.size}, not here: download {published.url} and put it at {known.target})"
    return f"{source} ({known.size}, to be fetched from {published.url} to {known.target})"


def in_cache(published: Published) -> Path | None:
    """Where a published file lies on this disk: in our cache, or in the hub's; None where it is not here."""
    target = _Known.of(published).target
    if target.is_file():
        return target
    return _in_hubs_cache(published.url) if published.url.startswith(HUB) else None


def verification(path: Path) -> str:
    """Against what this process verified a file, in words; nothing where there is nothing to verify it against."""
    return _verified.get(_version(real_path(path)), _verified.get(_version(path), ""))


def published_recipe(source: str, method: str) -> str | None:
    """The named recipe of a published name; None for anything else.

    Raises:
        UsageError: the name is of another method, or of a backbone. WeightsError: nobody can load what it names.
    """
    published = None if on_disk(source) else PUBLISHED.get(source)
    if published is None:
        return None
    if not published.recipe:
        raise UsageError(f"{source} is a backbone, no whole model; use: attnbias train {method} {published.option}")
    if method not in published.methods:
        raise UsageError(f"{source} is a checkpoint of '{published.methods[0]}', not of '{method}'")
    if published.refused:
        raise WeightsError(f"{source} does not load: {published.refused}; see: attnbias list weights {method}")
    return published.recipe


def shown(source: str) -> str:
    """What a person named, or typed, as it may be printed and kept: a URL without what can be a secret."""
    return ADDRESS.sub(lambda found: _public(found[0]), source)


def short_name(source: str) -> str:
    """What weights are called beside others: their file's name without its ending, else the last word of their name."""
    path = on_disk(source)
    return path.stem if path and path.is_file() else real_path(Path(shown(source))).name


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


@dataclass(frozen=True)
class _Known:
    """A file of the cache: what is known of it, and where it belongs."""

    archive: Archive
    folder: Path
    megabytes: float | None = None

    @classmethod
    def of(cls, published: Published) -> _Known:
        """The file of a published name."""
        file = Archive(published.url, published.file, algorithm=published.algorithm, digest=published.digest)
        return cls(file, cache_folder() / published.name, published.megabytes)

    @classmethod
    def of_url(cls, url: str, name: str) -> _Known:
        """A file of the web or of the hub that has no published name, in a folder of its own."""
        digest = hashlib.sha256(url.encode(errors="replace")).hexdigest()
        return cls(Archive(url, name), cache_folder() / f"url-{digest[:12]}")

    @property
    def target(self) -> Path:
        """Its place."""
        return self.folder / self.archive.file

    @property
    def size(self) -> str:
        """For people."""
        return f"{self.megabytes:.0f} MB" if self.megabytes else "size unknown"

    @property
    def by_hand(self) -> str:
        """What a person can do where it cannot be fetched."""
        return f"put {self.archive.file} ({self.size}) at {self.target}"


def _fetched(known: _Known, progress: ProgressCallback = silent) -> Path:
    archive, folder, target = known.archive, known.folder, known.target
    if not target.is_file() and offline():
        raise WeightsError(
            f"offline, and {target} is not there; put {shown(archive.url)} there ({known.size}), or run without "
            "--offline"
        )
    if target.is_file() and _version(target) in _verified:
        return target
    if target.is_file() and not os.access(folder, os.W_OK):  # a cache that is shared read-only
        check_in_place(archive, folder, progress)
    else:
        with _in_turn(folder):
            here = target.is_file()
            if not here:
                LOG.warning("fetching %s into %s", shown(archive.url), folder)
                if archive.digest is None:
                    _unread.add(target)
            try:
                fetch([archive], folder, again=True, progress=progress)
            except DataError as error:
                if here:  # and wrong
                    raise
                raise DataError(f"{error}; or {known.by_hand} (with --offline no server is asked)") from None
    _verified[_version(target)] = f"{archive.algorithm} ok" if archive.digest else "sha256 as at its first use"
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


def _from_drive(published: Published, known: _Known) -> Path:
    """A file of Google Drive, by the library that gets past its form, where that is installed."""
    by_hand = f"download {published.url} and {known.by_hand}"
    try:
        import gdown
    except ImportError:
        raise WeightsError(
            f"{published.name} is behind a form that only a browser gets past: {by_hand}; "
            "or pip install 'attnbias[drive]', which fetches it"
        ) from None
    with _in_turn(known.folder):
        if not known.target.is_file():
            LOG.warning("fetching %s into %s", published.url, known.folder)
            part = known.folder / f"{published.file}.part"
            identity = published.url.split("/d/")[1].split("/")[0]
            try:
                gdown.download(id=identity, output=str(part), quiet=True, resume=True)
            except Exception as error:  # its HTTP client raises errors of several families
                raise WeightsError(f"{published.name} cannot be had: {_first_line(error)}; {by_hand}") from None
            if (wrong := _wrong_with(part, known.archive)) is not None:
                part.unlink(missing_ok=True)  # complete and wrong: nothing to continue from
                raise WeightsError(f"{published.name} cannot be had: {wrong}; {by_hand}")
            _unread.add(known.target)
            part.replace(known.target)
    return _fetched(known)


def _wrong_with(part: Path, archive: Archive) -> str | None:
    """Why what the drive gave is not the file, in words; None where it is."""
    from attnbias.weights.files import is_web_page

    if not part.is_file():
        return "the drive did not give it"
    if is_web_page(part):
        return "the drive gave a web page in its place, as it does where a file was asked for too often"
    try:
        check_in_place(replace(archive, file=part.name), part.parent)
    except DataError as error:
        return str(error).replace("delete it and fetch it again", "it was deleted")
    return None


def _from_hub(source: str, known: _Known | None = None) -> Path:
    """A file of a model repository, by way of its own cache, which timm uses too; or one that a person put into ours.

    One request tells whether the hub can be reached: its client would try for half a minute.
    """
    repository, file = _hub_parts(source)
    known = known or _Known.of_url(source, file.rpartition("/")[2])
    if known.target.is_file():
        return _fetched(known)
    path = _in_hubs_cache(source)
    if not offline():
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        try:
            get_hf_file_metadata(hf_hub_url(repository, file))
            path = Path(hf_hub_download(repository, file))
        except Exception as error:  # its HTTP client raises errors of several families
            if path is None:
                raise WeightsError(
                    f"{shown(source)} cannot be had: {_first_line(error)}; {known.by_hand} (with --offline no "
                    "server is asked)"
                ) from None
            LOG.warning("%s is taken from the hub's cache: %s", shown(source), _first_line(error))
    if path is None:
        raise WeightsError(
            f"{shown(source)} cannot be had: offline, and it is not in the hub's cache; {known.by_hand}, or run "
            "without --offline"
        )
    blob = real_path(path)
    if BLOB.fullmatch(blob.name) and _version(blob) not in _verified:
        check_in_place(Archive(source, blob.name, algorithm="sha256", digest=blob.name), blob.parent)
        _verified[_version(blob)] = "sha256 ok"
    return path


def _in_hubs_cache(source: str) -> Path | None:
    """Where the hub's own cache holds a file."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(*_hub_parts(source))
    return Path(found) if isinstance(found, str) else None


def _hub_parts(source: str) -> tuple[str, str]:
    """Repository and file of hf://ORGANISATION/REPOSITORY/FILE; without a file, the one that `weights push` writes.

    Raises:
        UsageError: it is not one.
    """
    parts = source.removeprefix(HUB).split("/", 2)
    return hub_repository(HUB + "/".join(parts[:2])), _plain(source, "/".join(parts[2:]) or "model.safetensors")


def hub_repository(source: str) -> str:
    """ORGANISATION/REPOSITORY of hf://ORGANISATION/REPOSITORY.

    Raises:
        UsageError: it is not one.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    name = source.removeprefix(HUB)
    if not source.startswith(HUB) or name.count("/") != 1:
        raise UsageError(f"{shown(source)!r}: expected {HUB}ORGANISATION/REPOSITORY, or a FILE in it")
    try:
        hf_hub_url(_plain(source, name), "model.safetensors")  # the library knows which letters may stand there
    except HFValidationError:
        raise UsageError(
            f"{shown(source)!r}: expected {HUB}ORGANISATION/REPOSITORY, both of letters, digits, '-', '_' and '.'"
        ) from None
    return name


def _plain(source: str, path: str) -> str:
    """A path within the hub, which leads nowhere else.

    Raises:
        UsageError: it would.
    """
    if not path.isprintable() or {"", ".", ".."} & set(path.split("/")):
        raise UsageError(f"{shown(source)!r}: expected {HUB}ORGANISATION/REPOSITORY/FILE")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
