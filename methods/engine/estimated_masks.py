"""`--masks estimate`: the objects of images that have neither masks nor boxes, by a segmenter of torchvision's.

Nobody drew these masks: whatever is held against them says "estimated" in the place of "masks". A segmenter is asked
for the true classes of each image, and knows only some of a set's. What it does not find is left out as an object
without annotation; that is likeliest where an object is out of its usual context, so figures may be too kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models, segmentation

from attnbias.data.atomic import replacing
from attnbias.data.class_matching import match_by_name
from attnbias.data.coco_file import read_coco_file
from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record
from attnbias.data.reading import Json
from attnbias.data.tally import NAMES_SHOWN
from attnbias.data.transforms.basic import Transform
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.published import locate
from attnbias.methods.engine.requests import AuditRequest, ValRequest
from attnbias.methods.engine.screen import counted, say
from attnbias.methods.engine.types import LABELLED
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import load_strict, read_checkpoint

BESIDE = "aux_classifier."
"""Weights that only training uses."""


@dataclass(frozen=True)
class Segmenter:
    """A network that says the class of each pixel."""

    words: str
    """Which one, with which weights."""
    model: nn.Module
    categories: tuple[str, ...]
    """What it knows, in the order of its scores; the first is the background."""
    prepare: Transform
    """Its weights' own preset: PIL image -> (3, h, w)."""

    @torch.no_grad()
    def label_map(self, image: Image.Image) -> NDArray[np.int64]:
        """The category of each pixel of an image (H, W): the highest score, enlarged by nearest neighbours."""
        device = next(self.model.parameters()).device
        scores = self.model(self.prepare(image)[None].to(device))["out"]
        found = Image.fromarray(scores[0].argmax(0).byte().cpu().numpy())
        return np.asarray(found.resize(image.size, Image.Resampling.NEAREST)).astype(np.int64)


def open_segmenter(typed: str, device: str | None) -> tuple[Segmenter, str]:
    """The segmenter of NAME or NAME:FILE, and the SHA-256 of its weights.

    Raises:
        UsageError: torchvision has none of this name. WeightsError, DataError: its weights are missing or do not fit.
    """
    name, _, file = typed.partition(":")
    names = list_models(module=segmentation)
    if name not in names:
        raise UsageError(
            f"--segmenter {typed}: torchvision has no '{name}'{did_you_mean(name, names)}; one of: {', '.join(names)}"
        )
    published = get_model_weights(name).DEFAULT
    try:
        path = locate(file or published.url)
    except (WeightsError, DataError) as error:
        raise type(error)(f"--masks estimate: {error}; or name a file of yours: --segmenter {name}:FILE") from None
    state = {key: value for key, value in read_checkpoint(path).state.items() if not key.startswith(BESIDE)}
    categories = tuple(published.meta["categories"])
    model = get_model(name, weights=None, weights_backbone=None, num_classes=len(categories))
    load_strict(model, state, path)
    words = f"torchvision's {name}" + (f" ({path.name})" if file else "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Segmenter(words, model.to(device or "cpu").eval(), categories, published.transforms()), digest


def with_estimated_masks(request: ValRequest | AuditRequest, index: Index) -> Index:
    """The split with masks of its objects, where the request asks for them; as it is otherwise.

    They are kept in the dataset's folder, by segmenter, weights, classes and images: models that are measured on one
    split, processes and later commands find them there.

    Raises:
        UsageError: the split has objects of its own, or the segmenter knows none of its classes.
        DataError: it finds no object, or an image cannot be read. WeightsError: as `open_segmenter`.
    """
    if request.masks is None:
        return index
    where = f"{index.dataset}/{index.split}"
    if index.task not in LABELLED:
        raise UsageError(f"--masks estimate is for sets of labelled images, and '{index.dataset}' is for {index.task}")
    if index.annotations is not None or any(record.boxes for record in index.records):
        raise UsageError(f"--masks estimate: {where} has objects of its own; leave it out")
    segmenter, digest = open_segmenter(request.segmenter, request.device)
    known = match_by_name(segmenter.categories, index.classes)
    if len(known.unknown) == len(index.classes):
        raise UsageError(
            f"--masks estimate: {segmenter.words} knows none of the classes of {where} ({_named(index.classes)}); it "
            f"knows: {', '.join(segmenter.categories[1:])}"
        )
    unknown = f"; it does not know, and leaves without objects: {_named(known.unknown)}" if known.unknown else ""
    say(f"objects of {where} are estimated by {segmenter.words}: nobody drew them{unknown}", error=True)
    members = {label: numbers[0] for label, numbers in enumerate(known.members) if numbers}
    key = json.dumps([digest, segmenter.words, index.classes, index.orientation, [r.path for r in index.records]])
    folder = (index.dataset_dir or index.root) / "annotations"
    file = folder / f"estimated-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}.json"
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                content = _content(request, index, segmenter, members)
                with replacing(file) as to:
                    to.write(json.dumps(content))
    except OSError as error:
        raise DataError(f"--masks estimate: cannot write into {folder}: {error.strerror}") from None
    found = _with_objects(index, file)
    if not any(record.boxes for record in found.records):
        raise DataError(f"--masks estimate: {segmenter.words} finds no object in {where}")
    return replace(found, estimated_by=segmenter.words)


def _named(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - NAMES_SHOWN:,} more" if len(classes) > NAMES_SHOWN else ""
    return ", ".join(classes[:NAMES_SHOWN]) + more


# What is kept of them -------------------------------------------------------------------------------------------------


def _content(
    request: ValRequest | AuditRequest, index: Index, segmenter: Segmenter, members: Mapping[int, int]
) -> Json:
    """Masks of all images in COCO's layout, an object for each true class of an image that has a pixel."""
    dataset = ImageDataset(index, lambda image: image)
    images: list[Json] = []
    annotations: list[Json] = []
    with counted(range(len(dataset)), "estimating masks") as positions:
        for position in positions:
            try:
                image = dataset.image(position)
            except DataError:
                if request.on_bad_image == "error":
                    raise
                images.append({"id": position, "file_name": index.records[position].path})
                continue
            size = {"width": image.width, "height": image.height}
            images.append({"id": position, "file_name": index.records[position].path, **size})
            labels = segmenter.label_map(image)
            for label in _true(index.records[position]):
                if label in members and (plane := labels == members[label]).any():
                    annotations.append({"id": len(annotations) + 1, "image_id": position, **_object(label, plane)})
    categories = [{"id": label, "name": name} for label, name in enumerate(index.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _object(label: int, plane: NDArray[np.bool_]) -> Json:
    runs = coco.encode(np.asfortranarray(plane, dtype=np.uint8))
    segmentation = {"size": list(plane.shape), "counts": runs["counts"].decode()}
    box, area = coco.toBbox(runs).tolist(), int(plane.sum())
    return {"category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0, "segmentation": segmentation}


def _true(record: Record) -> list[int]:
    if isinstance(record.target, int):
        return [record.target]
    return [label for label, value in enumerate(record.target) if value == 1]


def _with_objects(index: Index, file: Path) -> Index:
    """The split with the objects of a file."""
    boxes: dict[int, list[Box]] = {}
    for each in read_coco_file(file)["annotations"]:
        boxes.setdefault(each["image_id"], []).append(Box(each["category_id"] - 1, *each["bbox"]))
    records = tuple(
        record._replace(image_id=position, boxes=tuple(boxes.get(position, ())))
        for position, record in enumerate(index.records)
    )
    return replace(index, records=records, annotations=file)
