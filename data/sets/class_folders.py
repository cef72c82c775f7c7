"""A tree with one folder a class: ROOT/CLASS/**/PICTURE, read once into an index that later starts in seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.facts import DatasetFacts
from attnbias.data.index import Index, Record
from attnbias.data.prepare import Options, Reading, check_counts
from attnbias.data.splits import assign_roles, part_named

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings, in any case, of the files that torchvision's ImageFolder takes for pictures."""


def read_class_folders(
    root: Path,
    *,
    dataset: str = "folder",
    split: str = "train",
    extensions: Sequence[str] = PICTURES,
    classes: Sequence[str] | None = None,
) -> Index:
    """Read a class-folder tree in the order of torchvision's ImageFolder: classes by name, then pictures by path.

    Args:
        root: the folder that holds the class folders; record paths are relative to it.
        extensions: endings of the files that count, in any case; others are passed over.
        classes: folder names in the order of their class numbers, where the set (or its training split) fixes them;
            folders may then lack, but none may be unknown. None: the folders themselves, and none may be empty.

    Raises:
        DataError: no class folder, an unknown one, or one without pictures.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder; expected one that holds a folder for each class")
    folders = subfolders(root)
    if not folders:
        raise DataError(f"{root} holds no class folders; expected {root}/CLASS/PICTURE")
    if classes is not None and (strange := [name for name in folders if name not in set(classes)]):
        known = f"{len(classes):,} classes such as '{classes[0]}'"
        raise DataError(f"{root} holds {len(strange)} folders that are no class of {dataset} ({strange[0]}); {known}")
    label_of = {name: label for label, name in enumerate(folders if classes is None else classes)}
    records, empty = [], []
    for name in folders:
        paths = _pictures(root / name, tuple(extensions))
        records += [Record(f"{name}/{path}", label_of[name]) for path in paths]
        if not paths:
            empty.append(name)
    if empty and (classes is None or not records):
        raise DataError(f"{root}: {len(empty)} class folders hold no pictures ({empty[0]}); remove or fill them")
    return Index(dataset, split, "singlelabel", tuple(label_of), root, tuple(records))


def prepare(facts: DatasetFacts, source: Path | None, folder: Path, options: Options) -> Reading:
    """Read SOURCE/SPLIT/CLASS, or SOURCE/CLASS as the only split; the split that trains decides the classes."""
    assert source is not None
    splits = split_folders(source, options)
    if not splits:
        options.progress(f"reading {source.name}", 0, 1)
        return Reading([read_class_folders(source, dataset=facts.name)])
    labelled = [split for split in splits if subfolders(source / split)]
    warnings = [f"{split}/ is left out: it holds no class folders" for split in splits if split not in labelled]
    first = assign_roles(labelled, options.train_split, options.val_split).get("train", labelled[0])
    classes: tuple[str, ...] | None = None
    indexes = []
    for done, split in enumerate(sorted(labelled, key=lambda split: split != first)):
        options.progress(f"reading {split}", done, len(labelled))
        indexes.append(read_class_folders(source / split, dataset=facts.name, split=split, classes=classes))
        classes = indexes[0].classes
    return Reading(indexes, [*warnings, *check_counts(facts, indexes)])


def split_folders(folder: Path, options: Options) -> list[str]:
    """Folders of a folder that are splits: all of them, where any is named like a split and has folders in it or is
    named by a person; none where they are classes."""
    names = subfolders(folder)
    asked = {options.train_split, options.val_split}
    if any(name in asked or (part_named(name, whole=True) and subfolders(folder / name)) for name in names):
        return names
    return []


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _pictures(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Paths of a class folder's pictures relative to it: sub-folders in the order of their paths, as ImageFolder."""
    start = len(str(folder)) + 1
    return [
        f"{place}/{name}"[start:]
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(extensions)
    ]
