"""What a run's data was, so that a resumed run or an evaluation can tell what changed.

The pixels of images are not looked at, nor where the files lie: a set that was moved is the same set.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Sequence

from attnbias.data.index import Index, Orientation, Record, Task
from attnbias.data.prepared import Prepared
from attnbias.data.reading import FileName, Items, Json, StoredModel, shown

DIGITS = 8
"""Hexadecimal digits of a record's CRC-32."""


class Fingerprint(StoredModel):
    """What decides the samples of one split."""

    dataset: FileName
    split: FileName
    task: Task
    classes: Items[FileName]
    orientation: Orientation
    label_values: Items[int] | None
    settings: Json
    """What decided a generated set."""
    records: str
    """The CRC-32 of each record in turn: of its path, labels, crop, label map and text."""

    @classmethod
    def of(cls, index: Index) -> Fingerprint:
        """The fingerprint of a split."""
        settings = {} if index.dataset_dir is None else Prepared.read(index.dataset_dir).settings
        return cls(
            dataset=index.dataset,
            split=index.split,
            task=index.task,
            classes=index.classes,
            orientation=index.orientation,
            label_values=index.label_values,
            settings=json.loads(json.dumps(settings)),  # as they are read back: lists, not tuples
            records="".join(map(_crc32, index.records)),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of everything above, in hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def differences(self, then: Fingerprint, index: Index) -> list[str]:
        """What differs from `then`, in words; `index` is what this fingerprint is of, and names its records."""
        words = []
        if difference := class_difference(then.classes, self.classes):
            words.append(f"classes differ: {difference}")
        for name in ("dataset", "split", "task", "orientation", "label_values", "settings"):
            before, now = getattr(then, name), getattr(self, name)
            if before != now:
                words.append(f"{name} was {shown(before)} and is {shown(now)}")
        if then.records != self.records:
            words.append(_record_difference(then.each_record(), self.each_record(), index))
        return words

    def each_record(self) -> list[str]:
        """The CRC-32 of each record."""
        return [self.records[position : position + DIGITS] for position in range(0, len(self.records), DIGITS)]


def class_difference(then: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of classes differ, in words; empty where they do not."""
    if len(then) != len(now):
        return f"{len(then)} then, {len(now)} now"
    positions = [position for position, (one, other) in enumerate(zip(then, now, strict=True)) if one != other]
    if not positions:
        return ""
    first = positions[0]
    order = ", the same names in another order" if sorted(then) == sorted(now) else ""
    return f"class {first} was {shown(then[first])} and is {shown(now[first])} ({len(positions)} of {len(now)}{order})"


def _record_difference(then: list[str], now: list[str], index: Index) -> str:
    """In words; a changed record counts once, and the first new one is named."""
    lost, new = (Counter(one) - Counter(other) for one, other in ((then, now), (now, then)))
    if new:
        first = shown(index.records[next(position for position, record in enumerate(now) if record in new)].path)
    elif lost:
        first = f"number {next(position for position, record in enumerate(then) if record in lost)} is gone"
    else:
        return "the order of the records differs"
    many = max(lost.total(), new.total())
    count = f" ({len(then)} then, {len(now)} now)" if len(then) != len(now) else ""
    return f"{many} record{'s differ' if many > 1 else ' differs'}{count}, first {first}"


def _crc32(record: Record) -> str:
    what = (record.path, record.target, record.crop, record.label_map, record.text)
    return f"{zlib.crc32(json.dumps(what).encode()):0{DIGITS}x}"
