"""Images of one's own: what kind of set a folder or a file is, told by what it holds."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Task
from attnbias.data.info import DatasetInfo
from attnbias.data.names import TABLES, own_name, unfit_name
from attnbias.data.registry import DATASETS
from attnbias.data.sets.coco import read_coco, with_label_maps
from attnbias.data.sets.contract import PrepareOptions, Reading, chosen_settings, first_existing
from attnbias.data.sets.csv_table import names_images, tables_in
from attnbias.data.sets.mask_folders import MASKS, holds_classes_with_masks
from attnbias.data.sets.segmentation_sets import own_folders
from attnbias.data.walk import is_image

KINDS: dict[str, tuple[str, Task, str]] = {
    "coco": ("images with boxes in COCO layout", "multilabel", "attnbias.data.sets.coco:prepare"),
    "json": ("images with boxes listed in a COCO file", "multilabel", "attnbias.data.own:prepare_json"),
    "csv": ("images listed in a CSV table", "multilabel", "attnbias.data.sets.csv_table:prepare"),
    "label maps": ("images with label maps", "segmentation", "attnbias.data.sets.segmentation_sets:prepare_own"),
    "shards": ("images in WebDataset shards", "singlelabel", "attnbias.data.sets.webdataset:prepare"),
    "folders": ("images in a folder for each class", "singlelabel", "attnbias.data.sets.class_folders:prepare"),
}

SETTINGS: dict[str, dict[str, None]] = {"coco": {"masks": None}, "json": {"masks": None}, "folders": {"contexts": None}}
"""What a person may set of a kind beside the orientation."""


def holds_shards(path: Path) -> bool:
    """Whether a folder, or one in it, holds tar files."""
    return any(file.is_file() for pattern in ("*.tar*", "*/*.tar*", "*.tgz", "*/*.tgz") for file in path.glob(pattern))


def own_info(path: Path, name: str | None = None, in_place: bool = False) -> DatasetInfo:
    """What is known of a set of one's own, named after its folder or file unless a `name` is given.

    A .json file is a COCO instances file, a .csv or .tsv file a table; a folder is one in COCO layout, one with
    images and label maps in folders side by side, one with a single table in it, or one with a folder for each class.
    masks/ beside images/ holds label maps, unless a table or the folders in images/ tell the classes. One that is to be
    read `in_place` holds shards.

    Raises:
        DataError: nothing is there, its name is that of a known dataset, or it holds shards that are not read in place.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; expected a folder of images, a .csv or a .json file")
    name = own_name(path) if name is None else name
    if reason := unfit_name(name):
        raise DataError(f"a dataset cannot be called {name[:50]!r}: the name {reason}; choose one with --name NAME")
    path = path.absolute()
    if name.casefold() in DATASETS:
        known = f"attnbias prepare-data {name.casefold()} --source {path}"
        raise DataError(f"'{name}' is the name of a known dataset; call yours otherwise with --name, or run: {known}")
    kind = _kind(path, in_place)
    title, task, prepare = KINDS[kind]
    return DatasetInfo(
        name=name,
        title=f"{path.name}, {title}",
        task=task,
        classes=None,
        classes_note="the files tell",
        splits=(),
        train="train",
        val="val",
        acquisition="manual",
        licence="one's own",
        size="",
        prepare=prepare,
        orientation="upright",
        settings={"orientation": None, **SETTINGS.get(kind, {})},
    )


def _kind(path: Path, in_place: bool) -> str:
    """Which of `KINDS` a set is.

    Raises:
        DataError: it is none, or holds shards that are not read in place.
    """
    if path.is_file():
        kind = {**dict.fromkeys(TABLES, "csv"), ".json": "json"}.get(path.suffix.lower())
        if kind is None:
            raise DataError(f"{path} is neither a folder, nor a .csv, nor a .json file")
        return kind
    if in_place:
        return "shards"
    if any(path.glob("annotations/instances_*.json")):
        return "coco"
    if (pair := own_folders(path)) is not None and not (pair[1] == MASKS and _classes_are_told(path)):
        return "label maps"
    if len(tables_in(path)) == 1:
        return "csv"
    if holds_shards(path) and not any(is_image(file.name) for file in path.rglob("*")):
        raise DataError(f"{path} holds shards (.tar) in place of images; add --in-place to read them as they lie")
    return "folders"


def _classes_are_told(path: Path) -> bool:
    """Whether what lies in masks/ are objects of images that have their labels from elsewhere."""
    tables = tables_in(path)
    return names_images(tables[0]) if len(tables) == 1 else holds_classes_with_masks(path)


def prepare_json(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read one COCO instances file; its images stand beside it, or in images/ there or one folder up."""
    index = read_coco(source, source.parent, dataset=info.name)
    locations = [source.parent, source.parent / "images", source.parent.parent / "images", source.parent.parent]
    if index.records:
        found = first_existing([location / index.records[0].path for location in locations])
        if found is None:
            whole = source.parent.parent
            mend = f"; prepare the whole folder: {whole}" if (whole / "images").is_dir() else ""
            raise DataError(f"{source} names {index.records[0].path}, found neither beside it nor in images/{mend}")
        root = next(location for location in locations if location / index.records[0].path == found)
        index = read_coco(source, root, dataset=info.name)
    settings = chosen_settings(info, options)
    return Reading([with_label_maps(index, settings["masks"]) if "masks" in settings else index], settings=settings)
