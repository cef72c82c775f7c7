"""A tree with one folder per class: ROOT/CLASS/**/IMAGE, read once into an index that later starts in seconds.

Folders of contexts may stand below those of classes, as in MetaShift (Liang and Zou, ICLR 2022: train/cat/cat(sofa)/),
or above them, as in NICO++ (Zhang et al., CVPR 2023: autumn/bear/); the context is then each image's group.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.names import real_path
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts
from attnbias.data.sets.mask_folders import IMAGES, find_masks, holds_classes_with_masks, masks_among, numbered
from attnbias.data.splits import assign_roles, part_named
from attnbias.data.tally import Tally
from attnbias.data.walk import OTHER, is_image, list_folder, walk_images

OUTSIDE = "image outside of a class folder"
PREPARED = "folder of prepared datasets"
BESIDE = "file beside the folders of splits"


def read_class_folders(
    root: Path,
    *,
    dataset: str = "folder",
    split: str = "train",
    classes: Sequence[str] | None = None,
    left_out: Tally | None = None,
    data_root: Path | None = None,
) -> Index:
    """Read a class-folder tree in the order of torchvision's ImageFolder: classes by name, then images by path.

    Args:
        root: the folder that holds the class folders; record paths are relative to it.
        classes: folder names in the order of their class numbers, where the set (or its training split) fixes them;
            folders may then be missing, but none may be unknown. None: the folders themselves, and none may be empty.
        left_out: gains, by reason, what does not count (data/walk.py).
        data_root: where prepared sets lie: no class, where a person works in the folder of their classes.

    Raises:
        DataError: no class folder, an unknown one, or one without images.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected one that holds a folder for each class")
    left_out, below = Tally() if left_out is None else left_out, f"{root.name}/"
    folders, files = list_folder(root, left_out, below)
    if masks := masks_among(root, folders):
        folders.remove(masks)
    if (prepared := _within(root, data_root)) in folders:
        folders = [name for name in folders if name != prepared]
        left_out.add(PREPARED, f"{below}{prepared}")
    for name in files:
        left_out.add(OUTSIDE if is_image(name) else OTHER, below + name)
    if not folders:
        raise DataError(f"{root} holds no class folders; expected {root}/CLASS/IMAGE")
    if classes is not None and (strange := [name for name in folders if name not in set(classes)]):
        known = f"{len(classes):,} classes such as '{classes[0]}'"
        raise DataError(
            f"{root} holds {len(strange)} folders that are not a class of {dataset} ({strange[0]}); {known}"
        )
    label_of = {name: label for label, name in enumerate(folders if classes is None else classes)}
    records, empty = [], []
    for name in folders:
        paths = walk_images(root / name, left_out, f"{below}{name}/")
        records += [Record(f"{name}/{path}", label_of[name]) for path in paths]
        if not paths:
            empty.append(name)
    if empty and (classes is None or not records):
        instead = f"; left out: {'; '.join(left_out.lines())}" if left_out else ""
        raise DataError(f"{root}: {len(empty)} class folders hold no images ({empty[0]}); remove or fill them{instead}")
    return Index(dataset, split, "singlelabel", tuple(label_of), root, tuple(records))


