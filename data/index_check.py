"""What the records of an index file must be, checked a column at a time: a million of them take a second."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from math import isfinite
from posixpath import join, normpath
from typing import Any, NoReturn

from attnbias.data.reading import Unfit, shown

NOTHING = type(None)

UNLABELLED = ("segmentation", "vqa", "retrieval")
"""Tasks whose target is 0 in every record: a label map or a text tells all."""

ITEMS = (
    "the path",
    "the target",
    "the list of boxes",
    "the crop",
    "the image id",
    "the group",
    "the label map",
    "the text",
)
"""Of a record, in their order."""

LARGEST_SIDE = 1e6
"""Pixels; no image that Pillow reads is larger."""


@dataclass(frozen=True)
class _Column:
    """Values of one kind out of many records."""

    what: str
    values: Sequence[Any]
    record: Callable[[int], int] = int
    """Position of a value -> number of the record that it is of."""

    def hold(self, *kinds: type, expected: str) -> None:
        """Refuse the first value of another type; true and false are not numbers here."""
        if not set(map(type, self.values)) <= {*kinds}:
            self._refuse(lambda value: type(value) in kinds, expected)

    def lie(self, low: float, high: float, expected: str) -> None:
        """Refuse the first number outside [low, high], and any that is not finite."""
        values = self.values
        # Least and greatest pass over a NaN; the sum does not, and cannot overflow between them.
        if values and not (low <= min(values) and max(values) <= high and isfinite(sum(values))):
            self._refuse(lambda value: low <= value <= high, expected)

    def have(self, length: int, expected: str) -> None:
        """Refuse the first list of another length."""
        if not set(map(len, self.values)) <= {length}:
            self._refuse(lambda value: len(value) == length, expected)

    def lie_inside(self, root: str | None) -> None:
        """Refuse the first absolute path, and from a `root` in the dataset's own folder one that leads out of that."""
        fit = partial(_leads_on, root=root)
        if not all(map(fit, (value for value in self.values if value[:1] == "/" or ".." in value))):
            expected = "relative to the folder of the images" if root is None else "inside the dataset's own folder"
            self._refuse(fit, f"a path {expected}")

    def parts(self, *names: str) -> list[_Column]:
        """The items of every value, which are lists as long as there are names."""
        columns = zip(*self.values, strict=True) if self.values else ((),) * len(names)
        return [_Column(name, values, self.record) for name, values in zip(names, columns, strict=True)]

    def given(self) -> _Column:
        """Those values that are not None and not empty."""
        if not any(self.values):  # as in most columns of a large set
            return _Column(self.what, [], self.record)
        positions = [position for position, value in enumerate(self.values) if value]
        return _Column(
            self.what,
            [self.values[position] for position in positions],
            lambda position: self.record(positions[position]),
        )

    def flat(self, what: str) -> _Column:
        """What the values, which are lists, hold."""
        ends = list(accumulate(map(len, self.values)))
        values = list(chain.from_iterable(self.values))
        return _Column(what, values, lambda position: self.record(bisect_right(ends, position)))

    def _refuse(self, right: Callable[[Any], bool], expected: str) -> NoReturn:
        position = next(position for position, value in enumerate(self.values) if not right(value))
        found = shown(self.values[position])
        raise Unfit(f"record {self.record(position)}: {self.what} is {found}, expected {expected}")


def _leads_on(path: str, root: str | None) -> bool:
    if path.startswith("/"):
        return False
    return root is None or normpath(join(root, path)).split("/")[0] != ".."


