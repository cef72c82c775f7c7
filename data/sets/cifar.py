"""CIFAR-10, CIFAR-100 and STL-10: an index has the archive itself as its root and the image's number as its path."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.archived import read_archive
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.sets.class_folders import prepare as prepare_class_folders
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts


def read_archive_index(archive: Path, split: str, *, dataset: str) -> Index:
    """Read one split's index: the archive as root, images by their number in it."""
    content = read_archive(archive, split)
    records = tuple(Record(str(number), int(label)) for number, label in enumerate(content.labels))
    return Index(dataset, split, "singlelabel", content.classes, archive, records)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the set's archive where SOURCE holds it, else train/CLASS and val/CLASS or test/CLASS of images."""
    archive = source / info.archives[0].file
    if not archive.is_file():
        return prepare_class_folders(info, source, folder, options)
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {archive.name}", done, len(info.splits))
        indexes.append(read_archive_index(archive, split, dataset=info.name))
    return Reading(indexes, check_counts(info, indexes))
