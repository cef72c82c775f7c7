"""Show the same images to several models: scores, predicted labels and attention of each, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.published_tests import competing_classes, competing_scores, own_transform
from attnbias.data.registry import open_split
from attnbias.data.segmentation import LabelMapDataset
from attnbias.data.summary import Suggestions, suggestions
from attnbias.data.transforms.basic import Transform
from attnbias.methods.engine.abilities import LabelsPixels, ShowsChannels
from attnbias.methods.engine.display.gallery import GalleryItem, GalleryRun, ShareBox, View
from attnbias.methods.engine.display.panels import Panels
from attnbias.methods.engine.display.segments import Labels, Segments, by_size
from attnbias.methods.engine.errors import NotFiniteError
from attnbias.methods.engine.load import Loaded, input_words
from attnbias.methods.engine.maps import attention_maps, layer_name, normalise
from attnbias.methods.engine.metrics import THRESHOLD

MOST_CLASSES = 12
"""Maps drawn of one image: true labels first, then predicted ones by their score."""

Frame = tuple[float, float, float, float]
"""The part of an image that a network sees: x, y, width, height, as shares of its sides."""

RULES = {
    "minmax": "each map stretched to 0..1 by its own minimum and maximum",
    "max": "each map divided by its own maximum",
}


@dataclass(frozen=True)
class ImageSample:
    """One image and what is known about it."""

    name: str
    image: Image.Image
    true: tuple[int, ...] | None = None
    unknown: tuple[int, ...] = ()
    boxes: tuple[ShareBox, ...] = ()
    labels: Labels | None = None
    """Class of each pixel, where that is known."""
    questions: Mapping[str, str] = field(default_factory=dict)
    """What is asked of it in words, and what people answered, where that is known."""
    index: Index | None = None
    """The split that it comes from, which may have rules of its own."""
    group: str | None = None
    """Its group, such as the photograph behind the digits of the demo set, where the split tells one."""


@dataclass(frozen=True)
class Column:
    """A model and one kind of its maps."""

    name: str
    loaded: Loaded
    kind: str
    head: int | None

    def describe(self, rule: str) -> GalleryRun:
        """Say which model, which map and which normalisation this is."""
        method, model = self.loaded.method, self.loaded.model
        words = {**method.maps, **method.explainers()}.get(self.kind, "").rstrip(".")
        if (layer := layer_name(method, model, self.kind)) is not None:
            words = f"{words} at {layer}"
        steering = self.loaded.steering if self.kind in method.steered_maps else None
        words += "" if steering is None else f"; steered by {steering.words}"
        return GalleryRun(
            name=self.name,
            method=f"{method.title}. {method.paper}",
            checkpoint=self.loaded.source,
            map=f"{self.kind}: {words}" + ("" if self.head is None else f", head {self.head}"),
            normalisation=f"{rule}: {RULES[rule]}",
            images=input_words(method, self.loaded.recipe),
            recipe=self.loaded.recipe.model_dump(mode="json"),
        )


@dataclass(frozen=True)
class Prediction:
    """What all columns say about one photo."""

    views: tuple[View, ...]
    raw: tuple[dict[int, NDArray[np.float32]], ...]
    """For each column: class -> map (h, w) as the method gives it, before normalisation."""
    panels: tuple[Panels, ...]
    """For each column: what its model did to its channels; empty where an earlier column has the same model."""
    scores: tuple[NDArray[np.float32], ...] = ()
    """For each column: the probability of each class (C,), where it was asked for classes."""

    @property
    def peak(self) -> float:
        """Highest value of the first column's maps."""
        return max(float(values.max()) for values in self.raw[0].values())


def sample_of(dataset: ImageDataset, position: int) -> ImageSample:
    """One sample of a split with its labels and boxes, its label map, or its text."""
    image, target = dataset.image(position), dataset.targets[position]
    record, classes = dataset.records[position], dataset.index.classes
    if isinstance(dataset, LabelMapDataset):
        pixels = dataset.label_map(position)
        return ImageSample(record.path, image, by_size(pixels), labels=pixels)
    if record.text is not None:
        answers = [label for label, _ in record.text.answers] if dataset.index.task == "vqa" else [int(target)]
        people = ", ".join(classes[label] for label in answers if classes)
        return ImageSample(record.path, image, questions={record.text.sentence: people})
    boxes, labels = dataset.boxes(position)
    shares = boxes / torch.tensor([image.width, image.height] * 2)
    multilabel = dataset.index.task == "multilabel"
    return ImageSample(
        name=record.path,
        image=image,
        true=_labels(target == 1) if multilabel else (int(target),),
        unknown=_labels(target == -1) if multilabel else (),
        boxes=tuple(ShareBox(int(label), *share.tolist()) for label, share in zip(labels, shares, strict=True)),
        index=dataset.index,
        group=record.group,
    )


