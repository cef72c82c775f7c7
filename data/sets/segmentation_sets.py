"""VOC 2012, Cityscapes, ADE20K and folders of one's own: images beside label maps, read into an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.label_maps import IGNORE, read_label_map
from attnbias.data.reading import read_lines, shown
from attnbias.data.sets.class_folders import subfolders
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing
from attnbias.data.sets.palettes import CITYSCAPES, VOC, ade20k
from attnbias.data.splits import part_named
from attnbias.data.tally import Tally
from attnbias.data.walk import walk_images

TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' label id of each of the 19 classes (Cordts et al., CVPR 2016; labels.py of cityscapesscripts)."""

FROM_LABEL_IDS = tuple(TRAIN_IDS.index(value) if value in TRAIN_IDS else IGNORE for value in range(256))
"""Index.label_values of *_labelIds.png files."""

REDUCED = (IGNORE, *range(254), IGNORE)
"""Index.label_values of a set whose 0 means unlabelled and whose classes count from 1 (ADE20K)."""

OWN = (("images", "labels"), ("images", "annotations"), ("images", "masks"), ("JPEGImages", "SegmentationClass"))
"""Folders of images and of label maps that a set of one's own may have."""

CLASS_LISTS = ("classes.txt", "class_names.txt")


def list_pairs(
    folder: Path, image_suffix: str | None, label_suffix: str, left_out: Tally | None = None
) -> list[tuple[str, str]]:
    """List the images below a folder and the names of their label maps, sorted by path (goldens index_*).

    Paths are relative, and compared as plain strings: upper case comes before lower, "b_10" before "b_9".

    Args:
        image_suffix: what the images' names end in; None: any image.
        left_out: gains what does not count.
    """
    names = sorted(walk_images(folder, Tally() if left_out is None else left_out, f"{folder.name}/"))
    if image_suffix is None:
        return [(name, Path(name).with_suffix(label_suffix).as_posix()) for name in names]
    return [(name, name.removesuffix(image_suffix) + label_suffix) for name in names if name.endswith(image_suffix)]


# VOC 2012 -------------------------------------------------------------------------------------------------------------


def read_voc_segmentation(voc: Path, split: str, *, names: Sequence[str] | None = None) -> Index:
    """Read one split of the folder VOC2012, in the order of ImageSets/Segmentation/SPLIT.txt (or of these names)."""
    names = read_lines(voc / "ImageSets" / "Segmentation" / f"{split}.txt", "image list") if names is None else names
    return Index("voc12seg", split, "segmentation", VOC, voc, tuple(_voc_record(name) for name in names))


