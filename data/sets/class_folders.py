"""A tree with one folder a class: ROOT/CLASS/**/PICTURE, read once into an index that later starts in seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.facts import DatasetFacts
from attnbias.data.index import Index, Record
from attnbias.data.prepare import Options, Reading, check_counts

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings, in any case, of the files that torchvision's ImageFolder takes for pictures."""

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")


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
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
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
    """Read SOURCE/train/CLASS and SOURCE/val/CLASS, or SOURCE/CLASS as the only split; train decides the classes."""
    assert source is not None
    train = next((name for name in TRAIN if (source / name).is_dir()), None)
    if train is None:
        options.progress(f"reading {source.name}", 0, 1)
        return Reading([read_class_folders(source, dataset=facts.name)])
    indexes = [read_class_folders(source / train, dataset=facts.name)]
    held_out = [name for name in VAL if (source / name).is_dir()]
    for done, name in enumerate(held_out, start=1):
        options.progress(f"reading {name}", done, len(held_out) + 1)
        split = "test" if name == "test" else "val"
        indexes.append(read_class_folders(source / name, dataset=facts.name, split=split, classes=indexes[0].classes))
    return Reading(indexes, check_counts(facts, indexes))


def _pictures(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Paths of a class folder's pictures relative to it: sub-folders in the order of their paths, as ImageFolder."""
    start = len(str(folder)) + 1
    return [
        f"{place}/{name}"[start:]
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(extensions)
    ]