def gallery_item(
    sample: ImageSample, image: Image.Image, views: tuple[View, ...], known: Suggestions | None = None
) -> GalleryItem:
    """A sample as a page shows it.

    Args:
        image: as large as the page shall hold it.
        known: what came with what in training (`in_training`).
    """
    there = [sample.index.classes[label] for label in sample.true or ()] if sample.index is not None else []
    suggested: dict[int, str] = {}
    for thing in [*([sample.group] if sample.group is not None else []), *there]:
        for label, share in (known or {}).get(thing, ()):
            suggested.setdefault(label, f"{share:.0%} of the training images with {thing} had it")
    return GalleryItem(sample.name, image, views, sample.true, sample.unknown, sample.boxes, suggested)


def in_training(loaded: Loaded, index: Index, data_root: Path | None) -> Suggestions:
    """What came with what in the split that a model was trained on, for images of `index`; nothing where that tells
    nothing (one label an image, and no groups), or is not prepared here."""
    if index.task == "singlelabel" and all(record.group is None for record in index.records):
        return {}
    try:
        train = open_split(loaded.recipe.dataset, "train", data_root)
    except DataError:
        return {}
    return suggestions(train) if train.classes == index.classes else {}


def place_input(transform: Transform, original: Image.Image) -> tuple[Tensor, Frame]:
    """Transform an image, and find which part of it the network's input covers.

    A box in the middle of the image goes through the transform too; where it lands tells scale and offset.
    """
    width, height = original.size
    x, y, w, h = 0.45 * width, 0.45 * height, 0.1 * width, 0.1 * height
    box = tv_tensors.BoundingBoxes(torch.tensor([[x, y, w, h]]), format="XYWH", canvas_size=(height, width))
    image, moved = transform(original, box)
    new_x, new_y, new_w, new_h = moved[0].tolist()
    across, down = new_w / w, new_h / h
    left, top = x - new_x / across, y - new_y / down
    frame = left / width, top / height, image.shape[-1] / across / width, image.shape[-2] / down / height
    return image, frame


@torch.no_grad()
def predict_samples(
    samples: Sequence[ImageSample], columns: Sequence[Column], asked: Sequence[int], rule: str
) -> list[Prediction]:
    """Score photos and map the attention of every column for the same classes of each photo.

    `asked` are the classes to map; where it is empty, each photo's true labels and all labels that a model predicts.

    Raises:
        UsageError: a method has no such map or head. RunError: a map holds NaN or infinity.
    """
    if not samples:
        return []
    models = {id(column.loaded): column.loaded for column in columns}
    answers = {key: _answer(loaded, samples) for key, loaded in models.items()}
    mapped, listed = _chosen(samples, list(answers.values()), asked)
    seen = [_views(column, answers[id(column.loaded)], mapped, listed, rule) for column in columns]
    # A model's panels go to the first of its columns.
    panels = {key: answer.panels for key, answer in answers.items()}
    shown = [panels.pop(id(column.loaded), [{}] * len(samples)) for column in columns]
    scores = [answers[id(column.loaded)].scores for column in columns]
    by_photo = zip(zip(*seen, strict=True), zip(*shown, strict=True), zip(*scores, strict=True), strict=True)
    return [
        Prediction(tuple(view for view, _ in views), tuple(maps for _, maps in views), vectors, rows)
        for views, vectors, rows in by_photo
    ]


class _Answer(NamedTuple):
    """What a model says of each photo."""

    images: Tensor
    """(B, 3, H, W), as it sees them."""
    frames: list[Frame]
    scores: NDArray[np.float32]
    """(B, C)."""
    panels: list[Panels]
    segments: list[Segments | None]
    predicted: list[tuple[int, ...]]