def prepare_voc(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read train and val, and train_aug where SBD's label maps are there.

    The source may be VOC2012 itself, VOCdevkit, or the folder above it. SBD's are PNG files in SegmentationClassAug,
    listed in aug.txt or trainaug.txt, or those of its own release, benchmark_RELEASE, in one of these folders.
    """
    locations = [source, source / "VOC2012", source / "VOCdevkit" / "VOC2012"]
    lists = first_existing([location / "ImageSets" / "Segmentation" for location in locations])
    if lists is None:
        raise DataError(f"{source} holds no VOC2012/ImageSets/Segmentation; expected {info.layout}")
    voc = lists.parent.parent
    train, val = (read_voc_segmentation(voc, split) for split in ("train", "val"))
    release = first_existing(
        [location / "benchmark_RELEASE" / "dataset" / "cls" for location in (source, voc.parent, voc)]
    )
    augmented = _augmented(train, val, release)
    indexes = [train, *([augmented] if augmented is not None else []), val]
    return Reading(indexes, check_counts(info, indexes))


def _augmented(train: Index, val: Index, release: Path | None) -> Index | None:
    """The training images, then those that only SBD labels (Hariharan et al., ICCV 2011); never one of val."""
    voc = train.root
    listed = first_existing([voc / "ImageSets" / "Segmentation" / f"{name}.txt" for name in ("aug", "trainaug")])
    if listed is not None:  # a line may also name both files, "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png"
        lines = read_lines(listed, "image list")
        added = [_voc_record(Path(line.split()[0]).stem, "SegmentationClassAug") for line in lines]
    elif release is not None:
        labels = os.path.relpath(release, voc)
        added = [_voc_record(path.stem, labels, ".mat") for path in sorted(release.glob("*.mat"))]
    else:
        return None
    known = {record.path for record in (*train.records, *val.records)}
    records = (*train.records, *(record for record in added if record.path not in known))
    return replace(train, split="train_aug", records=records)


def _voc_record(name: str, labels: str = "SegmentationClass", suffix: str = ".png") -> Record:
    return Record(f"JPEGImages/{name}.jpg", 0, label_map=f"{labels}/{name}{suffix}")


# Cityscapes -----------------------------------------------------------------------------------------------------------


def read_cityscapes(root: Path, split: str) -> Index:
    """Read one split of Cityscapes, from *_labelTrainIds.png, or from *_labelIds.png where more images have those."""
    images, labels = f"leftImg8bit/{split}", f"gtFine/{split}"
    as_classes, as_ids = (
        list_pairs(root / images, "_leftImg8bit.png", f"_gtFine_{kind}.png") for kind in ("labelTrainIds", "labelIds")
    )
    there = [sum((root / labels / label).is_file() for _, label in found) for found in (as_classes, as_ids)]
    found, values = (as_ids, FROM_LABEL_IDS) if there[1] > there[0] else (as_classes, None)
    records = tuple(Record(f"{images}/{name}", 0, label_map=f"{labels}/{label}") for name, label in found)
    return Index("cityscapes", split, "segmentation", tuple(CITYSCAPES), root, records, label_values=values)


def prepare_cityscapes(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read leftImg8bit/{train,val} and gtFine/{train,val}; the test split has no label maps."""
    return _tree(info, source, {"train": "leftImg8bit/train", "val": "leftImg8bit/val"}, read_cityscapes)


# ADE20K ---------------------------------------------------------------------------------------------------------------


def read_ade20k(root: Path, split: str) -> Index:
    """Read one split of ADE20K's scene parsing benchmark, below its folder ADEChallengeData2016."""
    images, labels = (
        f"{kind}/{'training' if split == 'train' else 'validation'}" for kind in ("images", "annotations")
    )
    records = tuple(
        Record(f"{images}/{name}", 0, label_map=f"{labels}/{label}")
        for name, label in list_pairs(root / images, ".jpg", ".png")
    )
    return Index("ade20k", split, "segmentation", tuple(ade20k()), root, records, label_values=REDUCED)


def prepare_ade20k(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read images/{training,validation} and annotations/{training,validation}, perhaps below ADEChallengeData2016."""
    below = source / "ADEChallengeData2016"
    source = below if below.is_dir() else source
    return _tree(info, source, {"train": "images/training", "val": "images/validation"}, read_ade20k)


def _tree(info: DatasetInfo, source: Path, folders: dict[str, str], read: Callable[[Path, str], Index]) -> Reading:
    """Read the splits whose folder of images is there."""
    splits = [split for split, folder in folders.items() if (source / folder).is_dir()]
    if not splits:
        raise DataError(f"{source} holds no {' and no '.join(folders.values())}; expected {info.layout}")
    indexes = [read(source, split) for split in splits]
    for index in indexes:
        if not index.records:
            raise DataError(f"{source / folders[index.split]} holds no images; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes))


# One's own ------------------------------------------------------------------------------------------------------------


def own_folders(source: Path) -> tuple[str, str] | None:
    """Folders of images and of label maps in a folder of one's own; None where it is not such a set."""
    for images, labels in OWN:
        if (source / images).is_dir() and next((source / labels).rglob("*.png"), None) is not None:
            return images, labels
    return None


def prepare_own(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read IMAGES/[SPLIT/]**/NAME.jpg with LABELS/[SPLIT/]**/NAME.png; see `OWN` for the folders' names.

    classes.txt (or class_names.txt) names the classes, one a line from 0 on; without it they are numbered. Images
    without label map are left out.
    """
    folders = own_folders(source)
    assert folders is not None
    images, labels = folders
    asked = {options.train_split, options.val_split}
    inside = subfolders(source / images)
    if not any(name in asked or part_named(name, whole=True) is not None for name in inside):
        inside = []
    unlabelled = [name for name in inside if not (source / labels / name).is_dir()]
    warnings = [f"{images}/{name} is left out: there is no {labels}/{name}" for name in unlabelled]
    indexes, left_out = [], Tally()
    for split, below in [(name, f"/{name}") for name in inside if name not in unlabelled] or [("train", "")]:
        found = list_pairs(source / (images + below), None, ".png", left_out)
        there = {pair: (source / (labels + below) / pair[1]).is_file() for pair in found}
        kept = [pair for pair in found if there[pair]]
        if not kept:
            raise DataError(f"no image of {source / (images + below)} has a label map in {source / (labels + below)}")
        left_out.add("image without a label map", *(f"{images}{below}/{pair[0]}" for pair in found if not there[pair]))
        records = tuple(
            Record(f"{images}{below}/{name}", 0, label_map=f"{labels}{below}/{label}") for name, label in kept
        )
        indexes.append(Index(info.name, split, "segmentation", (), source, records))
    classes = _own_classes(source, indexes, options)
    return Reading([replace(index, classes=classes) for index in indexes], warnings, left_out=left_out)


def listed_classes(source: Path) -> tuple[str, ...] | None:
    """The classes that classes.txt (or class_names.txt) in a folder names, one a line from 0 on; None without it.

    Raises:
        DataError: it is not a list, or names one twice.
    """
    listed = first_existing([source / name for name in CLASS_LISTS])
    if listed is None:
        return None
    names = read_lines(listed, "list of classes")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"list of classes {listed} names {shown(twice)} twice; give each class its own name")
    return tuple(names)


def _own_classes(source: Path, indexes: Sequence[Index], options: PrepareOptions) -> tuple[str, ...]:
    """The names in classes.txt, else numbers up to the largest one that occurs."""
    if (names := listed_classes(source)) is not None:
        return names
    files = [source / str(record.label_map) for index in indexes for record in index.records]
    largest = 0
    for done, file in enumerate(files):
        options.progress("reading label maps", done, len(files))
        values = read_label_map(file)
        largest = max(largest, int(values[values != IGNORE].max(initial=0)))
    if largest == 0:
        raise DataError(
            f"the label maps of {source} hold no class but 0: 255 means 'does not count'; number the classes 0, 1, ..."
        )
    return tuple(f"class {number}" for number in range(largest + 1))
