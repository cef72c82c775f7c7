"""The one table of datasets: every fact about each, and where its prepared splits are opened.

Facts are plain values and nothing heavy is imported, because `attnbias list datasets` and shell completion read them.
A new dataset is one entry here and one module with its `prepare` function (its type is `Preparer` in data/prepare.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.prepared import MANIFEST, Prepared, data_root, is_ready


@dataclass(frozen=True)
class Archive:
    """One file to fetch. Where no checksum is published, the first one seen is recorded and compared afterwards."""

    url: str
    file: str
    size: int | None = None
    """In bytes."""
    algorithm: Literal["md5", "sha1", "sha256"] | None = None
    digest: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What is known about one dataset before anything is on disk."""

    name: str
    title: str
    task: Literal["multilabel", "singlelabel"]
    classes: str
    """How many classes, or how they are found."""
    splits: tuple[str, ...]
    train: str
    """The split that training reads."""
    val: str
    """The split that evaluation reads."""
    acquisition: Literal["generated", "auto", "manual"]
    """Made here, may be downloaded by the tool, or registered for by the user."""
    licence: str
    size: str
    """What it takes on disk, for people."""
    prepare: str
    """`module:function` that reads it, imported when it is needed."""
    layout: str = ""
    """What the source folder must hold."""
    page: str = ""
    """Where it is described, and registered for where that is asked."""
    archives: tuple[Archive, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples that each split of the official set has."""


_COCO = "http://images.cocodataset.org/"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"
_DEMO_LICENCE = "digits CC BY 4.0 (UCI); photographs CC0, public domain or CC BY 2.0, named in the annotation files"

_ENTRIES = (
    DatasetFacts(
        name="demo",
        title="Contextual-bias scenes: handwritten digits on photographs that give the digit away",
        task="multilabel",
        classes="10",
        splits=("train", "val", "counter", "unbiased", "counter_context", "counter_cooccur"),
        train="train",
        val="val",
        acquisition="generated",
        licence=_DEMO_LICENCE,
        size="20 MB",
        prepare="attnbias.data.demo:prepare",
    ),
    DatasetFacts(
        name="demo-single",
        title="The same scenes with one labelled digit a picture",
        task="singlelabel",
        classes="10",
        splits=("train", "val", "counter", "unbiased"),
        train="train",
        val="val",
        acquisition="generated",
        licence=_DEMO_LICENCE,
        size="15 MB",
        prepare="attnbias.data.demo:prepare",
    ),
    DatasetFacts(
        name="coco",
        title="MS-COCO 2014 (or any folder in COCO layout)",
        task="multilabel",
        classes="80 (from the annotation file)",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        licence="annotations CC BY 4.0; pictures under Flickr's terms",
        size="20 GB",
        prepare="attnbias.data.coco:prepare",
        layout="annotations/instances_{train,val}2014.json and images/{train2014,val2014}/",
        page="https://cocodataset.org",
        archives=(
            Archive(
                _COCO + "zips/train2014.zip",
                "train2014.zip",
                13_510_573_713,
                "sha256",
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            ),
            Archive(
                _COCO + "zips/val2014.zip",
                "val2014.zip",
                6_645_013_297,
                "sha256",
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
            Archive(
                _COCO + "annotations/annotations_trainval2014.zip",
                "annotations_trainval2014.zip",
                252_872_794,
                "sha256",
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            ),
        ),
        counts={"train": 82_783, "val": 40_504},
    ),
    DatasetFacts(
        name="voc07",
        title="PASCAL VOC 2007 classification",
        task="multilabel",
        classes="20",
        splits=("trainval", "test"),
        train="trainval",
        val="test",
        acquisition="auto",
        licence="Flickr's terms, research",
        size="0.9 GB",
        prepare="attnbias.data.voc:prepare",
        layout="VOC2007/{JPEGImages,Annotations,ImageSets/Main}, the test annotations merged in",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        archives=(
            Archive(
                _VOC + "VOCtrainval_06-Nov-2007.tar",
                "VOCtrainval_06-Nov-2007.tar",
                None,
                "md5",
                "c52e279531787c972589f7e41ab4ae64",
            ),
            Archive(
                _VOC + "VOCtest_06-Nov-2007.tar",
                "VOCtest_06-Nov-2007.tar",
                None,
                "md5",
                "b6e924de25625d8de591ea690078ad9f",
            ),
        ),
        counts={"trainval": 5_011, "test": 4_952},
    ),
    DatasetFacts(
        name="wider",
        title="WIDER-Attribute: 14 attributes of one person a sample",
        task="multilabel",
        classes="14",
        splits=("trainval", "test"),
        train="trainval",
        val="test",
        acquisition="manual",
        licence="non-commercial research",
        size="4 GB",
        prepare="attnbias.data.wider:prepare",
        layout="Annotations/wider_attribute_{trainval,test}.json and Image/{train,val,test}/",
        page="http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html",
        archives=(
            Archive(
                "http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute_files/wider_attribute_annotation.zip",
                "wider_attribute_annotation.zip",
            ),
        ),
        counts={"trainval": 28_345, "test": 29_179},
    ),
)

DATASETS: Mapping[str, DatasetFacts] = MappingProxyType({facts.name: facts for facts in _ENTRIES})


def dataset_folder(name_or_path: str, root: Path | None = None) -> Path:
    """Folder of a dataset's prepared files: DATA_ROOT/NAME, or the path itself where it is one."""
    if name_or_path not in DATASETS and (("/" in name_or_path) or (Path(name_or_path) / MANIFEST).is_file()):
        return Path(name_or_path)
    return data_root(root) / name_or_path


def ready(name_or_path: str, root: Path | None = None) -> bool:
    """Whether a dataset can be read: its manifest and all its index files are there."""
    return is_ready(dataset_folder(name_or_path, root))


def open_split(name_or_path: str, split: str, root: Path | None = None) -> Index:
    """Read one split of a prepared dataset.

    Args:
        name_or_path: a dataset's name, or a prepared folder of one's own.
        split: a split's own name, or its role: "train" or "val".
        root: DATA_ROOT; None = $ATTNBIAS_DATA, else ./datasets.

    Raises:
        DataError: unknown, not prepared, or damaged; the message says what to run.
    """
    folder = dataset_folder(name_or_path, root)
    try:
        return Prepared.read(folder).open(folder, split)
    except FileNotFoundError:
        pass
    facts = DATASETS.get(name_or_path)
    if facts is not None:
        source = "" if facts.acquisition == "generated" else " --source DIR"
        place = f" --root {root}" if root is not None else ""
        raise DataError(
            f"dataset '{name_or_path}' is not prepared in {folder}; "
            f"run: attnbias prepare-data {name_or_path}{source}{place}"
        )
    if "/" in name_or_path or folder.is_dir():
        raise DataError(f"{folder} is no prepared dataset: it holds no {MANIFEST}")
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise DataError(f"unknown dataset '{name_or_path}'{hint}; see: attnbias list datasets")
