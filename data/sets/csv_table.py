"""Pictures of one's own listed in a CSV file: a path and its labels in each row."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Literal

from attnbias.data.errors import DataError
from attnbias.data.facts import DatasetFacts
from attnbias.data.index import Index, Record
from attnbias.data.prepare import Options, Reading

SEPARATOR = ";"


def read_csv(table: Path, *, dataset: str = "csv") -> list[Index]:
    """Read a table with the columns `path` and `label` or `labels`, and perhaps `split` and `group`.

    `label` holds one class (single-label); `labels` any number of them, separated by ";" (multi-label, may be empty).
    Classes are sorted by name, over all splits. Without `split`, all rows are the split "train". Paths are relative to
    the table's folder.

    Raises:
        DataError: a column lacks, or a row is incomplete; the message names the line.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(f"table {table}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {table} is no CSV file in UTF-8 ({error})") from None
    kinds = columns & {"label", "labels"}
    if "path" not in columns or len(kinds) != 1:
        raise DataError(f"table {table} has the columns {sorted(columns)}; expected path and label (or labels)")
    column = kinds.pop()
    task: Literal["multilabel", "singlelabel"] = "singlelabel" if column == "label" else "multilabel"
    read: list[tuple[str, str, list[str], str | None]] = []
    for line, row in rows:
        path, text = row["path"], row[column]
        if not path or text is None or None in row:
            raise DataError(f"{table}:{line}: expected {len(columns)} values, the first of them not empty")
        labels = [label.strip() for label in text.split(SEPARATOR)] if task == "multilabel" else [text.strip()]
        labels = [label for label in labels if label]
        if task == "singlelabel" and not labels:
            raise DataError(f"{table}:{line}: {path} has no label")
        # Records name pictures relative to their root, wherever the table points.
        read.append(
            (row.get("split") or "train", os.path.relpath(table.parent / path, table.parent), labels, row.get("group"))
        )
    if not read:
        raise DataError(f"table {table} has no rows")
    classes = tuple(sorted({label for _, _, labels, _ in read for label in labels}))
    number = {name: label for label, name in enumerate(classes)}
    records: dict[str, list[Record]] = {}
    for split, path, labels, group in read:
        positive = {number[label] for label in labels}
        target = tuple(int(label in positive) for label in range(len(classes)))
        one = number[labels[0]] if task == "singlelabel" else target
        records.setdefault(split, []).append(Record(path, one, group=group or None))
    return [Index(dataset, split, task, classes, table.parent, tuple(rows)) for split, rows in records.items()]


def prepare(facts: DatasetFacts, source: Path | None, folder: Path, options: Options) -> Reading:
    """Read SOURCE itself where it is a table, else the one .csv file in it."""
    assert source is not None
    tables = [source] if source.is_file() else sorted(source.glob("*.csv"))
    if len(tables) != 1:
        raise DataError(f"{source} holds {len(tables)} .csv files; expected one, or its own path")
    options.progress(f"reading {tables[0].name}", 0, 1)
    return Reading(read_csv(tables[0], dataset=facts.name))
