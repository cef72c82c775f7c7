"""`attnbias prepare-data`: check a dataset, write its index, say what is in it."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbias.cli.options import read_request
from attnbias.data.names import unfit_name
from attnbias.data.registry import DATASETS, dataset_folder
from attnbias.data.tally import Tally
from attnbias.methods.engine.errors import RunError, UsageError, did_you_mean
from attnbias.methods.engine.requests import PrepareRequest
from attnbias.methods.engine.screen import Table, say, waiting_bar
from attnbias.methods.engine.text import visible

if TYPE_CHECKING:
    from attnbias.data.prepare import Report
    from attnbias.data.progress import ProgressCallback
    from attnbias.data.summary import Summary

ORIENTATIONS: dict[str, str] = {
    "stored": "as their pixels are stored, whatever EXIF orientation they have",
    "upright": "upright, as their EXIF orientation says",
}
NAMED = 20
"""Classes are listed up to this many."""


def prepare_data(**typed: Any) -> None:
    """Check a dataset, write its index files, and show what is in it.

    Running it again repeats the checks and changes nothing. `demo` and `demo-single` are made on the spot. A folder of
    your own holds a folder of images for each class (below train/ and val/, if you have both), annotations in COCO
    layout, one table with the columns path and label (or labels, separated by ";"), and perhaps split and group, or
    images/ and labels/ with a PNG of class numbers for each image. Images of your own are read upright, as their
    EXIF orientation says. What is left out, and the same image twice, is counted and named.
    """
    request = read_request(PrepareRequest, typed)
    name = request.name
    own = name not in DATASETS and Path(name).exists()
    if name not in DATASETS and not own:
        if Path(name).name != name or Path(name).suffix in (".csv", ".json"):
            raise UsageError(
                f"{name} does not exist; name a folder, .csv or COCO .json of yours, or a dataset of: "
                "attnbias list datasets"
            )
        raise UsageError(f"unknown dataset '{name}'{did_you_mean(name, DATASETS)}; see: attnbias list datasets")
    settings = _settings(request, own)
    from attnbias.data.prepare import available_cores, prepare
    from attnbias.data.prepared import data_root
    from attnbias.data.sets.contract import PrepareOptions
    from attnbias.methods.engine.targets import check_location

    check_location(data_root(request.data_root) / (request.called or Path(name).name))
    with fetch_progress() as progress:
        options = PrepareOptions(
            verify=request.verify,
            overwrite=request.overwrite,
            dry_run=request.dry_run,
            download=request.download,
            offline=request.offline,
            splits=request.splits,
            workers=request.workers or available_cores(),
            settings=settings,
            name=request.called,
            train_split=request.train_split,
            val_split=request.val_split,
            val_fraction=request.val_fraction,
            val_seed=request.seed or 0,
            progress=progress,
        )
        with _written_below(dataset_folder(request.called or name, request.data_root)):
            report = prepare(name, request.source, request.data_root, options)
    _show(report, request.dry_run)


def _settings(request: PrepareRequest, own: bool) -> dict[str, Any]:
    """What is typed for some sets only, where this is one of them.

    Raises:
        UsageError: it is not, or two options contradict each other.
    """
    name = request.name
    info = None if own else DATASETS[name]
    _check_source(request, own)
    drawn = None if request.val_fraction is not None else request.seed
    typed = {
        "preset": request.preset,
        "size": request.size,
        "seed": drawn,
        "train": request.train,
        "eval": request.eval,
    }
    settings: dict[str, Any] = {option: value for option, value in typed.items() if value is not None}
    generated = info is not None and info.acquisition == "generated"
    if generated and request.source is not None:
        raise UsageError(f"'{name}' is made on the spot: it takes no --source")
    if not generated and settings:
        raise UsageError(f"--{next(iter(settings))} belongs to the demo sets; '{name}' takes its images from --source")
    roles = ("train_split", "val_split", "val_fraction")
    given = next((role for role in roles if getattr(request, role) is not None), None)
    if given and info is not None and (generated or info.train is None):
        flag = "--" + given.replace("_", "-")
        raise UsageError(f"{flag} is for sets whose splits may play other roles; those of '{name}' are fixed")
    if request.val_fraction is not None and not 0 < request.val_fraction < 1:
        raise UsageError(f"--val-fraction {request.val_fraction:g} must lie between 0 and 1")
    if request.min_answers is not None:
        if info is None or "min_answers" not in info.settings:
            raise UsageError(f"--min-answers belongs to vqav2; '{name}' has no answers to count")
        settings["min_answers"] = request.min_answers
    if request.masks is not None:
        from attnbias.data.sets.own import own_info

        if "masks" not in (info or own_info(Path(name), request.called)).settings:
            raise UsageError(f"--masks belongs to sets in COCO layout; '{name}' holds no masks of objects")
        settings["masks"] = request.masks
    if request.orientation is not None:
        if not own:
            raise UsageError(f"--orientation belongs to sets of your own; '{name}' is read as the papers' programs do")
        settings["orientation"] = request.orientation
    return settings


def _check_source(request: PrepareRequest, own: bool) -> None:
    name, called = request.name, request.called
    if own and (request.source is not None or request.download or request.offline):
        raise UsageError(f"'{name}' is the source itself: it takes no --source, --download or --offline")
    if called is not None and not own:
        raise UsageError(f"--name belongs to sets of your own; '{name}' keeps its name")
    if called is not None and (reason := unfit_name(called)):
        raise UsageError(f"--name {called[:50]!r}: the name {reason}")
    if request.download and request.offline:
        raise UsageError("--download fetches and --offline forbids it: give one of them")


@contextmanager
def _written_below(folder: Path) -> Iterator[None]:
    """Say what cannot be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        location = error.filename or folder
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UsageError(f"{location} cannot be a folder: {error.strerror}; choose another --root") from None
        if error.errno == errno.ENAMETOOLONG:
            raise  # of a path that was typed
        raise RunError(f"{location}: {error.strerror or error}") from None


