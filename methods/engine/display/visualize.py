"""Draw where models look: a request in; overlays, one gallery page and raw maps out.

Reading order: `visualize`, then what it shows: the models' columns, the images, what is asked of them, the looking.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.published_tests import own_rules
from attnbias.data.registry import dataset_folder, split_words
from attnbias.data.summary import Suggestions
from attnbias.methods.engine.batches import Readers, those_readable
from attnbias.methods.engine.display.inference import (
    Column,
    ImageSample,
    Prediction,
    in_training,
    predict_samples,
    sample_of,
)
from attnbias.methods.engine.display.questions import ask
from attnbias.methods.engine.display.writer import (
    GALLERY,
    MAPS,
    OVERLAYS,
    PANELS,
    SEGMENTS,
    SHEETS,
    VisualizationWriter,
)
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.kernels import in_precision
from attnbias.methods.engine.launch import place, start
from attnbias.methods.engine.load import Loaded, check_recipe_helps, class_numbers, load_asked, open_split_of
from attnbias.methods.engine.matching import in_classes_of_datasets
from attnbias.methods.engine.output_folder import output_folder
from attnbias.methods.engine.own_images import find_images, say_how_made, say_how_read
from attnbias.methods.engine.priors import steered
from attnbias.methods.engine.published import short_name, shown
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.requests import SPLIT_LIMIT, VisualizeRequest, method_and_source
from attnbias.methods.engine.screen import counted, say

BATCH = 16
"""Images shown to a model at once."""

WRITTEN = (OVERLAYS, PANELS, SEGMENTS, SHEETS, MAPS, GALLERY)
"""All that is written, and all that --overwrite replaces."""

Reader = Callable[[], ImageSample]


@dataclass(frozen=True)
class Visualized:
    """What was drawn."""

    images: int
    overlays: int
    skipped: list[str]
    """Why each other image could not be read."""
    page: Path


class DrawingPlan(NamedTuple):
    """What is done: how images are read and looked at, and what their maps are of."""

    names: Sequence[str]
    """Of classes or questions, by number; questions are added as images are looked at."""
    source: str
    """Where the images come from, in words."""
    readers: list[Reader]
    see: Callable[[list[ImageSample]], list[Prediction]]
    suggestions: Suggestions | None = None
    """What came with what in training, where that is known."""


def visualize(
    request: VisualizeRequest, models: Sequence[Loaded] = (), images: Sequence[ImageSample] = ()
) -> Visualized:
    """Look, draw and write everything into the folder `request.out`.

    `models` are those of `request.load_from`, in its order, where they are loaded already; `images` are shown in the
    place of `request.paths`, where they are read already.

    Raises:
        UsageError: something asked for cannot be had, or would replace what is not the command's own.
        DataError, WeightsError: an image (with "error") or a checkpoint cannot be read. RunError: a map is not finite,
            or the folder cannot be written.
    """
    with output_folder(request.out, request.overwrite, WRITTEN) as folder, request.finite_answers():
        request = place(request)
        device = start(request)
        precision = partial(in_precision, request.amp, device)
        columns = _columns(request, device, models)
        request.check_asked([column.loaded.method for column in columns])
        plan = _in_words if columns[0].loaded.method.reads_texts else _by_class
        names, source, readers, see, suggestions = plan(request, columns, images)
        writer = VisualizationWriter(folder, columns, request, names, suggestions)
        skipped: list[str] = []
        # Where drawing fails, progress ends with it, and not with the error, which a notebook keeps.
        with closing(_look(request, see, readers, skipped, precision)) as looked:
            seen: Iterable[tuple[ImageSample, Prediction]] = looked
            if request.top is not None:
                seen = heapq.nlargest(request.top, looked, key=lambda pair: pair[1].peak)
                source += f"; the {len(seen)} where {columns[0].name} peaks highest, highest first"
            for photo, views in seen:
                writer.add(photo, views)
        if request.amp != "no":
            source += f"; computed with --amp {request.amp}"
        if not writer.items:
            raise DataError("no image could be read: " + "; ".join(skipped[:3]))
        for loaded in {id(column.loaded): column.loaded for column in columns}.values():
            say_how_made(loaded, request.amp, of_maps=True)
        writer.write_page(source)
        if request.npz:
            writer.write_maps()
    return Visualized(len(writer.items), writer.overlays, skipped, request.out / GALLERY)


# The models -----------------------------------------------------------------------------------------------------------


def _columns(request: VisualizeRequest, device: torch.device, models: Sequence[Loaded]) -> list[Column]:
    """Load every checkpoint that is not; one column for each of its maps and heads."""
    columns: list[Column] = []
    sources = [method_and_source(source) for source in request.load_from]
    if not models:
        owners = [(prefix or request.method, file) for prefix, file in sources]
        models = [load_asked(request, name, file, device, own=name == request.method) for name, file in owners]
    if not request.paths:
        drawn = {"dataset": models[0].recipe.dataset}
        models = [
            replace(each, recipe=override(each.recipe, drawn)) if each.method.matches_classes else each
            for each in models
        ]
        models = in_classes_of_datasets(models, request.class_map, request.data_root)
    for source, (_, file), loaded in zip(request.load_from, sources, models, strict=True):
        if columns and loaded.classes != columns[0].loaded.classes:
            raise UsageError(
                f"{shown(source)} knows other classes than {shown(request.load_from[0])}; compare runs of one dataset"
            )
        run = short_name(file)
        kinds = request.maps or loaded.method.default_maps(loaded.recipe)
        asked = None if loaded.method.reads_texts else class_numbers(request.classes, loaded.classes)
        loaded = steered(request, loaded, kinds, [loaded.classes[number] for number in asked] if asked else None)
        for kind in kinds:
            for head in request.heads or (None,):
                named = request.maps or len(kinds) > 1
                words = [run, *([kind] if named else []), *([] if head is None else [f"head {head}"])]
                taken = sum(column.name.split(" #")[0] == " ".join(words) for column in columns)
                name = " ".join(words) + (f" #{taken + 1}" if taken else "")
                columns.append(Column(name, loaded, kind, head))
    check_recipe_helps(request.recipe, [c.loaded for c in columns if c.loaded.method.name == request.method])
    return columns


# The images, and what is asked of them --------------------------------------------------------------------------------


def _own_photo(name: str, path: Path) -> ImageSample:
    return ImageSample(name, read_image(path, "upright"))


def _as_it_is(image: ImageSample) -> ImageSample:
    return image


def _photos(request: VisualizeRequest, column: Column, images: Sequence[ImageSample]) -> tuple[str, list[Reader]]:
    """Where the images come from, in words, and how to read each."""
    if images:
        given = images[: request.limit]
        return f"{len(given)} images that were given", [partial(_as_it_is, image) for image in given]
    if request.paths:
        found, left_out = find_images(request.paths)
        files = found[: request.limit]
        say_how_read([path for _, path in files])
        words = f"; files and folders left out: {left_out.total}" if left_out else ""
        return ", ".join(map(str, request.paths)) + words, [partial(_own_photo, *file) for file in files]
    loaded = column.loaded
    index = open_split_of(loaded, request.split or "val", request.data_root)
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    limit = request.limit or (len(dataset) if request.top else SPLIT_LIMIT)
    positions = range(min(limit, len(dataset)))
    words = f"{index.dataset}, split {index.split}, first {len(positions)} of {len(dataset)}"
    if shows := split_words(index.dataset, index.split):
        words += f": {shows}"
    if rules := "; ".join(own_rules(index)):
        say(f"{index.dataset}: {rules}", error=True)
        words += f"; {rules}"
    return words, [partial(sample_of, dataset, position) for position in positions]


def _by_class(request: VisualizeRequest, columns: list[Column], images: Sequence[ImageSample]) -> DrawingPlan:
    """Look for classes: those that were asked for, else each image's true and predicted ones."""
    classes = columns[0].loaded.classes
    asked = class_numbers(request.classes, classes)
    source, readers = _photos(request, columns[0], images)
    see = partial(predict_samples, columns=columns, asked=asked, rule=request.normalisation)
    known = None
    if not images and not request.paths:
        loaded = columns[0].loaded
        known = in_training(loaded, open_split_of(loaded, request.split or "val", request.data_root), request.data_root)
    return DrawingPlan(classes, source, readers, see, known)


