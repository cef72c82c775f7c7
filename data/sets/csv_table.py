"""Images of one's own listed in a table, such as a CSV file: a path and its labels in each row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple

from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record
from attnbias.data.index_check import LARGEST_SIDE
from attnbias.data.info import DatasetInfo
from attnbias.data.names import TABLES
from attnbias.data.reading import decimal_number
from attnbias.data.sets.contract import PrepareOptions, Reading
from attnbias.data.sets.mask_folders import find_masks, numbered
from attnbias.data.tally import Tally

SEPARATOR = ";"
"""Between the labels of one value."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

COLUMNS = {
    "path": ("path", "filename", "file_name", "file", "filepath", "file_path", "image", "image_path", "image_file"),
    "label": ("label", "class", "class_name", "category"),
    "labels": ("labels", "classes", "categories", "tags"),
    "split": ("split", "subset", "partition"),
    "group": ("group",),
    "mask": ("mask", "mask_path", "mask_file"),
    "box": ("box", "bbox"),
}
"""What each column may be called, in any case: the first name goes before the others."""

SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
"""Four columns that hold a box, in place of one column of x,y,w,h: by its sides, or by two corners."""


_Sides = tuple[float, float, float, float]
"""x, y, w, h of a box."""


class Table(NamedTuple):
    """The rows of a table, and how it was read."""

    rows: list[tuple[int, list[str]]]
    """Line number and values of each row that is not empty."""
    position: dict[str, int]
    """Column of `COLUMNS` -> its position in a row."""
    remarks: Tally
    """How the table was read, where it is not the plain kind."""
    box: tuple[int, ...]
    """Positions of the column of boxes, or of the four; none where there are none."""
    corners: bool
    """Whether the four are those of two corners."""
    metadata: dict[str, int]
    """The other columns that have a name -> their positions: what more is known of each image."""


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read SOURCE itself where it is a table, else the one table in it: with the columns `path` and `label` or
    `labels`, and perhaps `split`, `group`, `mask` and `box`.

    `label` holds one class (single-label); `labels` any number of them, separated by ";" (multi-label, may be empty).
    Classes are sorted by name, over all splits. Without `split`, all rows are the split "train". Paths are relative to
    the table's folder. `COLUMNS` has other names of the columns, `DELIMITERS` what may stand between values.

    `box` is x,y,w,h in pixels, several separated by ";"; four columns may stand for it (`SIDES`, `CORNERS`). It is the
    box of every label of its row. Masks are those that the column `mask` names; without it, those in masks/.
    """
    tables = [source] if source.is_file() else tables_in(source)
    if len(tables) != 1:
        raise DataError(f"{source} holds {len(tables)} tables; expected one .csv file, or its own path")
    options.progress(f"reading {tables[0].name}", 0, 1)
    content, left_out = read_table(tables[0]), Tally()
    indexes = _indexes(tables[0], content, info.name)
    ids = numbered(indexes)
    masks = _masks(content, ids) if "mask" in content.position else find_masks(ids, left_out)
    return Reading(ids if masks else indexes, remarks=content.remarks, left_out=left_out, masks=masks)


def _masks(content: Table, indexes: Sequence[Index]) -> dict[int, Path]:
    """Masks by image id, as a column names them."""
    named: dict[str, list[str]] = {}
    for split, values in zip(_splits(content), (values for _, values in content.rows), strict=True):
        named.setdefault(split, []).append(values[content.position["mask"]].strip())
    return {
        record.image_id: index.root / mask
        for index in indexes
        for record, mask in zip(index.records, named[index.split], strict=True)
        if mask and record.image_id is not None
    }


def _splits(content: Table) -> list[str]:
    """The split of each row; "train" where no row names one."""
    column = content.position.get("split")
    named = [values[column].strip() if column is not None else "" for _, values in content.rows]
    return named if any(named) else ["train"] * len(named)


def names_images(table: Path) -> bool:
    """Whether a table has columns of paths and labels."""
    try:
        _header(table, _text(table))
    except DataError:
        return False
    return True


def tables_in(folder: Path) -> list[Path]:
    """The tables that stand in a folder; hidden ones are nobody's."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES and not path.name.startswith("."))


