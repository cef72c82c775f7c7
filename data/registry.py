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
    into: str = ""
    """Folder, below the set's own, that its members go to."""
    nested: bool = False
    """Its members are tar files, each to be unpacked into a folder of its name."""


@dataclass(frozen=True)
class DatasetFacts:
    """What is known about one dataset before anything is on disk."""

    name: str
    title: str
    task: Literal["multilabel", "singlelabel"]
    classes: str
    """How many classes, or how they are found."""
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
    """`module:function` that reads it, imported when it is needed."""
    layout: str = ""
    """What the source folder must hold."""
    page: str = ""
    """Where it is described, and registered for where that is asked."""
    archives: tuple[Archive, ...] = ()
    unpack: bool = True
    """Archives are unpacked; False: pictures are read out of them."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples that each split of the official set has."""


_COCO = "http://images.cocodataset.org/"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"
_PLACES = "http://data.csail.mit.edu/places/places365/"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks/"
_ZENODO = "https://zenodo.org/record/2235448/files/"
_CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost", "gaussian_noise", "glass_blur"),
    *("impulse_noise", "jpeg_compression", "motion_blur", "pixelate", "shot_noise", "snow", "zoom_blur"),
)
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
            Archive("https://drive.google.com/open?id=0B-PXtfvNMLanWEVCaHZnR0RHSlE", "wider_attribute_image.tgz"),
        ),
        counts={"trainval": 28_345, "test": 29_179},
    ),
    DatasetFacts(
        name="voc12",
        title="PASCAL VOC 2012, classes and boxes of its pictures",
        task="multilabel",
        classes="20",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        licence="Flickr's terms, research",
        size="2 GB",
        prepare="attnbias.data.voc:prepare",
        layout="VOC2012/{JPEGImages,Annotations,ImageSets/Main}",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        archives=(
            Archive(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "VOCtrainval_11-May-2012.tar",
                None,
                "md5",
                "6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
        counts={"train": 5_717, "val": 5_823},
    ),
    DatasetFacts(
        name="cifar10",
        title="CIFAR-10, 32 x 32 pixels",
        task="singlelabel",
        classes="10",
        splits=("train", "test"),
        train="train",
        val="test",
        acquisition="auto",
        licence="none stated; cite Krizhevsky 2009",
        size="0.2 GB",
        prepare="attnbias.data.cifar:prepare",
        layout="cifar-10-python.tar.gz, or train/CLASS/ and test/CLASS/ of pictures",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                _TORONTO + "cifar-10-python.tar.gz",
                "cifar-10-python.tar.gz",
                None,
                "md5",
                "c58f30108f718f92721af3b95e74349a",
            ),
        ),
        unpack=False,
        counts={"train": 50_000, "test": 10_000},
    ),
    DatasetFacts(
        name="cifar100",
        title="CIFAR-100, 32 x 32 pixels",
        task="singlelabel",
        classes="100",
        splits=("train", "test"),
        train="train",
        val="test",
        acquisition="auto",
        licence="none stated; cite Krizhevsky 2009",
        size="0.2 GB",
        prepare="attnbias.data.cifar:prepare",
        layout="cifar-100-python.tar.gz, or train/CLASS/ and test/CLASS/ of pictures",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                _TORONTO + "cifar-100-python.tar.gz",
                "cifar-100-python.tar.gz",
                None,
                "md5",
                "eb9058c3a382ffc7106e4002c42a8d85",
            ),
        ),
        unpack=False,
        counts={"train": 50_000, "test": 10_000},
    ),
    DatasetFacts(
        name="stl10",
        title="STL-10, 96 x 96 pixels (its labelled splits)",
        task="singlelabel",
        classes="10",
        splits=("train", "test"),
        train="train",
        val="test",
        acquisition="auto",
        licence="ImageNet's terms: non-commercial",
        size="2.7 GB",
        prepare="attnbias.data.cifar:prepare",
        layout="stl10_binary.tar.gz, or train/CLASS/ and test/CLASS/ of pictures",
        page="https://cs.stanford.edu/~acoates/stl10/",
        archives=(
            Archive(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "stl10_binary.tar.gz",
                None,
                "md5",
                "91f7769df0f17e558f3565bffb0c7dfb",
            ),
        ),
        unpack=False,
        counts={"train": 5_000, "test": 8_000},
    ),
    DatasetFacts(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        task="singlelabel",
        classes="1000",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="manual",
        licence="account, non-commercial research",
        size="155 GB",
        prepare="attnbias.data.imagenet:prepare",
        layout="train/SYNSET/ and val/SYNSET/ of pictures",
        page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        archives=(
            Archive(
                "",
                "ILSVRC2012_img_train.tar",
                147_897_477_120,
                "sha256",
                "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
                into="train",
                nested=True,
            ),
            Archive(
                "",
                "ILSVRC2012_img_val.tar",
                6_744_924_160,
                "sha256",
                "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
                into="val",
            ),
            Archive("", "ILSVRC2012_devkit_t12.tar.gz", None, "md5", "fa75699e90414af021442c21a62c3abf"),
        ),
        counts={"train": 1_281_167, "val": 50_000},
    ),
    DatasetFacts(
        name="imagenet-c",
        title="ImageNet-C: 15 corruptions in 5 severities, one split each",
        task="singlelabel",
        classes="1000",
        splits=tuple(f"{corruption}-{severity}" for corruption in _CORRUPTIONS for severity in range(1, 6)),
        train=None,
        val="brightness-1",
        acquisition="auto",
        licence="CC BY 4.0, pictures under ImageNet's terms",
        size="75 GB",
        prepare="attnbias.data.imagenet:prepare_corruptions",
        layout="CORRUPTION/{1..5}/SYNSET/ of pictures, perhaps below blur/ digital/ noise/ weather/",
        page="https://zenodo.org/record/2235448",
        archives=tuple(
            Archive(f"{_ZENODO}{group}.tar", f"{group}.tar", None, "md5", digest)
            for group, digest in (
                ("blur", "2d8e81fdd8e07fef67b9334fa635e45c"),
                ("digital", "89157860d7b10d5797849337ca2e5c03"),
                ("noise", "e80562d7f6c3f8834afb1ecf27252745"),
                ("weather", "33ffea4db4d93fe4a428c40a6ce0c25d"),
            )
        ),
        counts={f"{corruption}-{severity}": 50_000 for corruption in _CORRUPTIONS for severity in range(1, 6)},
    ),
    DatasetFacts(
        name="imagenet-a",
        title="ImageNet-A: natural adversarial pictures of 200 of the classes",
        task="singlelabel",
        classes="1000, of which 200 occur",
        splits=("val",),
        train=None,
        val="val",
        acquisition="auto",
        licence="pictures under their owners' terms",
        size="0.7 GB",
        prepare="attnbias.data.imagenet:prepare_renditions",
        layout="imagenet-a/SYNSET/ of pictures",
        page="https://github.com/hendrycks/natural-adv-examples",
        archives=(
            Archive(
                _BERKELEY + "imagenet-a.tar",
                "imagenet-a.tar",
                687_552_512,
                "sha256",
                "3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
            ),
        ),
        counts={"val": 7_500},
    ),
    DatasetFacts(
        name="imagenet-r",
        title="ImageNet-R: renditions of 200 of the classes",
        task="singlelabel",
        classes="1000, of which 200 occur",
        splits=("val",),
        train=None,
        val="val",
        acquisition="auto",
        licence="pictures under their owners' terms",
        size="2.2 GB",
        prepare="attnbias.data.imagenet:prepare_renditions",
        layout="imagenet-r/SYNSET/ of pictures",
        page="https://github.com/hendrycks/imagenet-r",
        archives=(
            Archive(
                _BERKELEY + "imagenet-r.tar",
                "imagenet-r.tar",
                2_191_079_936,
                "sha256",
                "18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
            ),
        ),
        counts={"val": 30_000},
    ),
    DatasetFacts(
        name="imagenet-sketch",
        title="ImageNet-Sketch: drawings of the 1000 classes",
        task="singlelabel",
        classes="1000",
        splits=("val",),
        train=None,
        val="val",
        acquisition="manual",
        licence="research",
        size="7 GB",
        prepare="attnbias.data.imagenet:prepare_renditions",
        layout="sketch/SYNSET/ of pictures",
        page="https://github.com/HaohanWang/ImageNet-Sketch",
        archives=(
            Archive("https://drive.google.com/open?id=1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA", "ImageNet-Sketch.zip"),
        ),
        counts={"val": 50_889},
    ),
    DatasetFacts(
        name="places365",
        title="Places365-Standard, 256-pixel pictures",
        task="singlelabel",
        classes="365",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        licence="non-commercial research",
        size="25 GB",
        prepare="attnbias.data.places:prepare",
        layout="the official lists with data_256/ and val_256/, or train/CLASS/ and val/CLASS/ of pictures",
        page="http://places2.csail.mit.edu/download.html",
        archives=tuple(
            Archive(_PLACES + file, file, None, "md5", digest)
            for file, digest in (
                ("train_256_places365standard.tar", "53ca1c756c3d1e7809517cc47c5561c5"),
                ("val_256.tar", "e27b17d8d44f4af9a78502beb927f808"),
                ("filelist_places365-standard.tar", "35a0585fee1fa656440f3ab298f8479c"),
            )
        ),
        counts={"train": 1_803_460, "val": 36_500},
    ),
    DatasetFacts(
        name="inat2018",
        title="iNaturalist 2018: species",
        task="singlelabel",
        classes="8142",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        licence="non-commercial research",
        size="120 GB",
        prepare="attnbias.data.inaturalist:prepare",
        layout="train2018.json, val2018.json and train_val2018/",
        page="https://github.com/visipedia/inat_comp/tree/master/2018",
        archives=(
            Archive(
                _INAT + "train_val2018.tar.gz",
                "train_val2018.tar.gz",
                None,
                "md5",
                "b1c6952ce38f31868cc50ea72d066cc3",
            ),
            Archive(_INAT + "train2018.json.tar.gz", "train2018.json.tar.gz"),
            Archive(_INAT + "val2018.json.tar.gz", "val2018.json.tar.gz"),
        ),
        counts={"train": 437_513, "val": 24_426},
    ),
)