def with_contexts(index: Index, where: Literal["below", "above"], classes: Sequence[str] | None = None) -> Index:
    """A tree that was read as one of classes, with a level of contexts below or above them as its images' groups.

    A context below a class that is called CLASS(CONTEXT) is CONTEXT, so that classes share it. `classes` are those of
    the split that trains, where another one was read.

    Raises:
        DataError: an image has no folder of a context, or is of another class.
    """
    rows: list[tuple[str, str, str]] = []
    for record in index.records:
        first, *rest = record.path.split("/")
        if len(rest) < 2:
            levels = "CLASS/CONTEXT" if where == "below" else "CONTEXT/CLASS"
            raise DataError(f"{index.root / record.path} is not in a folder {levels}/; expected by --contexts {where}")
        label, context = (first, rest[0]) if where == "below" else (rest[0], first)
        named = re.fullmatch(rf"{re.escape(label)}\((.+)\)", context)
        rows.append((record.path, label, named[1] if named else context))
    known = tuple(sorted({label for _, label, _ in rows})) if classes is None else tuple(classes)
    if strange := sorted({label for _, label, _ in rows} - {*known}):
        raise DataError(f"{index.root} holds {strange[0]}, which is not a class of the split that trains")
    numbers = {label: number for number, label in enumerate(known)}
    records = tuple(Record(path, numbers[label], group=context) for path, label, context in rows)
    return replace(index, classes=known, records=records)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read SOURCE/SPLIT/CLASS, or SOURCE/CLASS as the only split; the split that trains decides the classes.

    The same below SOURCE/images, where SOURCE/masks holds the objects' masks.
    """
    contexts = options.settings.get("contexts")
    data_root, left_out = folder.parent, Tally()
    source = source / IMAGES if holds_classes_with_masks(source) else source
    splits = [split for split in split_folders(source, options) if split != _within(source, data_root)]
    if not splits:
        options.progress(f"reading {source.name}", 0, 1)
        index = read_class_folders(source, dataset=info.name, left_out=left_out, data_root=data_root)
        read = with_contexts(index, contexts) if contexts else index
        warnings = [] if contexts else _same_folders_inside(source, index.classes)
        return _with_masks(Reading([read], warnings, left_out=left_out))
    left_out.add(BESIDE, *list_folder(source, left_out).files)
    labelled = [split for split in splits if subfolders(source / split)]
    warnings = [f"{split}/ is left out: it holds no class folders" for split in splits if split not in labelled]
    first = assign_roles(labelled, options.train_split, options.val_split).get("train", labelled[0])
    classes: tuple[str, ...] | None = None
    indexes = []
    for done, split in enumerate(sorted(labelled, key=lambda split: split != first)):
        options.progress(f"reading {split}", done, len(labelled))
        known = None if contexts else classes  # folders are contexts, or are looked at with them
        index = read_class_folders(source / split, dataset=info.name, split=split, classes=known, left_out=left_out)
        indexes.append(with_contexts(index, contexts, classes) if contexts else index)
        classes = indexes[0].classes
    return _with_masks(Reading(indexes, [*warnings, *check_counts(info, indexes)], left_out=left_out))


def _same_folders_inside(source: Path, classes: Sequence[str]) -> list[str]:
    """What to say where the folders that were taken for classes may be splits whose names do not tell, or hold
    contexts: all have the same folders inside."""
    first = subfolders(source / classes[0])
    if len(classes) < 2 or len(first) < 2 or any(subfolders(source / name) != first for name in classes[1:]):
        return []
    names, inside = ", ".join(classes[:3]), ", ".join(first[:3])
    return [
        f"{names} are taken for classes, and all hold the same folders ({inside}): where they are splits, say so with "
        "--train-split NAME and --val-split NAME, where these are contexts with --contexts below"
    ]


def _with_masks(reading: Reading) -> Reading:
    """What was read, with the masks that lie beside the images."""
    indexes = numbered(reading.indexes)
    masks = find_masks(indexes, reading.left_out)
    return reading._replace(indexes=indexes, masks=masks) if masks else reading


def split_folders(folder: Path, options: PrepareOptions) -> list[str]:
    """Folders of a folder that are splits: all of them, where any is named like a split and has folders in it or is
    named by a person; none where they are classes."""
    names = subfolders(folder)
    names = [name for name in names if name != masks_among(folder, names)]
    asked = {options.train_split, options.val_split}
    if any(name in asked or (part_named(name, whole=True) and subfolders(folder / name)) for name in names):
        return names
    return []


def _within(folder: Path, data_root: Path | None) -> str | None:
    """Name of the data root in a folder; None where it lies elsewhere."""
    inside = data_root is not None and real_path(data_root).parent == real_path(folder)
    return real_path(data_root).name if data_root is not None and inside else None


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return list_folder(folder, Tally()).folders