def read_table(table: Path) -> Table:
    """Read the values of a table, and find which column is what.

    Raises:
        DataError: it is not a table in UTF-8, does not have a column, or has two for one thing.
    """
    text = _text(table)
    remarks = Tally()
    header, delimiter = _header(table, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = []
    try:
        for values in reader:
            if any(value.strip() for value in values):
                if len(values) != len(header):
                    wanted = f"expected {len(header)} values, found {len(values)}"
                    raise DataError(f"{table}:{reader.line_num}: {wanted}")
                rows.append((reader.line_num, values))
            elif values:
                remarks.add("row without any value, left out", f"line {reader.line_num}")
    except csv.Error as error:
        raise DataError(f"{table}:{reader.line_num}: {error}; is a quote missing?") from None
    position = _positions(table, header)
    box, corners = _box_columns(table, header, position)
    if delimiter != ",":
        remarks.add(f"table whose values are separated by {DELIMITERS[delimiter]}", table.name)
    for column, number in position.items():
        if header[number].casefold() != column:
            remarks.add(f"column read as '{column}'", header[number])
    used = {*position.values(), *box}
    others = [(name, number) for number, name in enumerate(header) if name and number not in used]
    metadata = dict(others)
    if len(metadata) < len(others):
        names = [name for name, _ in others]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"table {table} has several columns '{twice}'; keep one of them")
    for name in metadata:
        remarks.add("column kept as metadata of the images", name)
    return Table(rows[1:], position, remarks, box, corners, metadata)


def _text(table: Path) -> str:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"table {table}: {error.strerror}") from None
    if b"\0" in content:
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not text"
        raise DataError(f"table {table} is {kind}, expected UTF-8; save it as 'CSV UTF-8'")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{table}:{line}: no UTF-8 ({error.reason}); save the table as 'CSV UTF-8'") from None


def _header(table: Path, text: str) -> tuple[list[str], str]:
    """The columns, and what stands between them: the delimiter by which a header names both a path and a label."""
    first: list[str] = []
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            header = next((values for values in reader if any(value.strip() for value in values)), [])
        except csv.Error as error:
            raise DataError(f"{table}:{reader.line_num}: {error}; is a quote missing?") from None
        header = [name.strip() for name in header]
        first = first or header
        names = {name.casefold() for name in header}
        if names.intersection(COLUMNS["path"]) and names.intersection((*COLUMNS["label"], *COLUMNS["labels"])):
            return header, delimiter
    raise DataError(f"table {table} has the columns {first[:20]}; expected path and label (or labels)")


def _positions(table: Path, header: Sequence[str]) -> dict[str, int]:
    """Which column of the header is what."""
    names = [name.casefold() for name in header]
    position: dict[str, int] = {}
    for column, known in COLUMNS.items():
        found = [number for number, name in enumerate(names) if name in known]
        exact = [number for number in found if names[number] == column]
        if len(exact or found) > 1:
            twice = ", ".join(header[number] for number in exact or found)
            raise DataError(f"table {table} has several columns for '{column}': {twice}; keep one of them")
        if found:
            position[column] = (exact or found)[0]
    if "label" in position and "labels" in position:
        both = f"{header[position['label']]} (one class) and {header[position['labels']]} (any number)"
        raise DataError(f"table {table} has the columns {both}; expected path and label (or labels): keep one of them")
    return position


def _box_columns(table: Path, header: Sequence[str], position: dict[str, int]) -> tuple[tuple[int, ...], bool]:
    """Positions of the columns that hold boxes, and whether they are those of two corners."""
    names = [name.casefold() for name in header]
    found: list[tuple[tuple[int, ...], bool]] = [((position["box"],), False)] if "box" in position else []
    for forms in (SIDES, CORNERS):  # the first form of each kind: beside w and h, width and height are the image's
        four = next((form for form in forms if set(form) <= set(names)), None)
        if four is not None:
            found.append((tuple(map(names.index, four)), forms is CORNERS))
    if len(found) > 1:
        several = " and ".join(",".join(header[number] for number in columns) for columns, _ in found)
        raise DataError(f"table {table} has boxes in the columns {several}; keep one of them")
    return found[0] if found else ((), False)


def _boxes(table: Path, content: Table, line: int, values: Sequence[str]) -> list[_Sides]:
    """The boxes (x, y, w, h) of a row.

    Raises:
        DataError: one is not a box.
    """
    texts = [values[number] for number in content.box]
    if not any(texts):
        return []
    items = [texts]
    if len(texts) == 1:
        items = [text.replace(",", " ").split() for text in texts[0].split(SEPARATOR) if text.strip()]
    boxes = []
    for item in items:
        try:
            a, b, c, d = map(decimal_number, item)
        except ValueError:
            a = b = c = d = float("nan")
        x, y, w, h = (a, b, c - a, d - b) if content.corners else (a, b, c, d)
        if not (all(map(isfinite, (x, y, w, h))) and max(map(abs, (x, y, w, h))) <= LARGEST_SIDE and min(w, h) > 0):
            form = "x1,y1,x2,y2 with x1 < x2 and y1 < y2" if content.corners else "x,y,w,h with w and h above 0"
            raise DataError(f"{table}:{line}: the box is '{','.join(item)[:80]}'; expected {form}, in pixels")
        boxes.append((x, y, w, h))
    return boxes


