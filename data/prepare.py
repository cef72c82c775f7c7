"""`prepare-data`: from a folder of pictures and annotations to checked index files, in the same steps for every set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.facts import DatasetFacts
from attnbias.data.fetch.acquire import acquire, instructions
from attnbias.data.fetch.download import LOCK, only_writer
from attnbias.data.index import Index
from attnbias.data.label_maps import count_pixels
from attnbias.data.names import unfit_name
from attnbias.data.owned import first_foreign, remove_owned
from attnbias.data.pictures import read_picture
from attnbias.data.prepared import MANIFEST, Prepared, data_root, index_path, is_ready
from attnbias.data.registry import DATASETS
from attnbias.data.repeats import find_repeats
from attnbias.data.splits import assign_roles, hold_out, part_named
from attnbias.data.survey import check_annotated_sizes, read_headers, remarks
from attnbias.data.tally import Tally

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

PREPARED = re.compile(
    r"(index|csra)/([^/]+\.json(\.\d+\.part)?)?|tokenizer/(\.?tokenizer(_config)?\.json(\.\d+\.part)?)?"
)
"""All that is written into the folder of a set that is read from elsewhere (see data/owned.py)."""


@dataclass(frozen=True)
class Options:
    """What a person may ask of `prepare-data` beside the dataset and its source."""

    verify: bool = False
    """Decode every picture."""
    overwrite: bool = False
    """Replace what was prepared with another source or other settings."""
    dry_run: bool = False
    """Read and check, write nothing."""
    download: bool = False
    """Fetch the official archives."""
    offline: bool = False
    """Verify every byte of the archives, fetch nothing."""
    splits: tuple[str, ...] = ()
    """Only these; none named = all that are found."""
    workers: int = 1
    """Processes or threads that make or decode pictures."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the set's defaults."""
    train_split: str | None = None
    """The split that trains, where the names do not tell."""
    val_split: str | None = None
    """The split that evaluates, where the names do not tell."""
    val_fraction: float | None = None
    """Hold out this share of the training files to evaluate on, where no split is for that."""
    name: str | None = None
    """What a set of one's own is called, where not after its folder or file."""
    val_seed: int = 0
    """Decides which files `val_fraction` takes."""
    progress: Progress = lambda what, done, total: None


class Reading(NamedTuple):
    """What a dataset's own `prepare` function found or made."""

    indexes: Sequence[Index]
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = {}
    """All settings, those that were not changed too."""
    files: Mapping[str, str] = {}
    """Further text files for the dataset's folder, such as a published program's own index."""
    remarks: Tally = Tally()
    """What a person should know of how the source was read."""
    left_out: Tally = Tally()
    """Files and folders that do not count, by reason."""


Preparer = Callable[[DatasetFacts, Path | None, Path, Options], Reading]
"""(facts, source folder or None for generated sets, the dataset's folder below DATA_ROOT, options) -> Reading.

It reads annotations and raises DataError for what it cannot understand. Missing and broken pictures, counts, roles and
the writing of indexes are the caller's part. A generated set writes its own pictures, unless `dry_run`."""


@dataclass(frozen=True)
class Report:
    """What `prepare` did: the set as it now stands."""

    facts: DatasetFacts
    folder: Path
    prepared: Prepared
    indexes: Sequence[Index]
    warnings: Sequence[str]
    pixels: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """By split, the pixels of each class in each sample (data/label_maps.py: count_pixels), where pixels are labelled.
    """


