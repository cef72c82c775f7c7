"""The one index format that every dataset is read from: images, labels, and boxes where the set has them.

`attnbias prepare-data NAME` writes one file per split to DATA_ROOT/NAME/index/SPLIT.json; training and evaluation read
nothing else. Label values: 1 positive, 0 negative, -1 unknown (VOC difficult, WIDER unspecified).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, Strict, field_validator, model_validator

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.index_check import check_records
from attnbias.data.reading import FileName, Items, StoredModel, Unfit, in_words, parse_json, read_json, reading

FORMAT = 2

LARGEST = 2 << 30
"""Bytes of the largest index that is read; ImageNet's has a twentieth of it."""

MOST_CLASSES = 100_000
"""The largest sets of images have a fifth of it."""

Task = Literal["multilabel", "singlelabel", "segmentation", "vqa", "snli-ve", "nlvr2", "retrieval"]
"""What is asked of an image: its labels, its label, the class of each pixel, or something about a text beside it."""

Orientation = Literal["stored", "upright"]
"""How pixels are read: as they lie in the file, or turned as its EXIF orientation says."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Stop Python's cycle collector while a million small tuples are made (COCO reads three times faster)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Box(NamedTuple):
    """One annotated object. `x, y, w, h` in pixels of the image as it is read (`Index.orientation`), continuous, from
    its upper left corner."""

    label: int
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False
    difficult: bool = False


class Text(NamedTuple):
    """What is said about an image, in the vision-language tasks."""

    sentence: str
    """The question, the hypothesis, the statement or the caption."""
    answers: tuple[tuple[int, float], ...] = ()
    """Answers that people gave (class, score in [0, 1]), where a question has several."""
    second_path: str | None = None
    """The right image, where a statement is about two."""
    identifier: str | None = None
    """Id of the question, statement or caption in the set's own files."""


class Record(NamedTuple):
    """One sample. `target` is one class number (0 where a label map or a text tells all), or one value per class in
    {1, 0, -1}."""

    path: str
    target: int | tuple[int, ...]
    boxes: tuple[Box, ...] = ()
    crop: tuple[float, float, float, float] | None = None
    """The part of the image that is the sample (x, y, w, h), such as one person of WIDER-Attribute."""
    image_id: int | None = None
    """Id in the set's own annotation file, where masks are looked up."""
    group: str | None = None
    """Value of a group column (worst-group accuracy), such as the demo set's context."""
    label_map: str | None = None
    """File with the class of each pixel (255 = ignored; see Index.label_values), where the task is segmentation."""
    text: Text | None = None
    metadata: tuple[str, ...] = ()
    """Values of the columns `Index.metadata`, as they were written; empty where one is missing."""

    @property
    def images(self) -> tuple[str, ...]:
        """Path of its image, or of both where the text is about two."""
        second = self.text.second_path if self.text is not None else None
        return (self.path,) if second is None else (self.path, second)

    @property
    def labels(self) -> tuple[int, ...]:
        """Its positive labels."""
        if isinstance(self.target, int):
            return (self.target,)
        return tuple(label for label, value in enumerate(self.target) if value == 1)


