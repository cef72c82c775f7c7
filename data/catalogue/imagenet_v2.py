"""ImageNet-V2: a second test set of ImageNet's classes, collected as the first one was."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import Archive, DatasetInfo
from attnbias.data.reading import is_whole_number
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts
from attnbias.data.tally import Tally
from attnbias.data.walk import list_folder, walk_images

VARIANTS = ("matched-frequency", "threshold0.7", "top-images")
"""How the images of a class were chosen; each is a split."""
_HUB = "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"


def read_variant(root: Path, split: str, left_out: Tally, *, dataset: str = "imagenet-v2") -> Index:
    """Read ROOT/NUMBER/IMAGE, where a folder is called after the number of its class.

    Raises:
        DataError: a folder is not the number of one of ImageNet's classes, or there are no images.
    """
    from attnbias.data.sets.imagenet import class_names

    classes = class_names()
    folders = list_folder(root, left_out).folders
    if strange := [name for name in folders if not (is_whole_number(name) and int(name) < len(classes))]:
        raise DataError(f"{root} holds {strange[0]}/; expected the numbers of {len(classes):,} classes, from 0")
    records = tuple(
        Record(f"{name}/{path}", int(name))
        for name in sorted(folders, key=int)
        for path in walk_images(root / name, left_out, f"{name}/")
    )
    if not records:
        raise DataError(f"{root} holds no images; expected {root}/0/ ... {root}/999/")
    return Index(dataset, split, "singlelabel", classes, root, records)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the variants that are there, in the folders that their archives make."""
    left_out, indexes = Tally(), []
    for done, variant in enumerate(info.splits):
        options.progress(f"reading {variant}", done, len(info.splits))
        root = source / f"imagenetv2-{variant}-format-val"
        if root.is_dir():
            indexes.append(read_variant(root, variant, left_out, dataset=info.name))
    if not indexes:
        raise DataError(f"{source} holds no variant of ImageNet-V2; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes), left_out=left_out)


ENTRIES = (
    DatasetInfo(
        name="imagenet-v2",
        title="ImageNet-V2",
        task="singlelabel",
        classes=1000,
        classes_note="a split for each way of choosing images",
        class_names="attnbias.data.class_names:imagenet",
        splits=VARIANTS,
        train=None,
        val=VARIANTS[0],
        acquisition="auto",
        citation="Recht et al.: Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019",
        licence="MIT; images under Flickr's terms",
        size="4 GB",
        prepare="attnbias.data.catalogue.imagenet_v2:prepare",
        layout="imagenetv2-{matched-frequency,threshold0.7,top-images}-format-val/{0..999}/ of images",
        page="https://github.com/modestyachts/ImageNetV2",
        archives=tuple(
            Archive(f"{_HUB}{file}", file, split="" if variant == VARIANTS[0] else variant)
            for variant, file in ((variant, f"imagenetv2-{variant}.tar.gz") for variant in VARIANTS)
        ),
        counts=dict.fromkeys(VARIANTS, 10_000),
    ),
)
