"""ImageNet-1k and its robustness sets: every image's class is found by its synset, never by its folder's position."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import SupportsInt

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import read_lines, whole_number
from attnbias.data.sets.class_folders import read_class_folders
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing
from attnbias.data.tally import Tally
from attnbias.data.walk import OTHER, is_image, list_folder

# The 15 corruptions of ImageNet-C's score in the order of AbSViT's evaluation, and the archive each comes in.
CORRUPTIONS = {
    "brightness": "weather",
    "contrast": "digital",
    "defocus_blur": "blur",
    "elastic_transform": "digital",
    "fog": "weather",
    "frost": "weather",
    "gaussian_noise": "noise",
    "glass_blur": "blur",
    "impulse_noise": "noise",
    "jpeg_compression": "digital",
    "motion_blur": "blur",
    "pixelate": "digital",
    "shot_noise": "noise",
    "snow": "weather",
    "zoom_blur": "blur",
}
SEVERITIES = (1, 2, 3, 4, 5)
NOT_OF_THE_SCORE = "folders of no corruption of ImageNet-C's score"


@cache
def synsets(subset: str = "imagenet") -> tuple[str, ...]:
    """WordNet ids in the order of the class numbers: all 1000, or those of imagenet-a or imagenet-r (timm's lists)."""
    file = {"imagenet-a": "imagenet_a", "imagenet-r": "imagenet_r"}.get(subset, subset)
    return tuple((files("timm.data") / "_info" / f"{file}_synsets.txt").read_text().split())


@cache
def lemmas() -> dict[str, tuple[str, ...]]:
    """WordNet's words for each synset of ImageNet's sets (timm's list)."""
    lines = (files("timm.data") / "_info" / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    pairs = (line.split("\t", 1) for line in lines)
    return {synset: tuple(word.strip() for word in words.strip('"').split(",")) for synset, words in pairs}


SIZES = {
    1000: "imagenet",
    11_221: "imagenet21k_miil",
    11_821: "imagenet12k",
    21_841: "imagenet22k",
    21_842: "imagenet22k_ms",
    21_843: "imagenet21k_goog",
}
"""Number of classes -> the set of ImageNet that networks are published for (timm's list)."""


@cache
def class_names(subset: str = "imagenet") -> tuple[str, ...]:
    """A readable name for each class; the synset is added where two share one (crane, maillot)."""
    ids = synsets(subset)
    names = [lemmas().get(synset, (synset,))[0] for synset in ids]
    often = Counter(names)
    return tuple(name if often[name] == 1 else f"{name} ({synset})" for name, synset in zip(names, ids, strict=True))


def names_of_size(count: int) -> tuple[str, ...] | None:
    """Readable names of ImageNet's set of so many classes; None where it has none."""
    return class_names(SIZES[count]) if count in SIZES else None


def readable(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The readable names of the 1000 synsets, as which a folder of one's own calls them; other classes as they are."""
    return class_names() if classes == synsets() else classes


def subset_indices(subset: str) -> tuple[int, ...]:
    """Class numbers, among the 1000, of the 200 classes of imagenet-a or imagenet-r: the columns that count there."""
    number = {synset: label for label, synset in enumerate(synsets())}
    return tuple(number[synset] for synset in synsets(subset))


def real_labels(index: Index) -> list[frozenset[int]] | None:
    """Reassessed labels (ReaL; Beyer et al., arXiv:2006.07159) of each record, found by the file's name.

    An image may have several, or none (it is to be left out). None where the index is not of validation images
    with the 1000 classes in their order.
    """
    if index.classes not in (class_names(), synsets()):
        return None
    labels = json.loads((files("timm.data") / "_info" / "imagenet_real_labels.json").read_text())
    named = {f"ILSVRC2012_val_{number:08d}.JPEG": frozenset(own) for number, own in enumerate(labels, start=1)}
    names = [Path(record.path).name for record in index.records]
    return [named[name] for name in names] if all(name in named for name in names) else None


def read_synset_folders(
    root: Path,
    *,
    dataset: str = "imagenet",
    split: str = "val",
    subset: str = "imagenet",
    left_out: Tally | None = None,
) -> Index:
    """Read ROOT/SYNSET/IMAGE with the 1000 classes as labels, whichever of the folders are there.

    Args:
        subset: only these synsets may occur: "imagenet", "imagenet-a" or "imagenet-r".
        left_out: gains what does not count.

    Raises:
        DataError: a folder is not a synset of the set, or there are no images.
    """
    index = read_class_folders(root, dataset=dataset, split=split, classes=synsets(subset), left_out=left_out)
    number = {synset: label for label, synset in enumerate(synsets())}
    label_of = [number[synset] for synset in index.classes]
    records = tuple(record._replace(target=label_of[_label(record)]) for record in index.records)
    return replace(index, classes=class_names(), records=records)


def read_flat_validation(
    root: Path, devkit: Path, *, dataset: str = "imagenet", left_out: Tally | None = None
) -> Index:
    """Read the validation images as their archive holds them, one folder for all, with the devkit's ground truth.

    Args:
        root: the folder with ILSVRC2012_val_00000001.JPEG and on.
        devkit: ILSVRC2012_devkit_t12.
        left_out: gains what does not count.

    Raises:
        DataError: the devkit is damaged or missing, or an image has no line in it.
    """
    truth = devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    synset_of = _devkit_synsets(devkit / "data" / "meta.mat")
    number = {synset: label for label, synset in enumerate(synsets())}
    records = []
    left_out = Tally() if left_out is None else left_out
    _, files = list_folder(root, left_out, f"{root.name}/")
    left_out.add(OTHER, *(f"{root.name}/{name}" for name in files if not is_image(name)))
    try:
        labels = [number[synset_of[whole_number(line)]] for line in read_lines(truth, "ground truth")]
        for path in filter(is_image, files):
            position = int(re.findall(r"\d+", path)[-1])  # counted from 1
            if not 1 <= position <= len(labels):
                raise DataError(f"{root / path} has no line in {truth}, which has {len(labels):,}")
            records.append(Record(path, labels[position - 1]))
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{truth} does not fit {root} ({type(error).__name__} {error})") from None
    return Index(dataset, "val", "singlelabel", class_names(), root, tuple(records))


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read train/SYNSET and val/SYNSET (or a flat val/ with the devkit beside it), or one of the two."""
    indexes, left_out = [], Tally()
    for done, split in enumerate(info.splits):
        root = source / split
        options.progress(f"reading {split}", done, len(info.splits))
        if not root.is_dir():
            continue
        folders, files = list_folder(root, Tally())
        if any(re.match(r"n\d", name) for name in folders):
            indexes.append(read_synset_folders(root, dataset=info.name, split=split, left_out=left_out))
        elif split == "val" and any(name.endswith(".JPEG") for name in files):
            devkit = source / "ILSVRC2012_devkit_t12"
            indexes.append(read_flat_validation(root, devkit, dataset=info.name, left_out=left_out))
    if not indexes:
        raise DataError(f"{source} holds neither train/ nor val/; expected {info.layout}")
    return Reading(indexes, check_counts(info, indexes), left_out=left_out)


def prepare_renditions(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read ImageNet-A, -R or -Sketch: synset folders in SOURCE itself, or in the folder that its archive makes."""
    subset = info.name if info.name in ("imagenet-a", "imagenet-r") else "imagenet"
    inner = [source / info.name, source / "sketch"]
    root = next((place for place in inner if place.is_dir()), source)
    left_out = Tally()
    index = read_synset_folders(root, dataset=info.name, split=info.val, subset=subset, left_out=left_out)
    missing = set(synsets(subset)) - {record.path.split("/")[0] for record in index.records}
    warnings = [f"{len(missing)} of {len(synsets(subset))} classes have no images ({min(missing)})"] if missing else []
    return Reading([index], [*warnings, *check_counts(info, [index])], left_out=left_out)


def prepare_corruptions(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read ImageNet-C: one split for each corruption and severity, CORRUPTION/1..5 or GROUP/CORRUPTION/1..5."""
    indexes: list[Index] = []
    missing, left_out = [], Tally()
    for done, (corruption, group) in enumerate(CORRUPTIONS.items()):
        options.progress("reading corruptions", done, len(CORRUPTIONS))
        root = first_existing([source / corruption, source / group / corruption])
        for severity in SEVERITIES:
            if root is None or not (root / str(severity)).is_dir():
                missing.append(f"{corruption}/{severity}")
                continue
            split = f"{corruption}-{severity}"
            images = root / str(severity)
            indexes.append(read_synset_folders(images, dataset=info.name, split=split, left_out=left_out))
    for name in list_folder(source, left_out).folders:
        if name not in CORRUPTIONS.values():
            others = [name]
        else:
            others = [f"{name}/{inner}" for inner in list_folder(source / name, left_out, f"{name}/").folders]
        for other in others:
            if other.rpartition("/")[2] not in CORRUPTIONS:
                left_out.add(NOT_OF_THE_SCORE, other)
    if not indexes:
        raise DataError(f"{source} holds no corruption; expected {info.layout}")
    warnings = [f"{len(missing)} of 75 corruptions and severities are missing ({missing[0]})"] if missing else []
    return Reading(indexes, [*warnings, *check_counts(info, indexes)], left_out=left_out)


def _label(record: Record) -> int:
    assert isinstance(record.target, int)  # class folders are single-label
    return record.target


def _devkit_synsets(meta: Path) -> dict[int, str]:
    """The devkit's own class number -> WordNet id, out of its MATLAB file."""
    from scipy.io import loadmat  # only a flat val/ is read by it

    try:
        table: Sequence[tuple[SupportsInt, str]] = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row[0]): str(row[1]) for row in table}
    except OSError as error:
        raise DataError(f"{meta}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{meta} is damaged ({error})") from None