DATASETS: Mapping[str, DatasetFacts] = MappingProxyType({facts.name: facts for facts in _ENTRIES})


def dataset_folder(name_or_path: str, root: Path | None = None) -> Path:
    """Folder of a dataset's prepared files: DATA_ROOT/NAME, or for a path itself or what was prepared from it."""
    path = Path(name_or_path)
    if name_or_path in DATASETS or not ("/" in name_or_path or (path / MANIFEST).is_file() or path.is_file()):
        return data_root(root) / name_or_path
    prepared = data_root(root) / path.stem
    source = Prepared.read(prepared).source if is_ready(prepared) else None
    return prepared if source is not None and Path(source).resolve() == path.resolve() else path


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
        source = {"generated": "", "auto": " --download (or --source DIR)", "manual": " --source DIR"}[
            facts.acquisition
        ]
        place = f" --root {root}" if root is not None else ""
        raise DataError(
            f"dataset '{name_or_path}' is not prepared in {folder}; "
            f"run: attnbias prepare-data {name_or_path}{place}{source}"
        )
    if "/" in name_or_path or folder.is_dir():
        mend = f"; run: attnbias prepare-data {name_or_path}" if folder.exists() else ""
        raise DataError(f"{folder} is no prepared dataset: it holds no {MANIFEST}{mend}")
    near = difflib.get_close_matches(name_or_path, DATASETS, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise DataError(f"unknown dataset '{name_or_path}'{hint}; see: attnbias list datasets")