def check_records(records: list[Any], task: str, classes: int, root: str | None, metadata: int = 0) -> None:
    """Check the records of a split, as JSON gives them, before they are made.

    `metadata` is the number of its columns: each record then ends with their values.

    `root` is the folder of the images where it is in the dataset's own folder, which may come from a stranger: no path
    leads out of that. Elsewhere `..` is what `prepare-data` writes where a table or COCO file lists images beside its
    own folder.

    Raises:
        Unfit: there are none, or one is not as `Index.write` writes it or contradicts the task or number of classes.
    """
    if not records:
        raise Unfit("it holds no records")
    whole = _Column("it", records)
    whole.hold(list, expected="a list")
    names = [*ITEMS, "the list of metadata"] if metadata else ITEMS
    whole.have(len(names), f"{len(names)} items")
    paths, targets, boxes, crops, image_ids, groups, label_maps, texts, *said = whole.parts(*names)
    paths.hold(str, expected="a text")
    if not all(paths.values):
        raise Unfit(f"record {paths.values.index('')}: the path is empty")
    paths.lie_inside(root)
    _check_targets(targets, task, classes)
    boxes.hold(list, expected="a list")
    _check_boxes(boxes.given().flat("a box"), classes)
    crops.hold(list, NOTHING, expected="a list or null")
    _check_crops(crops.given())
    image_ids.hold(int, NOTHING, expected="a number or null")
    groups.hold(str, NOTHING, expected="a text or null")
    label_maps.hold(str, NOTHING, expected="a path or null")
    label_maps.given().lie_inside(root)
    texts.hold(list, NOTHING, expected="a list or null")
    _check_texts(texts.given(), classes, root)
    for column in said:
        column.hold(list, expected="a list of texts")
        column.have(metadata, f"{metadata} texts, one a column")
        column.flat("a value of metadata").hold(str, expected="a text")


def _check_targets(targets: _Column, task: str, classes: int) -> None:
    if task == "multilabel":
        targets.hold(list, expected="a list of labels")
        targets.have(classes, f"{classes} labels, one a class")
        if not _are_labels(targets.values):
            labels = targets.flat("a label")
            labels.hold(int, expected="1, 0 or -1")
            labels.lie(-1, 1, "1, 0 or -1")
        return
    highest = 0 if task in UNLABELLED else classes - 1
    expected = f"a class from 0 to {highest}" if highest else "0"
    targets.hold(int, expected=expected)
    targets.lie(0, highest, expected)


def _are_labels(targets: Sequence[Any]) -> bool:
    """Whether lists hold nothing but 1, 0 and -1: the most of an index, looked at without a list of all of it."""
    try:
        return set(map(type, chain.from_iterable(targets))) == {int} and set(chain.from_iterable(targets)) <= {1, 0, -1}
    except TypeError:
        return False


def _check_boxes(boxes: _Column, classes: int) -> None:
    boxes.hold(list, expected="a list")
    boxes.have(7, "label, x, y, w, h, crowd, difficult")
    labels, *sides, crowd, difficult = boxes.parts(
        "a box's label", "a box's x", "a box's y", "a box's width", "a box's height", "a box's mark", "a box's mark"
    )
    labels.hold(int, expected="a class")
    labels.lie(0, classes - 1, f"a class from 0 to {classes - 1}")
    _check_rectangle(sides)
    for marks in (crowd, difficult):
        marks.hold(bool, expected="true or false")


def _check_crops(crops: _Column) -> None:
    crops.have(4, "x, y, w, h")
    _check_rectangle(crops.parts("the crop's x", "the crop's y", "the crop's width", "the crop's height"))


def _check_rectangle(sides: list[_Column]) -> None:
    for position, side in enumerate(sides):  # x, y, w, h
        side.hold(int, float, expected="a number")
        side.lie(0 if position > 1 else -LARGEST_SIDE, LARGEST_SIDE, "a number of pixels")


def _check_texts(texts: _Column, classes: int, root: str | None) -> None:
    texts.have(4, "sentence, answers, second path, id")
    sentences, lists, second_paths, identifiers = texts.parts(
        "the sentence", "the list of answers", "the second path", "the id of the text"
    )
    sentences.hold(str, expected="a text")
    second_paths.hold(str, NOTHING, expected="a path or null")
    second_paths.given().lie_inside(root)
    identifiers.hold(str, NOTHING, expected="a text or null")
    lists.hold(list, expected="a list")
    answers = lists.given().flat("an answer")
    answers.hold(list, expected="a class and its score")
    answers.have(2, "a class and its score")
    numbers, scores = answers.parts("an answer", "an answer's score")
    numbers.hold(int, expected="a class")
    numbers.lie(0, classes - 1, f"a class from 0 to {classes - 1}")
    scores.hold(int, float, expected="a number")
    scores.lie(0, 1, "a score from 0 to 1")