def _answer(loaded: Loaded, samples: Sequence[ImageSample]) -> _Answer:
    placed = [place_input(_transform_of(sample, loaded), sample.image) for sample in samples]
    images = torch.stack([image for image, _ in placed]).to(next(loaded.model.parameters()).device)
    values = loaded.method.predict(loaded.model, images, loaded.task)["scores"].float().cpu().numpy()
    if broken := [sample.name for sample, row in zip(samples, values, strict=True) if not np.isfinite(row).all()]:
        raise NotFiniteError(f"scores of {broken[0]} hold")
    scores = np.stack([_competing(sample, row) for sample, row in zip(samples, values, strict=True)])
    segments = [_segments(loaded, sample) for sample in samples]
    predicted = [_predicted(loaded, *row) for row in zip(scores, segments, strict=True)]
    return _Answer(images, [frame for _, frame in placed], scores, _panels(loaded, images), segments, predicted)


def _chosen(
    samples: Sequence[ImageSample], answers: Sequence[_Answer], asked: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """The classes of each photo that are mapped, and those whose scores are told."""
    highest = np.max([answer.scores for answer in answers], axis=0)  # (B, C): over the models
    mapped, listed = [], []
    for position, sample in enumerate(samples):
        true = sample.true or ()
        others = {label for answer in answers for label in answer.predicted[position]} - set(true)
        ranked = [*true, *sorted(others, key=lambda label: -highest[position, label])] or [
            int(highest[position].argmax())
        ]
        mapped.append(list(asked) or ranked[:MOST_CLASSES])
        listed.append(list(dict.fromkeys([*asked, *ranked])))
    return mapped, listed


def _views(
    column: Column, answer: _Answer, mapped: Sequence[list[int]], listed: Sequence[list[int]], rule: str
) -> list[tuple[View, dict[int, NDArray[np.float32]]]]:
    """What a column shows of each photo, and its maps before normalisation."""
    widest, method = max(map(len, mapped)), column.loaded.method
    classes = torch.tensor([labels + labels[:1] * (widest - len(labels)) for labels in mapped])  # (B, K), padded
    images = answer.images
    maps = attention_maps(
        method,
        column.loaded.model,
        images,
        classes.to(images.device),
        column.kind,
        column.head,
        column.loaded.steering,
    )
    drawn, plain = normalise(maps, rule).cpu().numpy(), maps.cpu().numpy()
    return [
        (
            View(
                scores={label: float(answer.scores[position, label]) for label in listed[position]},
                predicted=answer.predicted[position],
                maps=dict(zip(labels, drawn[position], strict=False)),
                ranges={
                    label: (float(values.min()) if rule == "minmax" else 0.0, float(values.max()))
                    for label, values in zip(labels, plain[position], strict=False)
                },
                frame=answer.frames[position],
                figures=_figures(answer.segments[position], labels),
                segments=answer.segments[position],
            ),
            dict(zip(labels, plain[position], strict=False)),
        )
        for position, labels in enumerate(mapped)
    ]


def _transform_of(sample: ImageSample, loaded: Loaded) -> Transform:
    recipe = loaded.recipe
    own = own_transform(sample.index, recipe.image_size, recipe.normalize) if sample.index is not None else None
    return loaded.method.transform(recipe, train=False) if own is None else own


def _competing(sample: ImageSample, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (C,) with 0 for classes that do not compete in the photo's set."""
    classes = competing_classes(sample.index) if sample.index is not None else None
    return scores if classes is None else competing_scores(scores[None], classes)[0]


def _panels(loaded: Loaded, images: Tensor) -> list[Panels]:
    """The panels of each image."""
    shown = loaded.method.panels(loaded.model, images) if isinstance(loaded.method, ShowsChannels) else {}
    arrays = {
        block: {name: values.float().cpu().numpy() for name, values in vectors.items()}
        for block, vectors in shown.items()
    }
    return [
        {block: {name: values[position] for name, values in vectors.items()} for block, vectors in arrays.items()}
        for position in range(len(images))
    ]


def _segments(loaded: Loaded, sample: ImageSample) -> Segments | None:
    """The class of each pixel, where the method tells it."""
    if not isinstance(loaded.method, LabelsPixels):
        return None
    predicted = loaded.method.label_map(loaded.model, np.asarray(sample.image.convert("RGB")), loaded.recipe)
    return Segments(predicted, sample.labels, tuple(loaded.classes))


def _predicted(loaded: Loaded, scores: NDArray[np.float32], segments: Segments | None) -> tuple[int, ...]:
    if segments is not None:
        return by_size(segments.predicted)
    return _labels(scores >= THRESHOLD) if loaded.task == "multilabel" else (int(scores.argmax()),)


def _figures(segments: Segments | None, labels: Sequence[int]) -> dict[int, str]:
    """What is said below the map of each class."""
    return {} if segments is None else {label: segments.words(label) for label in labels}


def _labels(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(chosen).tolist())
