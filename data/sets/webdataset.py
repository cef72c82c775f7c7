"""WebDataset shards of one's own, read where they lie: tar files in which 000123.jpg and 000123.cls are a sample.

A sample is what follows each other under one key, a member's path up to the first dot of its name, as WebDataset has
it (github.com/webdataset/webdataset). Its label is a number or a name: the text of KEY.cls, or "label" in KEY.json.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

from attnbias.data.errors import DataError
from attnbias.data.fetch.acquire import UNPACKED
from attnbias.data.fetch.unpack import Packed, tar_members
from attnbias.data.index import MOST_CLASSES, Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.members import Member, keep_all
from attnbias.data.reading import BAD_ARCHIVE, Unfit, is_whole_number, parse_json, shown
from attnbias.data.sets.contract import PrepareOptions, Reading
from attnbias.data.sets.segmentation_sets import CLASS_LISTS, listed_classes
from attnbias.data.splits import assign_roles
from attnbias.data.tally import Tally
from attnbias.data.walk import OTHER, is_image, list_folder

ENDING = ".tar"
COMPRESSED = (".tgz", ".tbz2", ".txz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4")))
NUMBER = re.compile(r"(?P<split>.*?)[-_.]*\d*(-of-\d+)?")
"""The name of a shard without its ending: train-000000, train-00000-of-00100."""
LARGEST = 1 << 20
"""Bytes of the largest label that is read."""

Label = int | str
Sample = tuple[Member, Label]
"""An image in a shard, and what it is said to show."""


# From shards to samples -----------------------------------------------------------------------------------------------


def find_shards(source: Path, left_out: Tally) -> list[str]:
    """Paths of the shards in a folder and in the folders in it, from the folder on, in their order.

    Raises:
        DataError: one is compressed.
    """
    folders, files = list_folder(source, left_out)
    for folder in folders:
        files += [f"{folder}/{name}" for name in list_folder(source / folder, left_out, f"{folder}/").files]
    if packed := [name for name in sorted(files) if name.lower().endswith(COMPRESSED)]:
        raise DataError(f"{source / packed[0]} is compressed, and --in-place reads images as they lie; decompress it")
    left_out.add(OTHER, *(name for name in files if not name.endswith(ENDING) and name not in CLASS_LISTS))
    return sorted(name for name in files if name.endswith(ENDING))


def split_of(shard: str) -> str:
    """The split of a shard: the folder that it lies in, else what stands before its number; "train" where nothing
    does."""
    folder, _, name = shard.rpartition("/")
    numbered = NUMBER.fullmatch(name.removesuffix(ENDING))
    return folder or (numbered and numbered["split"]) or "train"


def read_shard(path: Path, left_out: Tally, below: str = "") -> list[Sample]:
    """The samples of a shard, in its order; what is neither image nor label is added to `left_out`, behind `below`.

    Raises:
        DataError: it is damaged, an image is compressed, or a sample has not one image and one label.
    """
    samples: list[Sample] = []
    keys: set[str] = set()
    try:
        with path.open("rb") as file:
            for key, members in groupby(_keyed(file, path.parent, left_out, below), lambda member: member[0]):
                if key in keys:
                    raise Unfit(f"sample {key!r} comes twice, with others between")
                keys.add(key)
                samples.append(_sample(key, (member for _, member in members), left_out, below))
    except (DataError, Unfit, OSError, tarfile.TarError, *BAD_ARCHIVE) as error:
        said = str(error).partition(":\n")[0]  # then what each kind of compression says
        reason = error.strerror if isinstance(error, OSError) and error.strerror else said or "it is cut short"
        raise DataError(f"shard {path}: {reason}; mend the shard, or move it out of the folder") from None
    if not samples:
        raise DataError(f"shard {path} holds no samples; move it out of the folder")
    return samples


def _keyed(file: IO[bytes], folder: Path, left_out: Tally, below: str) -> Iterator[tuple[str, Packed]]:
    """The members of a shard, each with the key of its sample."""
    for member in tar_members(file, folder):
        inner, _, name = member[0].rpartition("/")
        stem, dot, _ = name.partition(".")
        if stem and dot and not name.startswith("__"):
            yield f"{inner}/{stem}" if inner else stem, member
        else:
            left_out.add(OTHER, below + member[0])


def _sample(key: str, members: Iterable[Packed], left_out: Tally, below: str) -> Sample:
    """Raises Unfit: there is not one image and one label."""
    images: list[Member] = []
    labels: dict[str, Label | None] = {}
    for name, length, content, offset in members:
        ending = name.rpartition("/")[2].partition(".")[2].lower()
        if is_image(name):
            if offset is None:
                raise Unfit(f"member {name!r} is compressed, and --in-place reads images as they lie")
            images.append(Member(name, offset, length))
        elif ending in ("cls", "json"):
            if ending in labels:
                raise Unfit(f"sample {key!r} has two labels .{ending}")
            if length > LARGEST:
                raise Unfit(f"{name!r} is no label: it is larger than {LARGEST >> 20} MB")
            with content() as file:
                labels[ending] = _label(name, file.read(), ending)
        else:
            left_out.add(OTHER, below + name)
    if len(images) != 1:
        found = f"{len(images)} images ({', '.join(image.name for image in images)})" if images else "no image"
        raise Unfit(f"sample {key!r} has {found}, expected one")
    told = {label for label in labels.values() if label is not None}
    if len(told) != 1:
        found = "two labels (" + ", ".join(map(shown, labels.values())) + ")" if told else "no label"
        raise Unfit(f'sample {key!r} has {found}, expected one: {key}.cls, or "label" in {key}.json')
    return images[0], told.pop()


def _label(name: str, content: bytes, ending: str) -> Label | None:
    """What a member says; None of a JSON object that says other things.

    Raises:
        Unfit: it says nothing.
    """
    try:
        text = content.decode("utf-8-sig").strip()
        value = parse_json(text) if ending == "json" else text
    except ValueError as error:
        raise Unfit(f"{name!r} is no label: {error if isinstance(error, Unfit) else 'it is not UTF-8 text'}") from None
    if ending == "json":
        value = value.get("label") if isinstance(value, dict) else None
        if value is None:
            return None
    elif is_whole_number(text):
        value = int(text)
    if isinstance(value, bool) or not isinstance(value, Label) or value == "" or (isinstance(value, int) and value < 0):
        raise Unfit(f"{name!r} is no label: expected a number from 0 on or a name, not {shown(value)}")
    return value


# From samples to a set ------------------------------------------------------------------------------------------------


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read SOURCE/SPLIT-NUMBER.tar or SOURCE/SPLIT/NUMBER.tar, and list where their images lie.

    classes.txt names the classes, one a line from 0 on; without it the split that trains does.

    Raises:
        DataError: a shard is damaged, its samples or their classes are not what is expected, or nothing may be written.
    """
    left_out = Tally()
    shards = find_shards(source, left_out)
    if not shards:
        raise DataError(f"{source} holds no shards; expected {source}/train-000000.tar or {source}/train/000000.tar")
    if options.dry_run:
        raise DataError(f"dry run: what lies in {len(shards):,} shards would be listed in {folder / UNPACKED} first")
    splits: dict[str, list[tuple[str, Label]]] = {}
    members: dict[Path, list[Member]] = {}
    for done, shard in enumerate(shards):
        options.progress("reading shards", done, len(shards))
        place = shard.removesuffix(ENDING)
        found = read_shard(source / shard, left_out, f"{shard}/")
        members[source / shard] = [image._replace(name=f"{place}/{image.name}") for image, _ in found]
        splits.setdefault(split_of(shard), []).extend((f"{place}/{image.name}", label) for image, label in found)
    classes, numbers = _classes(source, splits, options)
    root = folder / UNPACKED
    indexes = []
    for split, samples in splits.items():
        if strange := next((sample for sample in samples if sample[1] not in numbers), None):
            known = f"{len(classes):,} classes such as {classes[0]!r}"
            raise DataError(f"{source}: {strange[0]} is of class {shown(strange[1])}, which is none of the {known}")
        records = tuple(Record(path, numbers[label]) for path, label in samples)
        indexes.append(Index(info.name, split, "singlelabel", classes, root, records))
    keep_all(root, members)
    return Reading(indexes, left_out=left_out)


def _classes(
    source: Path, splits: Mapping[str, Sequence[tuple[str, Label]]], options: PrepareOptions
) -> tuple[tuple[str, ...], Mapping[Label, int]]:
    """The names of the classes, and the number of each label that may occur: a name, or that number itself.

    Raises:
        DataError: some labels are numbers and some are names, or a number is too large.
    """
    kinds = {type(label): (path, label) for samples in splits.values() for path, label in samples}
    if len(kinds) > 1:
        found = " and ".join(f"{shown(label)} of {path}" for path, label in kinds.values())
        raise DataError(f"{source}: labels are numbers and names ({found}); give all samples the one or the other")
    train = assign_roles(list(splits), options.train_split, options.val_split).get("train", next(iter(splits)))
    names = listed_classes(source)
    if names is None and str in kinds:
        names = tuple(sorted({str(label) for _, label in splits[train]}))
    elif names is None:
        largest, path = max((int(label), path) for path, label in splits[train])
        if largest >= MOST_CLASSES:
            raise DataError(f"{source}: {path} is of class {largest}; at most {MOST_CLASSES:,} classes are read")
        names = tuple(f"class {number}" for number in range(largest + 1))
    return names, {name if str in kinds else number: number for number, name in enumerate(names)}
