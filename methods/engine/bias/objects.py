"""The objects of a split as samples: one positive class of one image, and where it is in the network's input.

Attention, reliance on context and faithfulness are all measured on these samples, each once, whatever the processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Record
from attnbias.data.label_maps import IGNORE
from attnbias.data.masks import Masks, count_unmasked, read_masks
from attnbias.data.segmentation import LabelMapDataset
from attnbias.data.transforms.opencv import resize_labels
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.batches import EvaluationSampler, loader
from attnbias.methods.engine.bias.attention_bias import box_mask, skip_reason
from attnbias.methods.engine.bias.box_accuracy import boxes_of_parts
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.probe import Content, Probe
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.text import write_csv
from attnbias.methods.engine.types import LABELLED, Truth

R = TypeVar("R", bound=tuple[object, ...])
"""What is found of one sample: its image and its class first, of which no other sample has both."""


UNKNOWN = "not a class of the model"
"""Why a sample of a class that was matched with none of the model's says nothing."""


class NothingToMeasureError(DataError):
    """No object of a split says anything of what is measured, though the set has some."""


class ObjectProbe(Probe):
    """A measure against the objects of a split: what it finds has the kind of truth, and means by name."""

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        check_classes(self.name, loaded)
        resolve_truth(dataset, request.truth)

    def heading(self, content: Content) -> str:
        return f"{self.name} ({content['truth']})"

    def figures(self, content: Content) -> Mapping[str, float | None]:
        means: Mapping[str, float | None] = content["means"]
        return means


def check_classes(name: str, loaded: Loaded) -> None:
    """Refuse a model that names no classes, whose samples no probe of objects could be of."""
    if loaded.task not in LABELLED:
        raise UsageError(f"--{name} measures classes of images, and {loaded.source} is for {loaded.task}")


class Region(NamedTuple):
    """Where one class is in the network's input."""

    label: int
    mask: NDArray[np.bool_]
    """(H, W): the union of the class's objects."""
    ignore: NDArray[np.bool_]
    """(H, W): crowds and difficult objects of the class."""
    visible: float
    """The share of the objects' area that the transform left in sight."""
    box: NDArray[np.bool_]
    """(H, W): the boxes around all objects of the class, crowds and difficult ones too; of a label map, the mask."""
    corners: NDArray[np.int64] = np.zeros((0, 4), np.int64)
    """(K, 4): the boxes around its objects, without those: x1, y1, x2, y2, half-open."""

    def skip_reason(self) -> str | None:
        """Why this region says nothing about bias, or None."""
        return skip_reason(self.mask, ~self.ignore | self.mask, self.visible)


class Sample(NamedTuple):
    """One positive class of one image."""

    image: int
    """Its position in the dataset."""
    slot: int
    """Its position in the batch."""
    region: Region
    scale: float
    """Pixels of the input for one of the stored image, along the height."""


class ObjectBatch(NamedTuple):
    """Transformed images (B, 3, H, W) and the samples in them, at least one."""

    images: Tensor
    samples: list[Sample]


class ResolvedTruth(NamedTuple):
    """What attention is held against, and why it is not what a set of that kind usually has, or whose it is."""

    kind: Truth
    reason: str | None = None


def resolve_truth(dataset: ImageDataset, truth: Truth | None) -> ResolvedTruth:
    """Masks where every object of the set has one, else boxes, unless a person says which.

    Raises:
        DataError: the set does not have what is asked for, or has neither.
    """
    index = dataset.index
    if isinstance(dataset, LabelMapDataset):
        if truth == "boxes":
            raise DataError(f"dataset '{index.dataset}' has the class of each pixel, and no boxes; use --truth masks")
        seen = "an image is seen whole, at one size"
        return ResolvedTruth(
            "masks", f"objects are the regions of each class in the label maps, background too; {seen}"
        )
    if index.estimated_by is not None:
        return ResolvedTruth("estimated", f"objects are masks that {index.estimated_by} estimated: nobody drew them")
    missing, objects = (0, 0) if index.annotations is None or truth == "boxes" else count_unmasked(index.annotations)
    without = f"{missing:,} of {objects:,} objects of {index.annotations} have no mask"
    if truth == "masks" and index.annotations is None:
        raise DataError(f"dataset '{index.dataset}' has no masks; use --truth boxes")
    if truth == "masks" and missing:
        raise DataError(f"dataset '{index.dataset}': {without}; use --truth boxes")
    if not has_objects(dataset):
        raise DataError(f"dataset '{index.dataset}' has no boxes: attention cannot be held against objects")
    if missing:
        return ResolvedTruth("boxes", f"{without}: attention is held against boxes")
    kind: Truth = truth or ("boxes" if index.annotations is None else "masks")
    return ResolvedTruth(kind, f"objects are {kind} of your own ({index.truth_origin})" if index.truth_origin else None)


def has_objects(dataset: ImageDataset) -> bool:
    """Whether any object of a split is annotated."""
    return any(record.boxes for record in dataset.records)