def _check_pixels(table: Path, boxes: Iterator[_Sides]) -> None:
    """Refuse boxes that are shares of the image's sides: all of them lie within 0 and 1."""
    largest = max((max(x + w, y + h) for x, y, w, h in boxes), default=2.0)
    if largest <= 1:
        raise DataError(
            f"table {table}: no box reaches beyond {largest:g} pixels; expected pixels, not shares of sides"
        )


class _Row(NamedTuple):
    """One row of a table, as text but for its boxes."""

    split: str
    path: str
    labels: list[str]
    group: str | None
    boxes: list[_Sides]
    metadata: tuple[str, ...]


def _row(table: Path, content: Table, image: _Images, split: str, line: int, values: list[str]) -> _Row:
    """Read a row; what a person should know of it goes to the remarks."""
    position, several = content.position, "labels" in content.position
    path, text = values[position["path"]], values[position["labels" if several else "label"]]
    labels = [label.strip() for label in text.split(SEPARATOR)] if several else [text]
    labels = [label for label in labels if label]
    for what, value in (("path", path), ("label", several or labels), ("split", split)):
        if not value:
            raise DataError(f"{table}:{line}: {path or 'a row'} has no {what}")
    group = values[position["group"]] if "group" in position else None
    own = _boxes(table, content, line, values)
    if content.box and not own:
        content.remarks.add("image without a box", path)
    if own and not labels:
        content.remarks.add("box of an image without a label, left out", path)
    metadata = tuple(values[number] for number in content.metadata.values())
    row = _Row(split, image.relative(path), labels, group or None, own, metadata)
    if several and any("," in label or "|" in label for label in labels):
        content.remarks.add("label with ',' or '|' in it (labels are separated by ';')", text)
    return row


def _indexes(table: Path, content: Table, dataset: str) -> list[Index]:
    """One index a split, in the order in which the splits first occur."""
    several = "labels" in content.position
    if not content.rows:
        raise DataError(f"table {table} has no rows")
    image = _Images(table.parent)
    read = [
        _row(table, content, image, split, line, [value.strip() for value in values])
        for split, (line, values) in zip(_splits(content), content.rows, strict=True)
    ]
    _check_pixels(table, (box for row in read for box in row.boxes))
    classes = tuple(sorted({label for row in read for label in row.labels}))
    if not classes:
        raise DataError(f"table {table}: no row has a label")
    number = {name: label for label, name in enumerate(classes)}
    records: dict[str, list[Record]] = {}
    for row in read:
        positive = {number[label] for label in row.labels}
        target = tuple(int(label in positive) for label in range(len(classes)))
        boxes = tuple(Box(label, *box) for box in row.boxes for label in sorted(positive))
        label = target if several else number[row.labels[0]]
        record = Record(row.path, label, boxes=boxes, group=row.group, metadata=row.metadata)
        records.setdefault(row.split, []).append(record)
    task: Literal["multilabel", "singlelabel"] = "multilabel" if several else "singlelabel"
    origin: Literal["measured"] | None = "measured" if content.box else None
    return [
        Index(
            dataset,
            split,
            task,
            classes,
            image.root,
            tuple(found),
            truth_origin=origin,
            metadata=tuple(content.metadata),
        )
        for split, found in records.items()
    ]


class _Images:
    """Paths of a table's images as records name them: relative to the table's real folder."""

    def __init__(self, folder: Path) -> None:
        self.root = Path(os.path.realpath(folder))
        self._below: dict[str, str] = {}

    def relative(self, path: str) -> str:
        """An absolute path, or one through "..", as it is seen from the real folder: links on the way are followed."""
        if not Path(path).is_absolute() and ".." not in Path(path).parts:
            return os.path.normpath(path)
        parent, name = os.path.split(path)
        if parent not in self._below:
            self._below[parent] = os.path.relpath(os.path.realpath(self.root / parent), self.root)
        return os.path.normpath(f"{self._below[parent]}/{name}")
