"""`attnbias prepare-data`: check a dataset, write its index, say what is in it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attnbias.cli.options import read_request
from attnbias.data.info import together
from attnbias.data.tally import Tally
from attnbias.methods.engine.requests import PrepareRequest
from attnbias.methods.engine.screen import Table, progress, say

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


def prepare_data(**typed: object) -> None:
    """Check a dataset, write its index files, and show what is in it.

    Running it again repeats the checks and changes nothing. `demo` and `demo-single` are made on the spot. A folder of
    your own holds a folder of images for each class (below train/ and val/, if you have both), annotations in COCO
    layout, one table with the columns path and label (or labels, separated by ";"), and perhaps split, group, mask and
    box, WebDataset shards (with --in-place), or images/ and labels/ with a PNG of class numbers for each image. masks/
    beside the classes holds a PNG for each image, not zero where its object is. Images of your own are read upright, as
    their EXIF orientation says. What is left out, and the same image twice, is counted and named.
    """
    request = read_request(PrepareRequest, typed)
    from attnbias.methods.engine.prepare_data import prepare_data

    with fetch_progress() as tell:
        report = prepare_data(request, tell)
    show(report, request.dry_run)


@contextmanager
def fetch_progress() -> Iterator[ProgressCallback]:
    """A progress bar on a terminal; elsewhere a line where an archive is begun, and one where it is done."""
    if not sys.stderr.isatty():
        logging.getLogger("attnbias.data").setLevel(logging.INFO)
    with progress() as tell:
        yield tell


def show(report: Report, dry_run: bool) -> None:
    """The table of what is in each split, shares of pixels, co-occurrences, warnings, and what to do next."""
    from attnbias.data.summary import summarize

    name = report.prepared.dataset
    summaries = [summarize(index, pixels=report.pixels.get(index.split)) for index in report.indexes]
    classes = len(report.indexes[0].classes)
    say(f"{report.info.title}: {classes} classes" if classes else report.info.title)
    table = Table("split", "role", ruled=True, names=1)
    for column in _figures(summaries[0]):
        table.column(column, justify="right")
    played = report.prepared.roles
    roles = {each.split: ", ".join(role for role, split in played.items() if split == each.split) for each in summaries}
    for splits, row in together({each.split: (roles[each.split], *_figures(each).values()) for each in summaries}):
        table.row(splits, *row)
    table.show()
    for splits, absent in together({each.split: each.absent for each in summaries if each.absent}):
        more = f" and {len(absent) - NAMED:,} more" if len(absent) > NAMED else ""
        say(f"never in {splits}: {', '.join(absent[:NAMED])}{more}")
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