def measure_objects(
    loaded: Loaded,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    accelerator: Accelerator,
    truth: Truth,
    measure: Callable[[ObjectBatch, Counter[str]], Sequence[R]],
    *,
    batch_size: int,
    workers: int,
    to: str,
) -> tuple[list[R], dict[str, int]]:
    """What `measure` finds of every object of the images that were scored, by their positions `ids` (N,), in the order
    of image and class, and how many samples were left out, by reason: it counts its own with those of `object_batches`.

    Raises:
        NothingToMeasureError: no sample is left; `to` says in words what for.
    """
    skipped: Counter[str] = Counter()
    mine: list[R] = []
    for batch in object_batches(
        loaded, dataset, ids.tolist(), truth, accelerator, skipped, batch_size=batch_size, workers=workers
    ):
        mine += measure(batch, skipped)
    control = Control()  # over the CPUs, as scores are
    rows, counts = sorted(control.join(mine)), _counted(control, skipped)
    if not rows:
        words = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise NothingToMeasureError(f"{dataset.index.dataset}/{dataset.index.split} has no object to {to} ({words})")
    return rows, counts


def write_samples(
    path: Path,
    dataset: ImageDataset,
    columns: Sequence[str],
    rows: Iterable[tuple[int, int, Iterable[object]]],
) -> None:
    """Write a table of samples: of each its image, its class, and the values of `columns`."""
    header: list[object] = ["picture", "path", "class", *columns]
    records, classes = dataset.records, dataset.index.classes
    table = ([image, records[image].path, classes[label], *values] for image, label, values in rows)
    write_csv(path, chain([header], table))


def object_batches(
    loaded: Loaded,
    dataset: ImageDataset,
    positions: Sequence[int],
    truth: Truth,
    accelerator: Accelerator,
    skipped: Counter[str],
    *,
    batch_size: int = 16,
    workers: int = 0,
) -> Iterator[ObjectBatch]:
    """This process's share of the samples of some images; those that say nothing are counted in `skipped`, by reason:
    unannotated (a positive class without an object), empty, full (attention_bias.py), or not a class of the model.

    Images, boxes and masks are read by `workers` processes ahead of the batches, or here where there are none."""
    sampler = EvaluationSampler(len(positions), batch_size, accelerator.process_index, accelerator.num_processes)
    chosen = [[positions[row] for row in rows] for rows in sampler]
    for placed in loader(_Seen(loaded, dataset, truth), chosen, list, workers):
        for _, of_one_size in groupby(placed, lambda each: each.image.shape):
            together = list(of_one_size)
            samples = [
                Sample(each.position, slot, region, each.scale)
                for slot, each in enumerate(together)
                for region in _telling(loaded, dataset, each, skipped)
            ]
            if samples:
                yield ObjectBatch(torch.stack([each.image for each in together]).to(accelerator.device), samples)


class _Placed(NamedTuple):
    """One transformed image (3, H, W), and what `regions` tells of it."""

    position: int
    image: Tensor
    regions: list[Region]
    scale: float


class _Seen(Dataset[_Placed]):
    """Images as the model sees them, and where their classes are."""

    def __init__(self, loaded: Loaded, dataset: ImageDataset, truth: Truth) -> None:
        self.loaded, self.dataset, self.truth = loaded, dataset, truth

    def __getitem__(self, position: int) -> _Placed:
        dataset, loaded = self.dataset, self.loaded
        if isinstance(dataset, LabelMapDataset) and isinstance(loaded.method, LabelsPixels):
            return _Placed(position, *labelled_regions(dataset, position, loaded.method.seen_whole(loaded.recipe)))
        return _Placed(position, *regions(dataset, position, self.truth))


def _telling(loaded: Loaded, dataset: ImageDataset, placed: _Placed, skipped: Counter[str]) -> Iterator[Region]:
    """The classes of an image that say something; the others are counted."""
    by_label = {region.label: region for region in placed.regions}
    of_pixels = isinstance(dataset, LabelMapDataset)
    for label in by_label if of_pixels else true_labels(dataset, placed.position):
        if not loaded.knows(label):
            reason: str | None = UNKNOWN
        else:
            reason = by_label[label].skip_reason() if label in by_label else "unannotated"
        if reason:
            skipped[reason] += 1
        else:
            yield by_label[label]


def true_labels(dataset: ImageDataset, position: int) -> list[int]:
    """The positive classes of one sample of the data set."""
    target = dataset.targets[position]
    return np.flatnonzero(target == 1).tolist() if dataset.index.task == "multilabel" else [int(target)]


