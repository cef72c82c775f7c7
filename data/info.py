"""What is known about a dataset before anything is on disk: plain values, imported by listings and completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, TypeVar

from attnbias.data.index import Orientation, Task


@dataclass(frozen=True)
class Archive:
    """One file to fetch. Where no checksum is published, the first one seen is recorded and compared afterwards."""

    url: str
    file: str
    size: int | None = None
    """In bytes."""
    algorithm: Literal["md5", "sha1", "sha256"] | None = None
    digest: str | None = None
    """The checksum, or its beginning where no more of it is published."""
    into: str = ""
    """Folder, below the set's own, that its members go to."""
    nested: bool = False
    """Its members are tar files, each to be unpacked into a folder of its name."""
    split: str = ""
    """The split that it is for alone: fetched only where that one is asked for."""


MANY_SPLITS = 8
"""Of more splits than these, those of which the same is said are named together."""

T = TypeVar("T")


def together(said: Mapping[str, T]) -> list[tuple[str, T]]:
    """What is said of each split, under its name; of many, once for all of which the same is said, under the first and
    last name and their number."""
    if len(said) <= MANY_SPLITS:
        return list(said.items())
    groups: dict[T, list[str]] = {}
    for split, words in said.items():
        groups.setdefault(words, []).append(split)
    return [
        (splits[0] if len(splits) == 1 else f"{splits[0]} to {splits[-1]} ({len(splits)} splits)", words)
        for words, splits in groups.items()
    ]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about one dataset before anything is on disk."""

    name: str
    title: str
    task: Task
    classes: int | None
    """How many classes the official set has; None where it has none, or only the files tell."""
    splits: tuple[str, ...]
    train: str | None
    """The split that training reads; None for a set made for evaluation only."""
    val: str
    """The split that evaluation reads."""
    acquisition: Literal["generated", "auto", "manual"]
    """Made here, may be downloaded by the tool, or registered for by the user."""
    licence: str
    size: str
    """What it takes on disk, for people."""
    prepare: str
    """`module:function` that reads it, imported when it is needed (`Preparer` in data/sets/contract.py)."""
    classes_note: str = ""
    """What else is to be said of the number of classes."""
    class_names: str = ""
    """`module:function` that gives the names of the classes in their order, where they are known without its files."""
    further_files: str = ""
    """`module:function` that makes more files for its folder, as a published program has them (`FurtherFiles`)."""
    orientation: Orientation = "stored"
    """How its images are read: a paper's set as the paper's program reads it, one's own upright."""
    citation: str = ""
    """The paper that describes it: authors, title, where, year."""
    layout: str = ""
    """What the source folder must hold."""
    page: str = ""
    """Where it is described, and registered for where that is asked."""
    archives: tuple[Archive, ...] = ()
    unpack: bool = True
    """Archives are unpacked; False: images are read out of them."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples that each split of the official set has."""
    precropped: bool = False
    """Its images are cut already: they are evaluated as they are, whatever a method's transform does."""
    split_words: Mapping[str, str] = field(default_factory=dict)
    """What a split shows, where its name does not tell."""
    subset: bool = False
    """Only the classes that occur in it compete."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What `prepare-data` may be told of a set that is not generated, with the defaults."""

    @property
    def classes_in_words(self) -> str:
        """How many classes, for people."""
        number = "none" if self.classes is None else str(self.classes)
        return f"{number} ({self.classes_note})" if self.classes_note else number

    @property
    def arguments(self) -> str:
        """What `attnbias prepare-data NAME` must be told beside the name."""
        return {"generated": "", "auto": " --download (or --source DIR)", "manual": " --source DIR"}[self.acquisition]


def named(function: str) -> Any:
    """The function that an entry names as `module:function`, imported now."""
    module, name = function.split(":")
    return getattr(import_module(module), name)
