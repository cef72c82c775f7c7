"""NUS-WIDE: Flickr's images under 81 concepts, which people checked."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record, collector_paused
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import read_lines
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing

LISTED = {"train": "Train", "test": "Test"}
"""Split -> the word in the names of its files."""


@collector_paused()
def read_nuswide(source: Path, split: str, *, dataset: str = "nuswide") -> Index:
    """Read one split in the order of its list. The concepts are in the order of their names; images without any stay.

    Args:
        source: holds ImageList/, Groundtruth/TrainTestLabels/ and Flickr/.
        split: train or test.

    Raises:
        DataError: a list is missing, or has not one line for each image.
    """
    word, truth = LISTED[split], source / "Groundtruth" / "TrainTestLabels"
    listed = read_lines(source / "ImageList" / f"{word}Imagelist.txt", "list of images")
    names = [line.replace("\\", "/") for line in listed]
    ending = f"_{word}.txt"
    files = {path.name.removeprefix("Labels_").removesuffix(ending): path for path in truth.glob(f"Labels_*{ending}")}
    if not files:
        raise DataError(f"{truth} holds no Labels_CONCEPT_{word}.txt")
    classes = tuple(sorted(files))
    columns = [read_lines(files[name], "list of labels") for name in classes]
    for name, column in zip(classes, columns, strict=True):
        if len(column) != len(names) or not {*column} <= {"0", "1"}:
            raise DataError(f"{files[name]} is not a line of 0 or 1 for each of {len(names):,} images of {split}")
    images = first_existing([source / "Flickr", source / "images"])
    if images is None:
        raise DataError(f"{source} holds no Flickr/ of images")
    targets = zip(*(map(int, column) for column in columns), strict=True)
    records = tuple(Record(path, target) for path, target in zip(names, targets, strict=True))
    return Index(dataset, split, "multilabel", classes, images, records)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read both splits of the official lists."""
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {split}", done, len(info.splits))
        indexes.append(read_nuswide(source, split, dataset=info.name))
    if indexes[0].classes != indexes[1].classes:
        raise DataError(f"{source}: the labels of train and of test are of different concepts")
    return Reading(indexes, check_counts(info, indexes))


ENTRIES = (
    DatasetInfo(
        name="nuswide",
        title="NUS-WIDE",
        task="multilabel",
        classes=81,
        classes_note="concepts, in the order of their names",
        splits=("train", "test"),
        train="train",
        val="test",
        acquisition="manual",
        citation=(
            "Chua et al.: NUS-WIDE: A Real-World Web Image Database from National University of Singapore, CIVR 2009"
        ),
        licence="lists for research; images under Flickr's terms",
        size="10 GB",
        prepare="attnbias.data.catalogue.nuswide:prepare",
        layout="ImageList/{Train,Test}Imagelist.txt, Groundtruth/TrainTestLabels/Labels_CONCEPT_{Train,Test}.txt and "
        "Flickr/FOLDER/ of images",
        page="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
        counts={"train": 161_789, "test": 107_859},
    ),
)