def regions(dataset: ImageDataset, position: int, truth: Truth) -> tuple[Tensor, list[Region], float]:
    """One transformed image (3, H, W), where its annotated classes are in it, and its scale (see `Sample`).

    Image, boxes and masks go through the same transform, and with them a box in the middle, which tells the scale:
    torchvision clips boxes at the border, so their own size does not tell what was cut off.
    """
    record, original = dataset.records[position], dataset.image(position)
    boxes, numbers = dataset.boxes(position)
    middle = torch.tensor([[0.45, 0.45, 0.1, 0.1]]) * torch.tensor([original.width, original.height] * 2)
    placed = tv_tensors.BoundingBoxes(
        torch.cat([middle, boxes]), format="XYWH", canvas_size=(original.height, original.width)
    )
    planes: NDArray[np.bool_]
    if truth != "boxes":
        found = _masks_of(dataset, record, original.size)
        image, moved, masks = _transformed(dataset, original, placed, tv_tensors.Mask(torch.from_numpy(found.masks)))
        planes, labels, aside = masks.numpy().astype(bool), found.labels, found.crowd  # (K, H, W), (K,), (K,)
        areas = found.masks.sum((1, 2))
    else:
        image, moved = _transformed(dataset, original, placed)
        x, y, w, h = moved[1:].double().numpy().T
        corners = np.stack([x, y, x + w, y + h], axis=1)  # (K, 4)
        planes = np.array([box_mask(box, *image.shape[1:]) for box in corners], dtype=bool)
        planes = planes.reshape(-1, *image.shape[1:])
        labels, aside = numbers.numpy(), np.array([box.crowd or box.difficult for box in record.boxes], dtype=bool)
        areas = (boxes[:, 2] * boxes[:, 3]).double().numpy()
    across, down = (moved[0, 2:] / middle[0, 2:]).tolist()
    found_regions = []
    for label in np.unique(labels):
        own, crowd = (labels == label) & ~aside, (labels == label) & aside
        if own.any():
            before = areas[own].sum() * across * down
            visible = float(planes[own].sum() / before) if before > 0 else 0.0
            found_regions.append(
                Region(
                    int(label),
                    planes[own].any(0),
                    planes[crowd].any(0),
                    visible,
                    _boxes(planes[labels == label]),
                    corners_of(planes[own]),
                )
            )
    return image, found_regions, down


def labelled_regions(
    dataset: LabelMapDataset, position: int, seen: Callable[[Image.Image], Tensor]
) -> tuple[Tensor, list[Region], float]:
    """What `regions` tells, of an image whose every pixel has a class: where `seen` puts each class of its label map.

    Unlabelled pixels count neither as object nor as context. What touches is one object.
    """
    original, stored = dataset.image(position), dataset.label_map(position)
    image = seen(original)
    labels = resize_labels(stored, (image.shape[1], image.shape[2]))
    unlabelled = labels == IGNORE
    found = []
    for label in np.setdiff1d(stored, IGNORE).tolist():
        mask = labels == label
        found.append(Region(label, mask, unlabelled, 1.0, mask, boxes_of_parts(mask)))
    return image, found, image.shape[1] / original.height


def _masks_of(dataset: ImageDataset, record: Record, size: tuple[int, int]) -> Masks:
    """The masks of an image of this width and height."""
    annotations = dataset.index.annotations
    assert annotations is not None
    assert record.image_id is not None
    found = read_masks(annotations, record.image_id, size)
    if found.masks.shape[:0:-1] != size:
        stated = " x ".join(map(str, found.masks.shape[:0:-1]))
        raise DataError(f"{annotations} states {stated} pixels for {record.path}, which has {size[0]} x {size[1]}")
    return found


def corners_of(planes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The box around each object of planes (K, H, W) that is not empty, as x1, y1, x2, y2, half-open."""
    planes = planes[planes.any((1, 2))]
    columns, rows = np.asarray(planes.any(1)), np.asarray(planes.any(2))  # (K, W), (K, H)
    starts = [met.argmax(1) for met in (columns, rows)]
    stops = [met.shape[1] - met[:, ::-1].argmax(1) for met in (columns, rows)]
    return np.stack([*starts, *stops], axis=1).astype(np.int64)


def _boxes(planes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The boxes (H, W) around the objects of planes (K, H, W), all together."""

    def between(met: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """From the first to the last place of each row that is met."""
        return np.asarray(np.maximum.accumulate(met, 1) & np.maximum.accumulate(met[:, ::-1], 1)[:, ::-1])

    columns, rows = between(np.asarray(planes.any(1))), between(np.asarray(planes.any(2)))  # (K, W), (K, H)
    return np.asarray((rows[:, :, None] & columns[:, None, :]).any(0))


def _transformed(dataset: ImageDataset, *inputs: Image.Image | tv_tensors.TVTensor) -> list[Tensor]:
    """Every pipeline takes an image alone, and torchvision's, which evaluation is made of, boxes and masks beside."""
    transform = dataset.transform
    image, boxes, *masks = transform(*inputs)
    return [image, boxes.as_subclass(Tensor), *masks]


def _counted(control: Control, mine: Counter[str]) -> dict[str, int]:
    """Counts of all processes together."""
    counts: Counter[str] = Counter()
    for part in control.gather(dict(mine)):
        counts.update(part)
    return dict(counts)