@contextmanager
def fetch_progress() -> Iterator[ProgressCallback]:
    """A progress bar on a terminal; elsewhere a line where an archive is begun, and one where it is done."""
    if not sys.stderr.isatty():
        logging.getLogger("attnbias.data").setLevel(logging.INFO)
    with waiting_bar(error=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(visible(what), total=total)
            bar.update(tasks[what], completed=done)

        yield advance


def _show(report: Report, dry_run: bool) -> None:
    """The table of what is in each split, shares of pixels, co-occurrences, warnings, and what to do next."""
    from attnbias.data.summary import summarize

    name = report.prepared.dataset
    summaries = [summarize(index, pixels=report.pixels.get(index.split)) for index in report.indexes]
    classes = len(report.indexes[0].classes)
    say(f"{report.info.title}: {classes} classes" if classes else report.info.title)
    table = Table("split", "role", ruled=True)
    for column in _figures(summaries[0]):
        table.column(column, justify="right")
    for summary in summaries:
        roles = [role for role, split in report.prepared.roles.items() if split == summary.split]
        table.row(summary.split, ", ".join(roles), *_figures(summary).values())
    table.show()
    for summary in summaries:
        if summary.absent:
            more = f" and {len(summary.absent) - NAMED:,} more" if len(summary.absent) > NAMED else ""
            say(f"never in {summary.split}: {', '.join(summary.absent[:NAMED])}{more}")
    played = report.prepared.roles
    train = next(summary for summary in summaries if summary.split == played.get("train", played["val"]))
    if train.shares:
        shares = ", ".join(f"{name.strip()} {share:.1%}" for name, share in train.shares[:NAMED])
        more = f", and {len(train.shares) - NAMED:,} more" if len(train.shares) > NAMED else ""
        say(f"labelled pixels of {train.split}: {shares}{more}")
    if train.pairs:
        say(f"strongest co-occurrences in {train.split}:")
    for pair in train.pairs:
        say(
            f"  {pair.first} + {pair.second}: {pair.given_first:.0%} of {pair.first}, "
            f"{pair.given_second:.0%} of {pair.second} (phi {pair.correlation:.2f})"
        )
    say(f"images are read {ORIENTATIONS[report.indexes[0].orientation]}")
    for line in Tally(report.prepared.left_out).lines():
        say(f"left out: {line}")
    for line in Tally(report.prepared.remarks).lines():
        say(line)
    for warning in report.warnings:
        say(f"warning: {warning}", error=True)
    if dry_run:
        say(f"dry run: nothing was written to {report.folder}")
    else:
        say(f"{name} is ready in {report.folder}")


def _figures(summary: Summary) -> dict[str, str]:
    """What the table says of a split, by column."""
    absent = f"{len(summary.absent):,}"
    if summary.shares:
        return {
            "images": f"{summary.images:,}",
            "classes per image": f"{summary.labels / summary.samples:.1f}",
            "ignored pixels": f"{summary.ignored:.1%}",
            "absent classes": absent,
        }
    if summary.texts:
        return {
            "images": f"{summary.images:,}",
            "samples": f"{summary.samples:,}",
            "texts": f"{summary.texts:,}",
            "labels": f"{summary.labels:,}",
            "no label": f"{summary.unlabelled:,}",
            "absent classes": absent,
        }
    return {
        "images": f"{summary.images:,}",
        "samples": f"{summary.samples:,}",
        "labels": f"{summary.labels:,}",
        "boxes": f"{summary.boxes:,}",
        "no label": f"{summary.unlabelled:,}",
        "absent classes": absent,
    }
