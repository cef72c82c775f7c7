"""Files that are read back, by one rule: whatever is in them, the answer is their content or one line about them.

with reading(path, "run prepare-data again"):
    prepared = Prepared.model_validate(read_json(path))
"""

from __future__ import annotations

import json
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, InstanceOf, Strict, ValidationError

from attnbias.data.errors import DataError

T = TypeVar("T")

LARGEST = 64 << 20
"""Bytes of the largest file that is read whole, where its reader does not say another number."""

LARGEST_ANNOTATIONS = 4 << 30
"""Bytes of the largest annotation file that is read; COCO's have a tenth of it."""

_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""Escapes that may stand for a NUL or half a character; most files have none, and are not looked at further."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""The escape of a NUL, and no backslash before letters and digits."""

_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80
_repr.maxlevel = 2


BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
"""What zipfile raises of a damaged archive, beside OSError; RuntimeError: a password, or a version or method that it
does not know (NotImplementedError)."""


class Unfit(ValueError):
    """The content of a file is not what it should be. The message says what; `reading` adds where and what mends it."""


@contextmanager
def reading(path: Path, mend: str, error: type[Exception] = DataError) -> Iterator[None]:
    """Turn what a damaged file raises inside into one line: the file, what is wrong, what mends it.

    FileNotFoundError and NotADirectoryError pass: whether a file may be missing is for the caller to say.

    Raises:
        error: the file is damaged, or cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror or reason}); {mend}") from None
    except (ValueError, OverflowError) as reason:  # the second of a number that is too large for what it is
        raise error(f"{path} is damaged ({in_words(reason)}); {mend}") from None


def in_words(error: ValueError | OverflowError) -> str:
    """What is wrong with a value, on one line; of a model's errors the first."""
    if isinstance(error, Unfit):
        return str(error)
    if not isinstance(error, ValidationError):  # a library's, which may quote the whole file
        return shown(str(error))[1:-1]
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) if isinstance(part, int) else shown(part)[1:-1] for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"'{where}': {message}" if first["type"] == "missing" else f"'{where}' is {shown(first['input'])}: {message}"


def shown(value: object) -> str:
    """A value out of a file, however long it is and whatever it holds, as a short printable text."""
    return _repr.repr(value).encode("ascii", "backslashreplace").decode()


def is_whole_number(text: str) -> bool:
    """Whether a text is a number from 0 on, in digits alone: int() takes 1_0, +1 and the digits of other scripts."""
    return _WHOLE.fullmatch(text) is not None


def whole_number(text: str) -> int:
    """The number from 0 on that a text is.

    Raises:
        Unfit: it is none, as `is_whole_number` says.
    """
    if not is_whole_number(text):
        raise Unfit(f"{shown(text)} is not a number in digits alone")
    return int(text)


def decimal_number(text: str) -> float:
    """The number that a text is, such as -1.5e3: float() takes 1_0 and the digits of other scripts, too.

    Raises:
        Unfit: it is none.
    """
    if not _DECIMAL.fullmatch(text):
        raise Unfit(f"{shown(text)} is not a number")
    return float(text)


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Read a file whole.

    Raises:
        OSError: it is missing or not readable. Unfit: it is not a regular file, or too large.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for, a device never ends
        raise Unfit("it is a folder" if path.is_dir() else "it is not a regular file")
    if state.st_size > largest:  # not found by reading so much: Python would claim that memory first
        limit = f"{largest >> 20} MB" if largest >> 20 else f"{largest >> 10} KB"
        raise Unfit(f"it is larger than {limit}")
    return path.read_bytes()


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a UTF-8 file (a byte-order mark is left out).

    Raises:
        OSError: it is missing or not readable. Unfit: it is not a regular file, too large, or not UTF-8.
    """
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unfit(f"it is not UTF-8 text: byte {error.start}") from None


def read_list(path: Path, what: str) -> str:
    """The text of a list that came with a dataset, a line for each entry; `what` it is, in words.

    Raises:
        DataError: it is missing, or no text.
    """
    try:
        text = read_text(path)
        if "\0" in text:
            raise Unfit("it holds a NUL")
    except OSError as error:
        raise DataError(f"{what} {path}: {error.strerror or error}") from None
    except Unfit as error:
        raise DataError(f"{what} {path}: {error}; expected a text in UTF-8, a line for each entry") from None
    return text


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a list without the blank ones and the space around them; errors are those of `read_list`."""
    return [line.strip() for line in read_list(path, what).splitlines() if line.strip()]


Json = dict[str, Any]
"""A JSON object, or what becomes one."""


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """Read a JSON file; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path, largest))


def parse_json(text: str) -> Any:
    """Parse JSON; NaN and infinities pass, and are for the model of the content to refuse.

    Raises:
        Unfit: it is not a JSON, nested too deep, names a key twice, or holds a text that is none (a NUL, half a
            character). Bytes of a file name that are no UTF-8 are kept as Python keeps them (surrogateescape).
    """
    if not text or text.isspace():
        raise Unfit("it is empty")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        if _SUSPICIOUS.search(text) and not _holds_texts(json.dumps(content, ensure_ascii=False)):
            raise Unfit("a text holds a NUL or half a character")
    except RecursionError:
        raise Unfit("it is nested too deep") from None
    except json.JSONDecodeError as error:
        raise Unfit(f"no valid JSON in line {error.lineno}: {error.msg}") from None
    except Unfit:
        raise
    except ValueError:  # Python's own limit: more digits than a number can have
        raise Unfit("a number has too many digits") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise Unfit(f"key {shown(next(name for name in names if names.count(name) > 1))} stands there twice")
    return content


def is_text(value: str) -> bool:
    """Whether a text can be that of a file name: no NUL, and no half of a character."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _holds_texts(written: str) -> bool:
    """Whether every text of a JSON file is one, told from the file as it is written again."""
    return is_text(written) and not _NUL.search(written)


WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    bool: "true or false",
}
"""What values of JSON are called."""


def check_entries(entries: object, of: str, **kinds: tuple[type, ...]) -> list[Json]:
    """The entries of a list of a foreign file, each an object whose values are of the types that `kinds` tells for its
    keys; true is not a number, and a key whose types hold None's may be missing.

    Raises:
        Unfit: it is not a list, or an entry is not of that form. `of` is what it is the list of, in words.
    """
    if not isinstance(entries, list):
        raise Unfit(f"it has no list '{of}'")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise Unfit(f"entry {position} of '{of}' is {shown(entry)}; expected an object")
        for key, types in kinds.items():
            if type(entry.get(key)) not in types:
                if key not in entry:
                    raise Unfit(f"entry {position} of '{of}' has no '{key}'")
                expected = " or ".join(word for kind, word in WORDS.items() if kind in types)
                raise Unfit(f"'{key}' of entry {position} of '{of}' is {shown(entry[key])}; expected {expected}")
    return entries


NOTHING = type(None)
"""Of `check_entries`: the key may be missing."""

# Models ---------------------------------------------------------------------------------------------------------------


class StoredModel(BaseModel):
    """Base of what is read back from JSON: strict types, finite numbers, no unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


Items = Annotated[tuple[T, ...], Strict(False)]
"""A tuple, which JSON writes as a list."""


def _nonempty(value: str) -> str:
    if not value:
        raise ValueError("expected a name")
    return value


FileName = Annotated[InstanceOf[str], AfterValidator(_nonempty)]
"""A file's name or path; unlike pydantic's str it may hold bytes that are no UTF-8, as Python keeps them."""