@dataclass(frozen=True)
class Index:
    """All samples of one split, in a fixed order."""

    dataset: str
    split: str
    task: Task
    classes: tuple[str, ...]
    root: Path
    """Folder that record paths are relative to. Inside the dataset's own folder it is stored relative to it."""
    records: tuple[Record, ...]
    annotations: Path | None = None
    """COCO-style file with masks, where the set has one."""
    label_values: tuple[int, ...] | None = None
    """Class of each value 0..255 in the files of the label maps (255 = ignored), where the value is not the class."""
    orientation: Orientation = "stored"
    """How every command reads the set's images. An index of before this field was written means "stored"."""
    truth_origin: Literal["measured"] | None = None
    """Where the objects of a person's own images come from: "measured" = their own masks or boxes. None where the set
    has none, or has those of its authors."""
    metadata: tuple[str, ...] = ()
    """What more a person's own table says of each image: names of columns, such as "camera" or "site"."""
    estimated_by: str | None = None
    """The segmenter whose guess the objects are, in words; not stored. None where people drew them."""
    dataset_dir: Path | None = field(default=None, compare=False)
    """The dataset's own folder, where the index was read there; it holds what belongs to the set, as its tokenizer."""
    whole: int | None = field(default=None, compare=False)
    """How many samples the split has, where these are some of them (`drawn`); not stored."""

    def drawn(self, number: int | None) -> Index:
        """So many of its samples by chance, in its order, the same ones each time; all where it has no more.

        The first ones would not do: many sets list one class after the other.
        """
        import numpy as np  # listings read this file, and need no numpy

        count = len(self.records)
        if number is None or number >= count:
            return self
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:number])
        return replace(self, records=tuple(self.records[position] for position in chosen), whole=count)

    @property
    def how_drawn(self) -> str:
        """all, or how many of the split's samples these are and how they were chosen."""
        return "all" if self.whole is None else f"{len(self.records)} of {self.whole}, drawn by chance (seed 0)"

    def write(self, path: Path) -> None:
        """Write the index atomically (a temporary file, then a rename)."""
        with replacing(path) as file:
            file.writelines(self._lines(path))

    @collector_paused()
    def check(self, path: Path) -> None:
        """Refuse an index whose file at `path` `read` would refuse.

        Raises:
            DataError: a name, a number or a box of the source cannot be kept.
        """
        try:
            _checked(parse_json("".join(self._lines(path))))
        except ValueError as error:
            raise DataError(f"split '{self.split}' cannot be kept ({in_words(error)}); mend its source") from None

    def _lines(self, path: Path) -> Iterator[str]:
        """The lines of the file at `path`."""
        dataset_dir = path.absolute().parent.parent
        header = {
            "format": FORMAT,
            "dataset": self.dataset,
            "split": self.split,
            "task": self.task,
            "classes": self.classes,
            "root": _stored(self.root, dataset_dir),
            "annotations": _stored(self.annotations, dataset_dir) if self.annotations else None,
            "label_values": self.label_values,
            "orientation": self.orientation,
            **({"truth_origin": self.truth_origin} if self.truth_origin else {}),
            **({"metadata": self.metadata} if self.metadata else {}),
        }
        length = len(Record._fields) - (not self.metadata)
        yield json.dumps(header)[:-1] + ', "records": [\n'
        for number, record in enumerate(self.records, start=1):
            yield json.dumps(record[:length]) + (",\n" if number < len(self.records) else "")
        yield "\n]}\n"

    @classmethod
    @collector_paused()
    def read(cls, path: Path) -> Index:
        """Read an index file.

        Raises:
            DataError: the file is missing, truncated, or of another format version.
        """
        dataset_dir = path.absolute().parent.parent
        try:
            with reading(path, "run prepare-data again"):
                header, records = _checked(read_json(path, LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"no index {path}; run: attnbias prepare-data {path.parent.parent.name}") from None
        return cls(
            dataset=header.dataset,
            split=header.split,
            task=header.task,
            classes=header.classes,
            root=dataset_dir / header.root,
            annotations=dataset_dir / header.annotations if header.annotations else None,
            label_values=header.label_values,
            orientation=header.orientation,
            truth_origin=header.truth_origin,
            metadata=header.metadata,
            records=tuple(
                Record(
                    path,
                    tuple(target) if isinstance(target, list) else target,
                    tuple(map(Box._make, boxes)) if boxes else (),
                    tuple(crop) if crop else None,
                    image_id,
                    group,
                    label_map,
                    _text(text) if text else None,
                    *map(tuple, metadata),
                )
                for path, target, boxes, crop, image_id, group, label_map, text, *metadata in records
            ),
            dataset_dir=dataset_dir,
        )


def _not_out(path: str) -> str:
    if not Path(path).is_absolute() and ".." in Path(path).parts:
        raise ValueError("expected an absolute path, or one inside the dataset's folder")
    return path


_Location = Annotated[FileName, AfterValidator(_not_out)]
"""A path as `_stored` writes it."""


class _Header(StoredModel):
    """All of an index file but its records."""

    format: int
    dataset: FileName
    split: FileName
    task: Task
    classes: Items[FileName]
    root: _Location
    annotations: _Location | None
    label_values: Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Strict(False)] | None
    orientation: Orientation = "stored"
    truth_origin: Literal["measured"] | None = None
    metadata: Items[str] = ()

    @field_validator("format")
    @classmethod
    def _is_ours(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"expected index format {FORMAT}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> _Header:
        if not self.classes and self.task != "retrieval":
            raise ValueError("it names no classes")
        if len(self.classes) > MOST_CLASSES:
            raise ValueError(f"it names {len(self.classes)} classes, at most {MOST_CLASSES} are read")
        if self.label_values is not None and len(self.label_values) != 256:
            raise ValueError(f"'label_values' has {len(self.label_values)} values, expected 256")
        return self


def _checked(content: Any) -> tuple[_Header, list[Any]]:
    """The header and the records of an index file, as JSON gives it.

    Raises:
        ValueError: it is none.
    """
    records = content.pop("records", None) if isinstance(content, dict) else None
    header = _Header.model_validate(content)
    if not isinstance(records, list):
        raise Unfit("it holds no list of records")
    root = None if Path(header.root).is_absolute() else header.root
    check_records(records, header.task, len(header.classes), root, len(header.metadata))
    return header, records


def _text(item: tuple[str, list[tuple[int, float]], str | None, str | None]) -> Text:
    sentence, answers, second_path, identifier = item
    return Text(sentence, tuple((answer, score) for answer, score in answers), second_path, identifier)


def _stored(path: Path, dataset_dir: Path) -> str:
    """Path as written: relative inside the dataset's folder, so that a generated set can be moved; else absolute."""
    path = path.absolute()
    return path.relative_to(dataset_dir).as_posix() if path.is_relative_to(dataset_dir) else str(path)
