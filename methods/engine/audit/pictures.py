"""The images that an audit shows, drawn with their maps: for the page, and at their own size for worst/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnbias.data.datasets import ImageDataset
from attnbias.methods.engine.audit.examples import pairs_shown, shown
from attnbias.methods.engine.audit.result import Audit
from attnbias.methods.engine.display.gallery import GalleryItem, thumbnail
from attnbias.methods.engine.display.inference import Column, ImageSample, gallery_item, predict_samples, sample_of
from attnbias.methods.engine.display.overlay import enlarged
from attnbias.methods.engine.display.writer import LONGEST, blended, file_name

WORST = "worst"

BATCH = 16
"""Images shown to a model at once."""

SIDE = 240
"""Longest side of an image on the page, in pixels."""


def draw_pictures(
    audit: Audit, dataset: ImageDataset, columns: Sequence[Column], folder: Path | None = None
) -> dict[int, GalleryItem]:
    """Look again at the images that the page shows: position in the split -> image, scores and maps.

    Args:
        columns: the model, and the one before it, whose maps stand second in the images that have changed.
        folder: where the examples of every finding but the random one are written as JPEG, with the map of the true
            class at the image's own size.
    """
    paired, overlays, drawn = pairs_shown(audit), _overlays(audit), dict[int, GalleryItem]()
    alone = [position for position in shown(audit) if position not in paired]
    batches = [
        (positions[start : start + BATCH], asked)
        for positions, asked in ((alone, columns[:1]), (paired, columns))
        for start in range(0, len(positions), BATCH)
    ]
    for positions, asked in batches:
        samples = [sample_of(dataset, position) for position in positions]
        predictions = predict_samples(samples, asked, [], "minmax")
        for position, sample, prediction in zip(positions, samples, predictions, strict=True):
            item = gallery_item(sample, thumbnail(sample.image, SIDE), prediction.views)
            drawn[position] = item
            if folder is not None:
                for name, label in overlays.get(position, ()):
                    _write_overlay(folder, name, label, sample, item, audit.about.classes)
    return {position: drawn[position] for position in shown(audit)}


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
    overlay = blended(enlarged(sample.image), view, label, classes[label], sample.boxes, contour=True)
    target = folder / WORST
    target.mkdir(parents=True, exist_ok=True)
    overlay.save(target / f"{name}.{file_name(classes[label])[:LONGEST]}.jpg", quality=90)
