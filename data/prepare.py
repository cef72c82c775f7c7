"""`prepare-data`: from a folder of images and annotations to checked index files, in the same steps for every set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.fetch.acquire import UNPACKED, acquire, instructions
from attnbias.data.images import read_image
from attnbias.data.index import Index
from attnbias.data.info import DatasetInfo, named
from attnbias.data.label_maps import count_pixels
from attnbias.data.lock import LOCK, only_writer
from attnbias.data.members import archives_of, as_before_on_error, names_in
from attnbias.data.names import unfit_name
from attnbias.data.own import own_info
from attnbias.data.own_masks import MASKS_FILE, with_masks
from attnbias.data.owned import first_foreign
from attnbias.data.prepared import (
    INDEXES,
    MANIFEST,
    PREPARED,
    Prepared,
    data_root,
    discard,
    index_path,
    is_ready,
    standing,
)
from attnbias.data.registry import DATASETS
from attnbias.data.repeats import find_repeats
from attnbias.data.sets.contract import FurtherFiles, PrepareOptions, Preparer, Reading, chosen_settings
from attnbias.data.splits import assign_roles, hold_out, part_named
from attnbias.data.survey import check_annotated_sizes, read_headers, remarks
from attnbias.data.tally import Tally

IN_PLACE = "archive read in place, not unpacked"


@dataclass(frozen=True)
class Report:
    """What `prepare` did: the set as it now stands."""

    info: DatasetInfo
    folder: Path
    prepared: Prepared
    indexes: Sequence[Index]
    warnings: Sequence[str]
    pixels: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """By split, the pixels of each class in each sample (data/label_maps.py: count_pixels), where pixels are labelled.
    """


def prepare(
    name: str, source: Path | None = None, root: Path | None = None, options: PrepareOptions | None = None
) -> Report:
    """Read a dataset, check it, and write its index files. Running it again does the same checks and changes nothing.

    Args:
        name: a known dataset, or the path of a folder, table or COCO file of one's own.
        source: the folder that holds a known dataset's files.
        root: DATA_ROOT.

    Raises:
        DataError: annotations or images are missing or damaged, or the set stands prepared from something else.
    """
    options = options or PrepareOptions()
    if name in DATASETS:
        info = DATASETS[name]
    else:
        info, source = own_info(Path(name), options.name, options.in_place), Path(name)
    folder = data_root(root) / info.name
    if options.dry_run:
        return _prepare(info, source, folder, options)
    # A folder of archives that were unpacked keeps them; what lies in one's own shards is listed with the set, or not.
    keeping = nullcontext() if name in DATASETS else as_before_on_error(folder / UNPACKED)
    with _only_one(folder), keeping:
        return _prepare(info, source, folder, options)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a dataset's folder for this process alone; what was made for that, and is still empty, is removed again.

    Raises:
        DataError: another process prepares the set.
    """
    made = [location for location in (folder, *folder.absolute().parents) if not location.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something
                for location in made:
                    location.rmdir()


def _prepare(info: DatasetInfo, source: Path | None, folder: Path, options: PrepareOptions) -> Report:
    own = info.name not in DATASETS
    if own and (foreign := _foreign(folder)):
        raise DataError(f"{foreign} was not written by prepare-data; call the set otherwise with --name NAME")
    source, reading = _read(info, source, folder, options)
    files = {**reading.files, **_further_files(info, reading.indexes)}
    indexes = _chosen(reading.indexes, options.splits)
    if options.val_fraction is not None:
        indexes = _with_held_out(indexes, options)
    orientation = options.settings.get("orientation") or info.orientation
    indexes = [replace(index, orientation=orientation) for index in indexes]

    if not (options.dry_run and info.acquisition == "generated"):
        for index in indexes:
            check_images(index, options, _mend(info, source))
    noticed = Tally()
    noticed.merge(reading.remarks)
    noticed.add(IN_PLACE, *_archives_in_place(indexes))
    pixels = {
        index.split: count_pixels(index, options.workers, options.progress)
        for index in indexes
        if index.task == "segmentation"
    }
    roles, said = _roles(info, indexes, options)
    if own:
        indexes, masks, found = _notice(indexes, reading, folder, options)
        files |= masks
        noticed.merge(found)
        noticed.merge(find_repeats(indexes, options.workers, options.progress))
    elif options.verify:  # the papers' sets are large, and some of their splits are parts of others
        played = [index for index in indexes if index.split in roles.values()]
        noticed.merge(find_repeats(played, options.workers, options.progress))
    prepared = Prepared(
        dataset=info.name,
        splits=tuple(index.split for index in indexes),
        roles=roles,
        source=str(source) if source else None,
        settings={**chosen_settings(info, options), **reading.settings},
        left_out=reading.left_out,
        remarks=noticed,
    )
    _check(folder, indexes)
    if not options.dry_run:
        _write(folder, prepared, indexes, files, INDEXES if info.acquisition == "generated" else PREPARED)
    return Report(info, folder, prepared, indexes, [*reading.warnings, *said], pixels)


def _check(folder: Path, indexes: Sequence[Index]) -> None:
    """Refuse what could be written and not read again.

    Raises:
        DataError: the first of it.
    """
    for index in indexes:
        index.check(index_path(folder, index.split))


def _write(
    folder: Path, prepared: Prepared, indexes: Sequence[Index], files: Mapping[str, str], owned: re.Pattern[str]
) -> None:
    """Write everything, the manifest last; what of `owned` was prepared otherwise is discarded first."""
    if is_ready(folder) and Prepared.read(folder) != prepared:
        discard(folder, owned)
    for index in indexes:
        index.write(index_path(folder, index.split))
    for file, text in files.items():
        with replacing(folder / file) as target:
            target.write(text)
    prepared.write(folder)


def _notice(
    indexes: Sequence[Index], reading: Reading, folder: Path, options: PrepareOptions
) -> tuple[Sequence[Index], Mapping[str, str], Tally]:
    """A person's own splits with their masks, the file of these, and what should be known of the images."""
    paths = dict.fromkeys(f"{index.root}/{path}" for index in indexes for r in index.records for path in r.images)
    headers = read_headers(list(paths), options.workers, options.progress)
    noticed = remarks(headers, indexes[0].orientation)
    for index in indexes:
        noticed.merge(check_annotated_sizes(index, headers))
    if not reading.masks:
        return indexes, {}, noticed
    masked, text, said = with_masks(indexes, reading.masks, headers, folder, options.workers, options.progress)
    noticed.merge(said)
    return masked, {MASKS_FILE: text}, noticed


def _archives_in_place(indexes: Sequence[Index]) -> list[str]:
    folders = {location for index in indexes for location in (index.root, *index.root.parents)}
    return sorted({str(archive) for location in folders for archive in archives_of(location)})


def _mend(info: DatasetInfo, source: Path | None) -> str:
    """What to do where images are missing or broken."""
    if info.name not in DATASETS:
        return "paths are relative to what lists them, with '/' between folders"
    return f"run: attnbias prepare-data {info.name} --overwrite" if source is None else f"is {source} unpacked whole?"


def check_images(index: Index, options: PrepareOptions, mend: str) -> None:
    """Check that every image and label map is there and, on `verify`, that every image decodes.

    Raises:
        DataError: some are missing or broken; the message counts them and names the first ten.
    """
    if index.root.is_file():
        return  # an archive, verified and read whole
    paths = list(dict.fromkeys(f"{index.root}/{path}" for record in index.records for path in record.images))
    maps = [f"{index.root}/{record.label_map}" for record in index.records if record.label_map is not None]
    for what, files in (("images", paths), ("label maps", maps)):
        if missing := _missing(files):
            raise DataError(f"{_listed(index, what, 'missing', missing, len(files))}; {mend}")
    if options.verify:
        broken = []
        with ThreadPoolExecutor(options.workers) as pool:  # Pillow decodes outside the interpreter lock
            for done, reason in enumerate(pool.map(_broken, paths), start=1):
                options.progress(f"verifying {index.split}", done, len(paths))
                if reason:
                    broken.append(reason)
        if broken:
            raise DataError(f"{_listed(index, 'images', 'broken', broken, len(paths))}; {mend}")


def _foreign(folder: Path) -> Path | None:
    """The first thing in the folder of a person's own set that is not of such a set."""
    if not folder.is_dir():
        return None
    return first_foreign(
        folder, lambda name: PREPARED.fullmatch(name) or name.startswith((MANIFEST, f".{MANIFEST}.")) or name == LOCK
    )


def _chosen(indexes: Sequence[Index], splits: tuple[str, ...]) -> Sequence[Index]:
    found = [index.split for index in indexes]
    for split in found:  # each is a file of its own
        if reason := unfit_name(split):
            raise DataError(f"the split {split[:50]!r} {reason}; name it otherwise")
    if alike := [split for split in found if sum(split.casefold() == other.casefold() for other in found) > 1]:
        raise DataError(f"the splits {', '.join(alike)} differ in case alone; name them alike, or otherwise")
    _check_splits(splits, found)
    return [index for index in indexes if not splits or index.split in splits]


def _check_splits(asked: Sequence[str], found: Sequence[str]) -> None:
    if unknown := [split for split in asked if split not in found]:
        raise DataError(f"no split '{unknown[0]}'; found: {', '.join(found)}")


def _with_held_out(indexes: Sequence[Index], options: PrepareOptions) -> Sequence[Index]:
    """The same splits, but a part of the training split is one for validation."""
    assert options.val_fraction is not None
    splits = [index.split for index in indexes]
    if given := next((split for split in splits if len(splits) > 1 and part_named(split) == "val"), options.val_split):
        raise DataError(f"--val-fraction holds out a part to evaluate on, and split '{given}' is there for that")
    train = assign_roles(splits, options.train_split).get("train")
    if train is None:
        raise DataError(f"--val-fraction divides the split that trains, and there is none: {', '.join(splits)}")
    names = ("train" if len(splits) == 1 else train, "val")
    position = splits.index(train)
    return [
        *indexes[:position],
        *hold_out(indexes[position], options.val_fraction, options.val_seed, names),
        *indexes[position + 1 :],
    ]


def _roles(info: DatasetInfo, indexes: Sequence[Index], options: PrepareOptions) -> tuple[dict[str, str], list[str]]:
    """Which split plays which role, and what a person should know of it.

    In a published set its papers decide, where their splits are there; else the names of the splits do.
    """
    splits = tuple(index.split for index in indexes)
    published = info.name in DATASETS
    train, val = options.train_split, options.val_split
    if published:
        train = train or (info.train if info.train in splits else None)
        val = val or (info.val if info.val in splits else None)
    if info.train is None:
        return {"val": val or splits[-1]}, []
    roles = assign_roles(splits, train, val)
    warnings = []
    if indexes[0].task == "singlelabel" and len(indexes[0].classes) == 1:
        warnings.append(
            f"only one class, '{indexes[0].classes[0]}': every model is right; a folder for others is missing"
        )
    if len(splits) == 1:
        warnings.append(
            f"only one split, '{splits[0]}': training and evaluation both read it; --val-fraction 0.2 holds a part out"
        )
    elif "train" not in roles:
        warnings.append(f"no split is for training ({', '.join(splits)}); --train-split NAME says which one is")
    if not published and len(splits) > 1 and part_named(roles["val"]) == "test" and options.val_split is None:
        warnings.append(
            f"no split is for validation: '{roles['val']}' chooses the best checkpoint; --val-fraction 0.2 holds out "
            "a part of the training split for that"
        )
    return roles, warnings


def _further_files(info: DatasetInfo, indexes: Sequence[Index]) -> Mapping[str, str]:
    make: FurtherFiles | None = named(info.further_files) if info.further_files else None
    return make(indexes) if make else {}


def _read(info: DatasetInfo, source: Path | None, folder: Path, options: PrepareOptions) -> tuple[Path | None, Reading]:
    """Read the source as it is where that can be, else the archives that it holds or that are fetched."""
    preparer: Preparer = named(info.prepare)
    if info.acquisition == "generated":
        _check_splits(options.splits, info.splits)  # before what stands there is replaced
        return None, preparer(info, folder, folder, options)
    if source is not None and not source.exists():
        raise DataError(f"source folder {source} does not exist; it should hold {info.layout}")
    if source is not None and info.unpack and not (options.download or options.offline or options.in_place):
        source = source.absolute()
        try:
            reading = preparer(info, source, folder, options)
        except DataError:
            if not any((source / archive.file).is_file() for archive in info.archives):
                raise
        else:
            standing(folder, source, chosen_settings(info, options), replace=options.overwrite or options.dry_run)
            return source, reading
    source = _source(info, source, folder, options)
    return source, preparer(info, source, folder, options)


def _source(info: DatasetInfo, source: Path | None, folder: Path, options: PrepareOptions) -> Path:
    """The source folder, absolute: what archives were unpacked to, the given one, or the one from before."""
    source = acquire(
        info,
        source.absolute() if source else None,
        folder.absolute(),
        download=options.download,
        offline=options.offline,
        dry_run=options.dry_run,
        in_place=options.in_place,
        splits=options.splits,
        progress=options.progress,
    )
    if source is None and is_ready(folder):
        before = Prepared.read(folder).source
        source = Path(before) if before else None
    if source is None:
        if info.acquisition == "manual":
            raise DataError(f"dataset '{info.name}' needs --source DIR: {instructions(info)}")
        raise DataError(
            f"dataset '{info.name}' needs --download ({info.size}), or --source DIR, a folder with {info.layout}"
        )
    if not source.exists():
        raise DataError(f"{folder} was prepared from {source}, which is gone; give --source DIR")
    standing(folder, source, chosen_settings(info, options), replace=options.overwrite or options.dry_run)
    return source


def _missing(paths: Sequence[str]) -> list[str]:
    listing: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, file = path.rpartition("/")
        if parent not in listing:  # one listing a folder instead of one stat an image
            listing[parent] = {*names_in(Path(parent))}
            try:
                listing[parent] |= {entry.name for entry in Path(parent).iterdir()}
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise DataError(f"folder {parent} cannot be read ({error.strerror})") from None
        if file not in listing[parent]:
            missing.append(path)
    return missing


def _broken(path: str) -> str:
    try:
        read_image(Path(path))
    except DataError as error:
        return str(error)
    return ""


def _listed(index: Index, what: str, fault: str, items: Sequence[str], total: int) -> str:
    """How many images or label maps have the fault, and the first ten of them."""
    more = f" and {len(items) - 10:,} more" if len(items) > 10 else ""
    return f"split '{index.split}': {len(items):,} of {total:,} {what} are {fault}: {', '.join(items[:10])}{more}"
