"""What the headers of a person's own images tell before anything is decoded: orientation, frames, and whether the
annotated boxes fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attnbias.data.coco_file import read_coco_file
from attnbias.data.errors import DataError
from attnbias.data.images import Header, read_header
from attnbias.data.index import Index, Orientation, Record
from attnbias.data.progress import ProgressCallback, silent
from attnbias.data.reading import Json
from attnbias.data.tally import Tally, first_of

UNREADABLE = "image that cannot be read"
TURNED = "image turned upright, as its EXIF orientation says"
KEPT = "image with an EXIF orientation that is not applied"
ANIMATED = "image of several frames, of which the first is read"
OUTSIDE = "image with a box that reaches out of it"
TINY = "image whose boxes all lie within its first pixel: are they shares of its sides, not pixels?"
RESIZED = "image of another size than its COCO file states, which boxes and masks are of"

SLACK = 1.0
"""Pixels that a box may reach out of its image: annotation tools round."""


def read_headers(
    paths: Sequence[str | Path],
    workers: int = 1,
    progress: ProgressCallback = silent,
) -> dict[str, Header | None]:
    """Read the headers of different files, None for one that cannot be read."""
    found: dict[str, Header | None] = {}
    with ThreadPoolExecutor(workers) as pool:  # it waits for the disk
        for path, header in zip(paths, pool.map(_header, paths), strict=True):
            found[str(path)] = header
            progress("reading headers", len(found), len(paths))
    return found


def remarks(headers: Mapping[str, Header | None], orientation: Orientation) -> Tally:
    """What a person should know of how these images are read, by reason."""
    tally = Tally()
    for path, header in headers.items():
        if header is None:
            tally.add(UNREADABLE, path)
            continue
        if header.orientation != 1:
            tally.add(TURNED if orientation == "upright" else KEPT, path)
        if header.animated:
            tally.add(ANIMATED, path)
    return tally


def check_annotated_sizes(index: Index, headers: Mapping[str, Header | None]) -> Tally:
    """Hold boxes, and the sizes that a COCO file states, against the images as they are read; count what reaches out.

    Raises:
        DataError: the annotations of some images fit them in the other orientation alone.
    """
    tally, other = Tally(), []
    stated = _stated_sizes(index.annotations) if index.annotations is not None else {}
    rest: Orientation = "stored" if index.orientation == "upright" else "upright"
    for record in index.records:
        header = headers.get(f"{index.root}/{record.path}")
        if header is None:
            continue
        as_read, otherwise = header.size(index.orientation), header.size(rest)
        fits = _inside(record, as_read)
        size = stated.get(record.image_id)
        if as_read != otherwise and (
            size == otherwise or (size != as_read and not fits and _inside(record, otherwise))
        ):
            other.append(record.path)
        elif size not in (None, as_read):
            tally.add(RESIZED, record.path)
        elif not fits:
            tally.add(OUTSIDE, record.path)
        elif record.boxes and all(box.x + box.w <= 1 and box.y + box.h <= 1 for box in record.boxes):
            tally.add(TINY, record.path)
    if other:
        raise DataError(
            f"split '{index.split}': boxes or masks of {len(other):,} images fit them {rest} alone, and this set is "
            f"read {index.orientation} ({first_of(other)}); add --orientation {rest}, or save the images without EXIF "
            "orientation"
        )
    return tally


def _inside(record: Record, size: tuple[int, int]) -> bool:
    width, height = size
    return all(
        box.x >= -SLACK and box.y >= -SLACK and box.x + box.w <= width + SLACK and box.y + box.h <= height + SLACK
        for box in record.boxes
    )


def _stated_sizes(annotations: Path) -> dict[object, tuple[int, int]]:
    """Width and height that a COCO file states of each image id, where it does."""
    images: Iterable[Json] = read_coco_file(annotations)["images"]
    return {
        image["id"]: (image["width"], image["height"]) for image in images if image.get("width") and image.get("height")
    }


def _header(path: str | Path) -> Header | None:
    try:
        return read_header(Path(path))
    except DataError:
        return None
