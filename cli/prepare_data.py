"""`attnbias prepare-data`: check a dataset, write its index, say what is in it."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from attnbias.cli.shared import DataRoot
from attnbias.data.names import unfit_name
from attnbias.data.reading import Json
from attnbias.data.registry import DATASETS, dataset_folder
from attnbias.data.tally import Tally
from attnbias.methods.engine.errors import RunError, UsageError, did_you_mean
from attnbias.methods.engine.screen import Table, say, waiting_bar
from attnbias.methods.engine.text import visible

if TYPE_CHECKING:
    from attnbias.data.prepare import Report
    from attnbias.data.progress import Progress
    from attnbias.data.summary import Summary

DEMO = "Demo sets"
ORIENTATIONS: dict[str, str] = {
    "stored": "as their pixels are stored, whatever EXIF orientation they have",
    "upright": "upright, as their EXIF orientation says",
}
ROLES = "Which split does what"
NAMED = 20
"""Classes are listed up to this many."""


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(name, facts.title) for name, facts in DATASETS.items() if name.startswith(incomplete)]


def prepare_data(
    name: Annotated[
        str,
        typer.Argument(
            help="Dataset (see attnbias list datasets), or a folder, .csv or COCO .json of your own.",
            autocompletion=_names,
        ),
    ],
    source: Annotated[Path | None, typer.Option(help="Folder that holds the dataset's official files.")] = None,
    called: Annotated[
        str | None,
        typer.Option("--name", help="Sets of your own: what the set is called.", show_default="as its folder or file"),
    ] = None,
    root: DataRoot = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every picture and name the broken ones.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was prepared from another source or settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check; write nothing.")] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the official archives, or go on fetching them.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Verify every byte of the archives; fetch nothing.")
    ] = False,
    splits: Annotated[str | None, typer.Option(help="Only these splits, separated by commas.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that make or decode pictures.", min=1)] = None,
    min_answers: Annotated[
        int | None,
        typer.Option(
            help="vqav2: questions whose majority answer an answer must be to become a class.",
            show_default="9; fewer for small sets",
            min=1,
        ),
    ] = None,
    masks: Annotated[
        Literal["category", "supercategory"] | None,
        typer.Option(help="Make a set in COCO layout one for segmentation: its masks, named by ..."),
    ] = None,
    orientation: Annotated[
        Literal["upright", "stored"] | None,
        typer.Option(
            help="Sets of your own: read pictures as their EXIF orientation says, or as their pixels are stored.",
            show_default="upright",
        ),
    ] = None,
    train_split: Annotated[
        str | None, typer.Option(help="The split that trains, where its name does not tell.", rich_help_panel=ROLES)
    ] = None,
    val_split: Annotated[
        str | None, typer.Option(help="The split that evaluates, where its name does not tell.", rich_help_panel=ROLES)
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            help="Hold out this share of the training files to evaluate on: by chance (--seed), of each label alike.",
            rich_help_panel=ROLES,
        ),
    ] = None,
    preset: Annotated[
        Literal["easy", "medium", "hard", "even"] | None,
        typer.Option(help="How strong the bias is; even = none.", show_default="medium", rich_help_panel=DEMO),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side.", show_default="64", min=32, rich_help_panel=DEMO)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Decides every scene, or what --val-fraction takes.", show_default="0", min=0, rich_help_panel=DEMO
        ),
    ] = None,
    train: Annotated[
        int | None, typer.Option(help="Training pictures.", show_default="3000", min=1, rich_help_panel=DEMO)
    ] = None,
    evaluation: Annotated[
        int | None,
        typer.Option("--eval", help="Pictures of each other split.", show_default="400", min=1, rich_help_panel=DEMO),
    ] = None,
) -> None:
    """Check a dataset, write its index files, and show what is in it.

    Running it again repeats the checks and changes nothing. `demo` and `demo-single` are made on the spot. A folder of
    your own holds a folder of pictures for each class (below train/ and val/, if you have both), annotations in COCO
    layout, one table with the columns path and label (or labels, separated by ";"), and perhaps split and group, or
    images/ and labels/ with a PNG of class numbers for each picture. Pictures of your own are read upright, as their
    EXIF orientation says. What is left out, and the same picture twice, is counted and named.
    """
    own = name not in DATASETS and Path(name).exists()
    if name not in DATASETS and not own:
        raise UsageError(f"unknown dataset '{name}'{did_you_mean(name, DATASETS)}; see: attnbias list datasets")
    drawn = None if val_fraction is not None else seed
    typed = {"preset": preset, "size": size, "seed": drawn, "train": train, "eval": evaluation}
    settings: Json = {option: value for option, value in typed.items() if value is not None}
    if own and (source is not None or download or offline):
        raise UsageError(f"'{name}' is the source itself: it takes no --source, --download or --offline")
    if called is not None and not own:
        raise UsageError(f"--name belongs to sets of your own; '{name}' keeps its name")
    if called is not None and (reason := unfit_name(called)):
        raise UsageError(f"--name {called[:50]!r}: the name {reason}")
    if download and offline:
        raise UsageError("--download fetches and --offline forbids it: give one of them")
    generated = not own and DATASETS[name].acquisition == "generated"
    if generated and source is not None:
        raise UsageError(f"'{name}' is made on the spot: it takes no --source")
    if not generated and settings:
        raise UsageError(
            f"--{next(iter(settings))} belongs to the demo sets; '{name}' takes its pictures from --source"
        )
    roles = {"--train-split": train_split, "--val-split": val_split, "--val-fraction": val_fraction}
    fixed = generated or (not own and DATASETS[name].train is None)
    if fixed and (given := next((flag for flag, value in roles.items() if value is not None), None)):
        raise UsageError(f"{given} is for sets whose splits may play other roles; those of '{name}' are fixed")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UsageError(f"--val-fraction {val_fraction:g} must lie between 0 and 1")
    if min_answers is not None:
        if own or "min_answers" not in DATASETS[name].settings:
            raise UsageError(f"--min-answers belongs to vqav2; '{name}' has no answers to count")
        settings["min_answers"] = min_answers

    if masks is not None:
        from attnbias.data.sets.own import own_facts

        facts = own_facts(Path(name), called) if own else DATASETS[name]
        if "masks" not in facts.settings:
            raise UsageError(f"--masks belongs to sets in COCO layout; '{name}' holds no masks of objects")
        settings["masks"] = masks
    if orientation is not None:
        if not own:
            raise UsageError(f"--orientation belongs to sets of your own; '{name}' is read as the papers' programs do")
        settings["orientation"] = orientation

    from attnbias.data.prepare import available_cores, prepare
    from attnbias.data.prepared import data_root
    from attnbias.data.sets.contract import Options
    from attnbias.methods.engine.targets import check_place

    check_place(data_root(root) / (called or Path(name).name))
    with fetch_progress() as progress:
        options = Options(
            verify=verify,
            overwrite=overwrite,
            dry_run=dry_run,
            download=download,
            offline=offline,
            splits=tuple(splits.split(",")) if splits else (),
            workers=workers or available_cores(),
            settings=settings,
            name=called,
            train_split=train_split,
            val_split=val_split,
            val_fraction=val_fraction,
            val_seed=seed or 0,
            progress=progress,
        )
        try:
            report = prepare(name, source, root, options)
        except OSError as error:
            place = error.filename or dataset_folder(called or name, root)
            if isinstance(error, FileExistsError | NotADirectoryError):
                raise UsageError(f"{place} cannot be a folder: {error.strerror}; choose another --root") from None
            if error.errno == errno.ENAMETOOLONG:
                raise  # of a path that was typed
            raise RunError(f"{place}: {error.strerror or error}") from None
    _show(report, dry_run)


@contextmanager
def fetch_progress() -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere a line where an archive is begun, and one where it is done."""
    if not sys.stderr.isatty():
        logging.getLogger("attnbias.data").setLevel(logging.INFO)
    with waiting_bar(error=True) as bar:
        tasks: Json = {}

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
    say(f"{report.facts.title}: {classes} classes" if classes else report.facts.title)
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
    say(f"pictures are read {ORIENTATIONS[report.indexes[0].orientation]}")
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
            "pictures": f"{summary.pictures:,}",
            "classes a picture": f"{summary.labels / summary.samples:.1f}",
            "ignored pixels": f"{summary.ignored:.1%}",
            "absent classes": absent,
        }
    if summary.texts:
        return {
            "pictures": f"{summary.pictures:,}",
            "samples": f"{summary.samples:,}",
            "texts": f"{summary.texts:,}",
            "labels": f"{summary.labels:,}",
            "no label": f"{summary.unlabelled:,}",
            "absent classes": absent,
        }
    return {
        "pictures": f"{summary.pictures:,}",
        "samples": f"{summary.samples:,}",
        "labels": f"{summary.labels:,}",
        "boxes": f"{summary.boxes:,}",
        "no label": f"{summary.unlabelled:,}",
        "absent classes": absent,
    }