def _in_words(request: VisualizeRequest, columns: list[Column], images: Sequence[ImageSample]) -> DrawingPlan:
    """Ask in words: the questions of the request, else each sample's own text."""
    steering = columns[0].loaded.steering
    known = () if steering is None else steering.names
    asked = request.questions or known
    if known and (unknown := [question for question in asked if question not in known]):
        raise UsageError(
            f"--question '{unknown[0]}': {request.prior} has no prior of it{did_you_mean(unknown[0], known)}"
        )
    if (request.paths or images) and not asked:
        raise UsageError("add --question: what shall be asked of these images?")
    source, readers = _photos(request, columns[0], images)
    if asked:
        questions = dict.fromkeys(asked, "")
        readers = [partial(_questioned, read, questions) for read in readers]
    texts: list[str] = []
    dataset_dirs = [dataset_folder(column.loaded.recipe.dataset, request.data_root) for column in columns]
    see = partial(ask, columns=columns, texts=texts, dataset_dirs=dataset_dirs, rule=request.normalisation)
    return DrawingPlan(texts, source, readers, see)


def _questioned(read: Reader, questions: dict[str, str]) -> ImageSample:
    """Read an image and ask these questions of it."""
    return replace(read(), questions=questions)


# Looking --------------------------------------------------------------------------------------------------------------


def _look(
    request: VisualizeRequest,
    see: Callable[[list[ImageSample]], list[Prediction]],
    readers: list[Reader],
    skipped: list[str],
    precision: Callable[[], AbstractContextManager[None]],
) -> Generator[tuple[ImageSample, Prediction], None, None]:
    """Read and look at the images, a batch at a time; `skipped` gains what could not be read."""
    loader = DataLoader(Readers(readers), BATCH, num_workers=request.workers or 0, collate_fn=list)
    with counted(loader, "images", of=len(readers)) as read_batches:
        for batch in read_batches:
            photos = list(those_readable(batch, request.on_bad_image, skipped))
            with precision():
                seen = see(photos)
            yield from zip(photos, seen, strict=True)
