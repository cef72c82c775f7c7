"""A model's classes held against a dataset's: by a file that a person wrote, or by equal names and synonyms."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.reading import Json, Unfit, is_whole_number, read_json, read_text, reading, shown
from attnbias.data.sets.imagenet import SIZES, class_names, lemmas, synsets

COLUMNS = ("model", "dataset")
"""Of a CSV file that maps classes; a JSON file is an object {model's class: dataset's class}."""

NAMED = 10
"""Classes without a match that are named in a line."""


@dataclass(frozen=True)
class ClassMatch:
    """Which classes of a model stand for which class of a dataset."""

    rule: str
    """How they were matched, in words."""
    model: tuple[str, ...]
    dataset: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    """Numbers of the model's classes for each class of the dataset; () = the model does not know it."""
    several: tuple[str, ...] = ()
    """Classes of the dataset whose name is that of several classes of the model: not matched."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes of the dataset that the model does not know."""
        return tuple(name for name, members in zip(self.dataset, self.members, strict=True) if not members)

    @property
    def unused(self) -> tuple[str, ...]:
        """Classes of the model that stand for none of the dataset's."""
        used = {number for members in self.members for number in members}
        return tuple(name for number, name in enumerate(self.model) if number not in used)

    def content(self) -> Json:
        """What a result keeps."""
        return {
            "rule": self.rule,
            "matched": {
                name: [self.model[number] for number in members]
                for name, members in zip(self.dataset, self.members, strict=True)
                if members
            },
            "dataset_without_match": self.unknown,
            "ambiguous": self.several,
            "model_without_match": self.unused,
        }

    def lines(self) -> list[str]:
        """What a person should know."""
        known, used = len(self.dataset) - len(self.unknown), len(self.model) - len(self.unused)
        lines = [
            f"classes matched by {self.rule}: {used:,} of the model's {len(self.model):,} stand for {known:,} of the "
            f"dataset's {len(self.dataset):,} (of several the highest score counts; all others are left out)"
        ]
        if self.unknown:
            lines.append(f"classes of the dataset that the model does not have, always wrong: {_named(self.unknown)}")
        if self.several:
            lines.append(f"names of several classes of the model, say which with --class-map: {_named(self.several)}")
        if self.unused:
            lines.append(f"classes of the model that are left out: {_named(self.unused)}")
        return lines


def match_by_name(model: Sequence[str], dataset: Sequence[str]) -> ClassMatch:
    """Match equal names and synonyms, whatever their case and whether words are parted by spaces, "_" or "-".

    "tench, Tinca tinca" is two names of one class; ImageNet's classes have their WordNet id and all its words. A name
    that several classes of the model have stands for none of them.
    """
    numbers = _numbers(model)
    members, several = [], []
    for name in dataset:
        found = numbers.get(_key(name), set())
        if len(found) > 1:
            several.append(name)
        members.append(tuple(found) if len(found) == 1 else ())
    return ClassMatch("names and synonyms", tuple(model), tuple(dataset), tuple(members), tuple(several))


def match_by_file(path: Path, model: Sequence[str], dataset: Sequence[str]) -> ClassMatch:
    """Match as a file says: a CSV with the columns model and dataset, or a JSON object {model: dataset}.

    The model's classes are named as `match_by_name` knows them, or by their numbers from 0.

    Raises:
        DataError: the file is missing or damaged, or names a class that is not there, twice, or not clearly.
    """
    numbers, known = _numbers(model), {_key(name): position for position, name in enumerate(dataset)}
    members: dict[int, list[int]] = defaultdict(list)
    taken: dict[int, str] = {}
    for one, other in read_pairs(path):
        found = numbers.get(_key(one), set())
        if not found and is_whole_number(one.strip()) and int(one) < len(model):
            found = {int(one)}
        if len(found) != 1:
            what = f"the name of {len(found)} classes of the model" if found else "not a class of the model"
            raise DataError(f"{path}: {shown(one)} is {what}{_near(one, numbers)}; its number is taken, too")
        if _key(other) not in known:
            raise DataError(f"{path}: {shown(other)} is not a class of the dataset{_near(other, known)}")
        (number,) = found
        if taken.setdefault(number, other) != other:
            raise DataError(f"{path}: {shown(one)} stands for {shown(taken[number])} and for {shown(other)}")
        members[known[_key(other)]].append(number)
    if not members:
        raise DataError(f"{path} maps no class")
    return ClassMatch(
        path.name,
        tuple(model),
        tuple(dataset),
        tuple(tuple(dict.fromkeys(members[position])) for position in range(len(dataset))),
    )


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """What stands in a file of `match_by_file`: class of the model, class of the dataset.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with reading(path, "write it again"):
            if path.suffix.lower() == ".json":
                content = read_json(path)
                if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
                    raise Unfit("expected an object {class of the model: class of the dataset}")
                return list(content.items())
            reader = csv.DictReader(io.StringIO(read_text(path)), skipinitialspace=True)
            header, rows = list(reader.fieldnames or ()), list(reader)
            if not rows or any(header.count(name) != 1 for name in COLUMNS):
                raise Unfit(f"expected a CSV with the columns {' and '.join(COLUMNS)}, or a .json file")
            if wrong := next((row for row in rows if None in row or None in row.values()), None):
                values = ",".join(str(value) for value in wrong.values() if isinstance(value, str))
                raise Unfit(
                    f"a row begins {shown(values)}; expected {len(header)} values, names with a comma in quotes"
                )
            return [(row["model"].strip(), row["dataset"].strip()) for row in rows]
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist; expected a CSV with the columns {' and '.join(COLUMNS)}") from None


def _numbers(model: Sequence[str]) -> dict[str, set[int]]:
    """Numbers of the model's classes by each of their names."""
    words: list[tuple[str, ...]] = [(name, *name.split(",")) for name in model]
    subset = SIZES.get(len(model))
    if subset is not None and tuple(model) in (class_names(subset), synsets(subset)):
        words = [(*own, id, *lemmas().get(id, ())) for own, id in zip(words, synsets(subset), strict=True)]
    found: dict[str, set[int]] = defaultdict(set)
    for number, own in enumerate(words):
        for word in own:
            found[_key(word)].add(number)
    return found


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _near(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(_key(name), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
