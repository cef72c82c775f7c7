"""Questions of one's own about images: a table, a list as JSON, or VQA's official file beside a folder of images."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnbias.data.errors import DataError
from attnbias.data.reading import LARGEST_ANNOTATIONS, Unfit, read_json, read_text, shown

SUFFIXES = (".csv", ".tsv", ".json")

NAMES = {
    "image": ("image", "path", "file", "file_name", "filename"),
    "text": ("question", "text", "sentence", "statement", "hypothesis"),
    "second": ("second_image", "image2", "second_path"),
    "id": ("question_id", "id", "identifier"),
}
"""What each column or key may be called: the first name goes before the others."""

EXPECTED = "a column image and a column question, perhaps second_image and question_id"


class Question(NamedTuple):
    """A text about an image, or about two."""

    image: Path
    text: str
    second: Path | None = None
    identifier: str | None = None


def is_questions(path: Path) -> bool:
    """Whether a path is one of questions, not of images."""
    return path.suffix.lower() in SUFFIXES


def read_questions(file: Path, images: Sequence[Path] = ()) -> list[Question]:
    """The questions of a file, in its order. Paths of images are relative to its folder.

    A table has a header line; a JSON file is a list of objects, or VQA's official `{"questions": [...]}`, whose images
    are known by their numbers and looked for among `images` (COCO_val2014_000000000042.jpg is image 42).

    Raises:
        DataError: the file cannot be read, holds no question, or one of them has no image or no text, or names an
            image that is missing, or two.
    """
    official = False
    try:
        if file.suffix.lower() == ".json":
            content = read_json(file, LARGEST_ANNOTATIONS)
            official = isinstance(content, dict) and "questions" in content
            rows = content["questions"] if official else content
        else:
            rows = _table(read_text(file))
    except OSError as error:
        raise DataError(f"questions {file}: {error.strerror}") from None
    except Unfit as error:
        raise DataError(f"questions {file}: {error}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"questions {file}: no list of questions is in it; expected {EXPECTED}")
    numbered = _by_number(images) if official else None
    return [_question(file, position, row, numbered) for position, row in enumerate(rows, start=1)]


def _table(text: str) -> list[dict[str, str]]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [{name.strip().lower(): value or "" for name, value in row.items() if name} for row in reader]
    except csv.Error as error:
        raise Unfit(f"it is not a table ({error})") from None


def _question(file: Path, position: int, row: Mapping[str, Any], numbered: Mapping[int, list[Path]] | None) -> Question:
    """One row. `numbered` are the images that numbers stand for, None where rows name files."""
    found = {
        key: next((_text(file, position, name, row[name]) for name in names if row.get(name) not in (None, "")), None)
        for key, names in NAMES.items()
    }
    if found["text"] is None or found["text"].isspace():
        raise DataError(f"questions {file}: question {position} has no text; expected {EXPECTED}")
    if numbered is not None:
        number = row.get("image_id")
        files = numbered.get(number, []) if isinstance(number, int) and not isinstance(number, bool) else []
        if not files:
            raise DataError(
                f"questions {file}: image {shown(number)} of question {position} is not among the images; "
                "add the folder that holds it, before or after the file"
            )
        if len(files) > 1:
            raise DataError(
                f"questions {file}: image {number} of question {position} may be {files[0]} or {files[1]}; "
                "name one folder of images"
            )
        return Question(files[0], found["text"], identifier=found["id"])
    if found["image"] is None:
        raise DataError(f"questions {file}: question {position} has no image; expected {EXPECTED}")
    second = None if found["second"] is None else file.parent / found["second"]
    return Question(file.parent / found["image"], found["text"], second, found["id"])


def _text(file: Path, position: int, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"questions {file}: {name} of question {position} is {shown(value)}; expected a text")
    return str(value)


def _by_number(images: Sequence[Path]) -> dict[int, list[Path]]:
    """Images by the number that their names end in."""
    found: dict[int, list[Path]] = {}
    for image in images:
        if match := re.search(r"(\d+)$", image.stem):
            found.setdefault(int(match[1]), []).append(image)
    return found
