"""Places365-Standard: the official lists, whose flat validation folder gets its classes without moving an image."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import read_lines, whole_number
from attnbias.data.sets.class_folders import prepare as prepare_class_folders
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing

CATEGORIES = "categories_places365.txt"
LISTS = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
FOLDERS = {
    "train": ("data_256_standard", "data_256", "data_large_standard", "data_large"),
    "val": ("val_256", "val_large"),
}
"""Where the archives of each split put its images, the 256-pixel ones first; torchvision adds "_standard"."""


def read_places(root: Path, split: str, *, dataset: str = "places365") -> Index:
    """Read one split by its official list, in the list's order.

    Args:
        root: the folder with categories_places365.txt, the lists and the folders of images.
        split: "train" or "val".

    Raises:
        DataError: a file or the images' folder is missing, or a line is not what it should be.
    """
    images = first_existing([root / name for name in FOLDERS[split]])
    if images is None:
        raise DataError(f"{root} holds no images of split '{split}'; expected {' or '.join(FOLDERS[split])}")
    names = {label: name for name, label in _lines(root / CATEGORIES)}
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{root / CATEGORIES} does not number its classes from 0")
    classes = tuple(names[label].removeprefix("/a/") for label in range(len(names)))
    records = []
    for name, label in _lines(root / LISTS[split]):
        if label not in names:
            raise DataError(f"{root / LISTS[split]}: {name} has class {label}, of {len(names)}")
        records.append(Record(name.lstrip("/"), label))
    return Index(dataset, split, "singlelabel", classes, images, tuple(records))


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the official lists where they are, else train/CLASS and val/CLASS."""
    if not (source / CATEGORIES).is_file():
        return prepare_class_folders(info, source, folder, options)
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {LISTS[split]}", done, len(info.splits))
        if first_existing([source / name for name in FOLDERS[split]]) is not None:
            indexes.append(read_places(source, split, dataset=info.name))
    if not indexes:
        raise DataError(f"{source} holds no images; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes))


def _lines(path: Path) -> list[tuple[str, int]]:
    """Lines of a name and a class number."""
    try:
        pairs = [line.rsplit(maxsplit=1) for line in read_lines(path, "list")]
        return [(name, whole_number(label)) for name, label in pairs]
    except ValueError as error:
        raise DataError(f"list {path} is damaged ({error})") from None