def prepare(name: str, source: Path | None = None, root: Path | None = None, options: Options = Options()) -> Report:
    """Read a dataset, check it, and write its index files. Running it again does the same checks and changes nothing.

    Args:
        name: a known dataset, or the path of a folder, table or COCO file of one's own.
        source: the folder that holds a known dataset's files.
        root: DATA_ROOT.

    Raises:
        DataError: annotations or pictures are missing or damaged, or the set stands prepared from something else.
    """
    if name in DATASETS:
        facts = DATASETS[name]
    else:
        from attnbias.data.sets.own import own_facts  # it stands on this module

        facts, source = own_facts(Path(name), options.name), Path(name)
    folder = data_root(root) / facts.name
    if options.dry_run:
        return _prepare(facts, source, folder, options)
    with _only_one(folder):
        return _prepare(facts, source, folder, options)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a dataset's folder for this process alone; what was made for that, and is still empty, is removed again.

    Raises:
        DataError: another process prepares the set.
    """
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something
                for place in made:
                    place.rmdir()


def _prepare(facts: DatasetFacts, source: Path | None, folder: Path, options: Options) -> Report:
    own = facts.name not in DATASETS
    if own and (foreign := _foreign(folder)):
        raise DataError(f"{foreign} was not written by prepare-data; call the set otherwise with --name NAME")
    source, reading = _read(facts, source, folder, options)
    indexes = _chosen(reading.indexes, options.splits)
    if options.val_fraction is not None:
        indexes = _with_held_out(indexes, options)
    orientation = options.settings.get("orientation") or facts.orientation
    indexes = [replace(index, orientation=orientation) for index in indexes]

    warnings = list(reading.warnings)
    if not (options.dry_run and facts.acquisition == "generated"):
        mend = (
            f"run: attnbias prepare-data {facts.name} --overwrite" if source is None else f"is {source} unpacked whole?"
        )
        if own:
            mend = "paths are relative to what lists them, with '/' between folders"
        for index in indexes:
            check_pictures(index, options, mend)
    noticed = Tally()
    noticed.merge(reading.remarks)
    pixels = {
        index.split: count_pixels(index, options.workers, options.progress)
        for index in indexes
        if index.task == "segmentation"
    }
    roles, said = _roles(facts, indexes, options)
    warnings += said
    if own:
        noticed.merge(_notice(indexes, options))
        noticed.merge(find_repeats(indexes, options.workers, options.progress))
    elif options.verify:  # the papers' sets are large, and some of their splits are parts of others
        played = [index for index in indexes if index.split in roles.values()]
        noticed.merge(find_repeats(played, options.workers, options.progress))
    prepared = Prepared(
        dataset=facts.name,
        splits=tuple(index.split for index in indexes),
        roles=roles,
        source=str(source) if source else None,
        settings={**chosen_settings(facts, options), **reading.settings},
        left_out=reading.left_out,
        remarks=noticed,
    )
    if not options.dry_run:
        if is_ready(folder) and Prepared.read(folder) != prepared:
            discard(folder)
        for index in indexes:
            index.write(index_path(folder, index.split))
        for file, text in reading.files.items():
            with replacing(folder / file) as target:
                target.write(text)
        prepared.write(folder)
    return Report(facts, folder, prepared, indexes, warnings, pixels)


def _notice(indexes: Sequence[Index], options: Options) -> Tally:
    """What a person should know of their own pictures."""
    paths = dict.fromkeys(f"{index.root}/{path}" for index in indexes for r in index.records for path in r.pictures)
    headers = read_headers(list(paths), options.workers, options.progress)
    noticed = remarks(headers, indexes[0].orientation)
    for index in indexes:
        noticed.merge(check_annotated_sizes(index, headers))
    return noticed


def standing(folder: Path, source: Path | None, settings: Mapping[str, Any], options: Options) -> Prepared | None:
    """The manifest of a set that was prepared here from the same source with the same settings; None where none was.

    Raises:
        DataError: it was prepared from something else, and `overwrite` was not asked for.
    """
    if not is_ready(folder):
        return None
    prepared = Prepared.read(folder)
    if prepared.source == (str(source) if source else None) and prepared.settings == dict(settings):
        return prepared
    if options.overwrite or options.dry_run:
        return None
    elsewhere = prepared.source != (str(source) if source else None)
    was = f"from {prepared.source}" if elsewhere else f"with {_different(prepared.settings, settings)}"
    raise DataError(f"{folder} was prepared {was}; add --overwrite to replace it, or --root DIR for a second one")


def chosen_settings(facts: DatasetFacts, options: Options) -> dict[str, Any]:
    """All settings of a set that is not generated, and how its roles were decided; those that are None are left out."""
    roles = {
        "train_split": options.train_split,
        "val_split": options.val_split,
        "val_fraction": options.val_fraction,
        "val_seed": None if options.val_fraction is None else options.val_seed,
    }
    chosen = {**facts.settings, **options.settings, **roles}
    return {name: value for name, value in chosen.items() if value is not None}


def discard(folder: Path, owned: re.Pattern[str] = PREPARED) -> None:
    """Remove the manifest of a dataset's folder, then what `owned` matches of it (see data/owned.py).

    Raises:
        DataError: a folder of the set holds something else; nothing was removed.
    """
    parts = [name for name in ("index", "csra", "tokenizer", "annotations", "images") if owned.fullmatch(f"{name}/")]
    if foreign := first_foreign(folder, owned.fullmatch, parts):
        raise DataError(f"{foreign} was not written by prepare-data, which would replace it; move it away first")
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_owned(folder, owned.fullmatch, parts)


def check_counts(facts: DatasetFacts, indexes: Sequence[Index]) -> list[str]:
    """One warning for each split whose number of samples is not the official one."""
    return [
        f"{index.split}: {len(index.records):,} samples, the official set has {facts.counts[index.split]:,}"
        for index in indexes
        if index.split in facts.counts and len(index.records) != facts.counts[index.split]
    ]


def check_pictures(index: Index, options: Options, mend: str) -> None:
    """Check that every picture and label map is there and, on `verify`, that every picture decodes.

    Raises:
        DataError: some are missing or broken; the message counts them and names the first ten.
    """
    if index.root.is_file():
        return  # an archive, verified and read whole
    paths = list(dict.fromkeys(f"{index.root}/{path}" for record in index.records for path in record.pictures))
    maps = [f"{index.root}/{record.label_map}" for record in index.records if record.label_map is not None]
    for what, files in (("pictures", paths), ("label maps", maps)):
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
            raise DataError(f"{_listed(index, 'pictures', 'broken', broken, len(paths))}; {mend}")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_existing(paths: Sequence[Path]) -> Path | None:
    """The first of the paths that exists."""
    return next((path for path in paths if path.exists()), None)


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
    if unknown := [split for split in splits if split not in found]:
        raise DataError(f"no split '{unknown[0]}'; found: {', '.join(found)}")
    return [index for index in indexes if not splits or index.split in splits]


def _with_held_out(indexes: Sequence[Index], options: Options) -> Sequence[Index]:
    """The same splits, but a part of the training split is one for validation."""
    assert options.val_fraction is not None
    splits = [index.split for index in indexes]
    if given := next((split for split in splits if len(splits) > 1 and part_named(split) == "val"), options.val_split):
        raise DataError(f"--val-fraction holds out a part to evaluate on, and split '{given}' is there for that")
    train = assign_roles(splits, options.train_split).get("train")
    if train is None:
        raise DataError(f"--val-fraction divides the split that trains, and there is none: {', '.join(splits)}")
    names = ("train" if len(splits) == 1 else train, "val")
    place = splits.index(train)
    return [
        *indexes[:place],
        *hold_out(indexes[place], options.val_fraction, options.val_seed, names),
        *indexes[place + 1 :],
    ]


def _roles(facts: DatasetFacts, indexes: Sequence[Index], options: Options) -> tuple[dict[str, str], list[str]]:
    """Which split plays which role, and what a person should know of it.

    In a published set its papers decide, where their splits are there; else the names of the splits do.
    """
    splits = tuple(index.split for index in indexes)
    published = facts.name in DATASETS
    train, val = options.train_split, options.val_split
    if published:
        train = train or (facts.train if facts.train in splits else None)
        val = val or (facts.val if facts.val in splits else None)
    if facts.train is None:
        return {"val": val or splits[-1]}, []
    roles = assign_roles(splits, train, val)
    said = []
    if indexes[0].task == "singlelabel" and len(indexes[0].classes) == 1:
        said.append(f"only one class, '{indexes[0].classes[0]}': every model is right; a folder for others is missing")
    if len(splits) == 1:
        said.append(
            f"only one split, '{splits[0]}': training and evaluation both read it; --val-fraction 0.2 holds a part out"
        )
    elif "train" not in roles:
        said.append(f"no split is for training ({', '.join(splits)}); --train-split NAME says which one is")
    if not published and len(splits) > 1 and part_named(roles["val"]) == "test" and options.val_split is None:
        said.append(
            f"no split is for validation: '{roles['val']}' chooses the best checkpoint; --val-fraction 0.2 holds out "
            "a part of the training split for that"
        )
    return roles, said


def _read(facts: DatasetFacts, source: Path | None, folder: Path, options: Options) -> tuple[Path | None, Reading]:
    """Read the source as it is where that can be, else the archives that it holds or that are fetched."""
    module, function = facts.prepare.split(":")
    preparer: Preparer = getattr(import_module(module), function)
    if facts.acquisition == "generated":
        return None, preparer(facts, None, folder, options)
    if source is not None and not source.exists():
        raise DataError(f"source folder {source} does not exist; it should hold {facts.layout}")
    if source is not None and facts.unpack and not (options.download or options.offline):
        source = source.absolute()
        try:
            reading = preparer(facts, source, folder, options)
        except DataError:
            if not any((source / archive.file).is_file() for archive in facts.archives):
                raise
        else:
            standing(folder, source, chosen_settings(facts, options), options)
            return source, reading
    source = _source(facts, source, folder, options)
    return source, preparer(facts, source, folder, options)


def _source(facts: DatasetFacts, source: Path | None, folder: Path, options: Options) -> Path:
    """The source folder, absolute: what archives were unpacked to, the given one, or the one from before."""
    source = acquire(
        facts,
        source.absolute() if source else None,
        folder.absolute(),
        download=options.download,
        offline=options.offline,
        dry_run=options.dry_run,
        splits=options.splits,
        progress=options.progress,
    )
    if source is None and is_ready(folder):
        before = Prepared.read(folder).source
        source = Path(before) if before else None
    if source is None:
        if facts.acquisition == "manual":
            raise DataError(f"dataset '{facts.name}' needs --source DIR: {instructions(facts)}")
        raise DataError(
            f"dataset '{facts.name}' needs --download ({facts.size}), or --source DIR, a folder with {facts.layout}"
        )
    if not source.exists():
        raise DataError(f"{folder} was prepared from {source}, which is gone; give --source DIR")
    standing(folder, source, chosen_settings(facts, options), options)
    return source


def _missing(paths: Sequence[str]) -> list[str]:
    listing: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, file = path.rpartition("/")
        if parent not in listing:  # one listing a folder instead of one stat a picture
            try:
                listing[parent] = {entry.name for entry in Path(parent).iterdir()}
            except (FileNotFoundError, NotADirectoryError):
                listing[parent] = set()
            except OSError as error:
                raise DataError(f"folder {parent} cannot be read ({error.strerror})") from None
        if file not in listing[parent]:
            missing.append(path)
    return missing


def _broken(path: str) -> str:
    try:
        read_picture(Path(path))
    except DataError as error:
        return str(error)
    return ""


def _listed(index: Index, what: str, fault: str, items: Sequence[str], total: int) -> str:
    """How many pictures or label maps have the fault, and the first ten of them."""
    more = f" and {len(items) - 10:,} more" if len(items) > 10 else ""
    return f"split '{index.split}': {len(items):,} of {total:,} {what} are {fault}: {', '.join(items[:10])}{more}"


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, as they were."""
    different = [f"{name} {value}" for name, value in before.items() if now.get(name) != value]
    return ", ".join(different + [f"no {name}" for name in now if name not in before])
