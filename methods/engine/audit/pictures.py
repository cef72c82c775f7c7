"""The images that an audit shows: which they are, and how they are drawn for the page and for worst/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.audit.result import Audit, Causes, Cell, Example, Finding, Sample
from attnbias.methods.engine.display.gallery import GalleryItem
from attnbias.methods.engine.display.inference import Column, ImageSample, predict_samples, sample_of
from attnbias.methods.engine.display.overlay import DrawnBox, corners, draw, enlarged, seen_part
from attnbias.methods.engine.display.writer import LONGEST, file_name

WORST = "worst"

EXAMPLES, IN_CELL = 4, 12
"""Images of a finding, and of a cell of the two-by-two."""

MOST_PROPERTIES = 3
"""Findings of what predicts a label or an error that have images."""

BATCH = 16
"""Images shown to a model at once."""

SIDE = 240
"""Longest side of an image on the page, in pixels."""


# Which ----------------------------------------------------------------------------------------------------------------


def choose(
    samples: Sequence[Sample], quadrants: Sequence[Cell], causes: Causes, classes: Sequence[str], seed: int = 0
) -> tuple[Finding, ...]:
    """At most four images of each finding, and four that are drawn by chance; no image twice in one finding."""

    def finding(name: str, title: str, how: str, rows: Iterable[int]) -> Finding:
        return Finding(name, title, how, tuple(_example(row, samples[row], classes) for row in rows))

    cells = {(cell.right, cell.on_object): cell.samples for cell in quadrants}

    def cell(right: bool, on_object: bool, order: Callable[[Sample], float]) -> Iterator[int]:
        rows = sorted(cells.get((right, on_object), ()), key=lambda row: order(samples[row]))
        return islice(_one_an_image(rows, samples), EXAMPLES)

    found = [
        finding(
            "right-elsewhere",
            "Right, and looks elsewhere",
            "the four with the highest score",
            cell(True, False, lambda sample: -sample.score),
        ),
        finding(
            "wrong-elsewhere",
            "Wrong, and looks elsewhere",
            "the four with the lowest score",
            cell(False, False, lambda sample: sample.score),
        ),
        finding(
            "wrong-on-object",
            "Wrong, though it looks at the object",
            "the four with the most of the map on the object",
            cell(False, True, lambda sample: -sample.values.get("energy", 0.0)),
        ),
        finding(
            "context-only",
            "Right, and keeps at least half of its score with the object taken away",
            "the four with the highest score on the context alone",
            islice(_one_an_image(_by_context(samples), samples), EXAMPLES),
        ),
    ]
    for number, entry in enumerate(islice((each for each in causes.properties if each.sure), MOST_PROPERTIES)):
        rows = islice(_one_an_image(entry.samples, samples), EXAMPLES)
        found.append(finding(f"property-{number + 1}", entry.text, f"the first four with {entry.rule}", rows))
    by_chance = _drawn(samples, seed)
    how = f"drawn by chance from all {_images(samples):,} images (seed {seed}), not chosen"
    found.append(finding("random", "Drawn by chance", how, by_chance))
    return tuple(each for each in found if each.examples)


def _example(row: int, sample: Sample, classes: Sequence[str]) -> Example:
    true = () if sample.label < 0 else (classes[sample.label],)
    drawn = sample.label if sample.label >= 0 else next(iter(sample.predicted), None)
    predicted = tuple(classes[label] for label in sample.predicted)
    return Example(row, sample.path, true, predicted, "" if drawn is None else classes[drawn], says(sample))


def says(sample: Sample) -> str:
    """What is to be seen on a sample's image, with its figures."""
    words = [f"score {sample.score:.2f}"]
    if "energy" in sample.values:
        words.append(f"{sample.values['energy']:.0%} of the map on the object")
    if "context_only" in sample.values:
        words.append(f"score {sample.values['context_only']:.2f} on the context alone")
    return ", ".join(words)


def _by_context(samples: Sequence[Sample]) -> list[int]:
    """Right ones that keep at least half of their score on the context alone, the highest score first."""
    alone = {row: sample.values.get("context_only", 0.0) for row, sample in enumerate(samples) if sample.right}
    kept = [row for row, score in alone.items() if score > 0 and score >= samples[row].score / 2]
    return sorted(kept, key=lambda row: -alone[row])


def _one_an_image(rows: Iterable[int], samples: Sequence[Sample]) -> Iterator[int]:
    seen = set()
    for row in rows:
        if samples[row].image not in seen:
            seen.add(samples[row].image)
            yield row


def _drawn(samples: Sequence[Sample], seed: int) -> list[int]:
    """A sample of each of four images, all images being as likely."""
    first = list(_one_an_image(range(len(samples)), samples))
    order = np.random.default_rng(seed).permutation(len(first))[:EXAMPLES]
    return [first[place] for place in order.tolist()]


def _images(samples: Sequence[Sample]) -> int:
    return len({sample.image for sample in samples})


def shown(audit: Audit) -> list[int]:
    """Positions in the split of the images that the page shows, those that it needs most first."""
    examples = (example.sample for finding in audit.pictures for example in finding.examples)
    in_cells = zip_longest(*(cell.samples[:IN_CELL] for cell in audit.quadrants))
    rows = chain(examples, (row for each in in_cells for row in each if row is not None))
    return list(dict.fromkeys(audit.samples[row].image for row in rows))


# How ------------------------------------------------------------------------------------------------------------------


def draw_pictures(
    audit: Audit, dataset: ImageDataset, column: Column, folder: Path | None = None
) -> dict[int, GalleryItem]:
    """Look again at the images that the page shows: position in the split -> image, scores and maps.

    Args:
        folder: where the examples of every finding but the random one are written as JPEG, with the map of the true
            class at the image's own size.
    """
    images, drawn = shown(audit), {}
    overlays = _overlays(audit)
    for start in range(0, len(images), BATCH):
        positions = images[start : start + BATCH]
        samples = [sample_of(dataset, position) for position in positions]
        for position, sample, prediction in zip(
            positions, samples, predict_samples(samples, [column], [], "minmax"), strict=True
        ):
            small = sample.image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
            item = GalleryItem(sample.name, small, prediction.views, sample.true, sample.unknown, sample.boxes)
            drawn[position] = item
            if folder is not None:
                for name, label in overlays.get(position, ()):
                    _write_overlay(folder, name, label, sample, item, audit.about.classes)
    return drawn


def _overlays(audit: Audit) -> dict[int, list[tuple[str, int]]]:
    """Position in the split -> names of files to write, without their class, and the class that is drawn."""
    names: dict[int, list[tuple[str, int]]] = {}
    for finding in audit.pictures:
        for place, example in enumerate(finding.examples if finding.name != "random" else ()):
            sample = audit.samples[example.sample]
            name = f"{finding.name}_{place + 1}_{file_name(Path(sample.path).stem)[:LONGEST]}"
            names.setdefault(sample.image, []).append((name, sample.label))
    return names


def _write_overlay(
    folder: Path, name: str, label: int, sample: ImageSample, item: GalleryItem, classes: Sequence[str]
) -> None:
    view = item.views[0]
    if label not in view.maps:
        return
    image = enlarged(sample.image)
    boxes = [box for box in sample.boxes if box.label == label]
    overlay = draw(
        image,
        view.maps[label],
        frame=seen_part(view.frame, image),
        contour=True,
        boxes=[DrawnBox(*corners(box[1:], image), classes[label]) for box in boxes],
    )
    target = folder / WORST
    target.mkdir(parents=True, exist_ok=True)
    overlay.save(target / f"{name}.{file_name(classes[label])[:LONGEST]}.jpg", quality=90)
