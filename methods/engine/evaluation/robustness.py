"""How much a model loses when images get worse: corruptions, other renditions, attacks; one table.

Works for every method: images are changed before the model sees them, scores come from the one evaluation loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from attnbias.data.atomic import replacing
from attnbias.data.datasets import ImageDataset
from attnbias.data.images import Decode
from attnbias.data.index import Index, Task
from attnbias.data.reading import Json
from attnbias.data.registry import read_prepared
from attnbias.data.sets import imagenet
from attnbias.data.transforms.basic import Transform, normalization
from attnbias.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from attnbias.data.transforms.watermark import Watermarked
from attnbias.methods.engine.abilities import LabelsPixels
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.evaluation.attacks import ATTACKS, Attack, adversarial, against
from attnbias.methods.engine.evaluation.evaluate import Evaluation, Perturbation, evaluate
from attnbias.methods.engine.evaluation.probe import Measured, Probe
from attnbias.methods.engine.load import Loaded, open_split_of
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.statistics import Ratio, interval, mean_precision
from attnbias.methods.engine.stored_evaluations import ROBUSTNESS
from attnbias.methods.engine.text import figure, write_csv
from attnbias.methods.engine.types import LABELLED, Batch

CARTON = "carton"
"""The class of ImageNet whose images often bear the watermark of ImageNet-W."""

Row = Json
"""`test` (what was measured) and its measures by name."""

ALEXNET_ERROR: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean top-1 error under each corruption of ImageNet-C (Hendrycks & Dietterich, ICLR 2019)."""


@dataclass(frozen=True)
class CorruptionErrors:
    """What a set of corrupted images says, all in per cent."""

    accuracy: dict[str, float]
    """Top-1 accuracy of each corruption, mean over its severities."""
    error: dict[str, float]
    """CE: its error over AlexNet's."""
    mce: float
    """Mean CE; lower is better, AlexNet has 100."""
    mean_accuracy: float


def corruption_errors(accuracies: Mapping[str, Sequence[float]]) -> CorruptionErrors:
    """Sum up top-1 accuracies in per cent, given for each corruption at severities 1 to 5.

    Raises:
        UsageError: a name is not a corruption of ImageNet-C.
    """
    if unknown := [name for name in accuracies if name not in ALEXNET_ERROR]:
        raise UsageError(f"'{unknown[0]}' is not a corruption; one of: {', '.join(ALEXNET_ERROR)}")
    accuracy = {name: float(np.mean(values)) for name, values in accuracies.items()}
    error = {name: (100 - value) / ALEXNET_ERROR[name] for name, value in accuracy.items()}
    mce, mean_accuracy = (float(np.mean(list(values.values()))) if values else nan for values in (error, accuracy))
    return CorruptionErrors(accuracy, error, mce, mean_accuracy)


# Tests of a model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A loaded model and how its evaluations are carried out; each test gives rows of the table."""

    loaded: Loaded
    accelerator: Accelerator
    data_root: Path | None = None
    batch_size: int = 64
    workers: int = 0
    on_bad_image: Literal["error", "skip"] = "error"
    decode: Decode = "exact"
    limit: int | None = None
    """Samples that are drawn from a split of the recipe's dataset; a published set is whole."""

    @classmethod
    def of(cls, request: ValRequest, loaded: Loaded, accelerator: Accelerator) -> Bench:
        """A model on the bench, as the person asked."""
        return cls(
            loaded,
            accelerator,
            request.data_root,
            request.eval_batch_size,
            request.workers or 0,
            request.on_bad_image,
            request.decode,
            request.limit,
        )

    def clean(self, split: str) -> list[Row]:
        """The split of the recipe's dataset as it is."""
        index, name = self._split(split)
        return [_row(name, self._evaluate(index))]

    def attacked(self, split: str, name: str, attack: Attack) -> list[Row]:
        """The split under an attack; the random start of each batch, or of each image whose pixels have classes,
        follows from the recipe's seed and its first sample."""
        loaded, recipe = self.loaded, self.loaded.recipe
        index, own = self._split(split)
        if isinstance(loaded.method, LabelsPixels):
            perturb: Perturbation = partial(_pixels_against, attack, recipe, loaded.method)
        else:
            perturb = partial(_images_against, attack, recipe, loaded.task)
        return [_row(f"{own} {name}", self._evaluate(index, perturb=perturb))]

    def corrupted(self, split: str, corruptions: Sequence[str], severities: Sequence[int] = SEVERITIES) -> list[Row]:
        """The split corrupted on the fly: a row for each corruption and the mean, of the measure that decides.

        No mCE: AlexNet's errors are those on the published images.
        """
        recipe, measure = self.loaded.recipe, self.loaded.method.monitor(self.loaded.task)
        index, own = self._split(split)
        rows: list[Row] = []
        for name in corruptions:
            if name not in CORRUPTIONS:
                raise UsageError(f"unknown corruption '{name}'{did_you_mean(name, CORRUPTIONS)}")
            changes = [
                partial(Corrupted, corruption=name, severity=severity, normalize=recipe.normalize)
                for severity in severities
            ]
            found = [_row(own, self._evaluate(index, change)) for change in changes]
            rows.append(_mean(f"{own} {name}", found, measure))
        return [*rows, _mean(f"{own} corrupted", rows, measure)]

    def watermarked(self, split: str, font: Path, clean: Evaluation) -> list[Row]:
        """The split under ImageNet-W's watermark, and what that adds to the probability of a carton."""
        recipe = self.loaded.recipe
        index, own = self._split(split)
        found = self._evaluate(index, partial(Watermarked, font=font, normalize=recipe.normalize))
        row = _row(f"{own} watermark", found)
        if CARTON in index.classes:
            label = index.classes.index(CARTON)
            before, after = (100 * float(each.scores["scores"][:, label].mean()) for each in (clean, found))
            row |= {"carton": after, "carton_change": after - before}
        return [row]

    def published(self, dataset: str) -> list[Row]:
        """One of the published sets by its name: imagenet-c, -a, -r or -sketch; of -a and -r only their 200 classes
        compete."""
        if dataset == "imagenet-c":
            return self.imagenet_c()
        return [_row(dataset, self._evaluate(self._open(dataset, "val")))]

    def imagenet_c(self) -> list[Row]:
        """The published corrupted sets: the accuracy of each, that and CE of each corruption, then their means.

        Where some are missing there are no means over them, and no mCE: the last row says so.
        """
        there = read_prepared("imagenet-c", self.data_root).splits
        rows, accuracies = [], {}
        for name in imagenet.CORRUPTIONS:
            found = [
                _row(f"imagenet-c {split}", self._evaluate(self._open("imagenet-c", split)))
                for split in (f"{name}-{severity}" for severity in SEVERITIES)
                if split in there
            ]
            rows += [{key: row[key] for key in ("test", "top1", *EDGES) if key in row} for row in found]
            if len(found) == len(SEVERITIES):
                accuracies[name] = [row["top1"] for row in found]
        summary = corruption_errors(accuracies)
        rows += [
            {"test": f"imagenet-c {name}", "top1": summary.accuracy[name], "CE": error}
            for name, error in summary.error.items()
        ]
        if len(accuracies) == len(imagenet.CORRUPTIONS):
            return [*rows, {"test": "imagenet-c", "top1": summary.mean_accuracy, "mCE": summary.mce}]
        count = len(imagenet.CORRUPTIONS) * len(SEVERITIES)
        return [*rows, {"test": "imagenet-c", "note": f"no mCE: {len(there)} of {count} corrupted sets are prepared"}]

    def _split(self, split: str) -> tuple[Index, str]:
        """A split of the recipe's dataset, and what its tests are called."""
        index = self._open(self.loaded.recipe.dataset, split).drawn(self.limit)
        part = "" if index.whole is None else f" ({len(index.records)} of {index.whole})"
        return index, f"{index.dataset}/{split}{part}"

    def _open(self, dataset: str, split: str) -> Index:
        return open_split_of(self.loaded, split, self.data_root, dataset)

    def _evaluate(
        self,
        index: Index,
        change: Callable[[Transform], Transform] | None = None,
        perturb: Perturbation | None = None,
    ) -> Evaluation:
        """Evaluate a split, with another transform made of its own, or with images changed in the batch."""
        loaded = self.loaded
        dataset = loaded.method.open_dataset(loaded.recipe, index, on_bad_image=self.on_bad_image, decode=self.decode)
        if change is not None:
            dataset.transform = change(dataset.transform)
        return evaluate(
            loaded.method,
            loaded.model,
            dataset,
            loaded.recipe,
            self.accelerator,
            batch_size=self.batch_size,
            workers=self.workers,
            perturb=perturb,
        )


def _images_against(attack: Attack, recipe: Recipe, task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """A batch whose classes are missed."""
    images = batch["image"]
    start = _drawn_start(images, recipe, batch["index"][0])
    mean, std = normalization(recipe.normalize)
    return adversarial(model, images, batch["target"], attack, mean, std, task=task, start=start)


def _pixels_against(
    attack: Attack, recipe: Recipe, method: LabelsPixels[Any, Any], model: nn.Module, batch: Batch
) -> list[Tensor]:
    """Images whose pixels' classes are missed, each on its own, as they differ in size."""
    mean, std = normalization(recipe.normalize)
    return [
        against(
            partial(method.pixel_loss, model, target=target, recipe=recipe),
            *(image, attack, mean, std),
            start=_drawn_start(image, recipe, sample),
        )
        for image, target, sample in zip(batch["image"], batch["target"], batch["index"], strict=True)
    ]


def _drawn_start(images: Tensor, recipe: Recipe, sample: Tensor) -> Tensor:
    (seed,) = np.random.SeedSequence((recipe.seed, int(sample))).generate_state(1)
    generator = torch.Generator(images.device).manual_seed(int(seed))
    return torch.rand(images.shape, generator=generator, device=images.device) * 2 - 1


# The table ------------------------------------------------------------------------------------------------------------


EDGES = ("low_95", "high_95")
"""Of the 95 % interval of a row's mAP or top-1, or of the accuracy of statements; other measures have none."""


def _row(test: str, evaluation: Evaluation) -> Row:
    figures = {name: value for name, value in evaluation.measures.items() if isinstance(value, int | float)}
    targets, scores = evaluation.targets, evaluation.scores.get("scores")
    if scores is None:  # of pixels, of answers in words
        edges = None
    elif targets.ndim == 1:
        edges = interval(Ratio.mean(scores.argmax(1) == targets), evaluation.ids, flags=True)
    else:  # by the paper's rule the spread is the same
        found = mean_precision(targets, scores)
        edges = replace(found, value=figures["mAP"] / 100).interval_95 if found else None
    return {"test": test, **figures, **(dict(zip(EDGES, (100 * e for e in edges), strict=True)) if edges else {})}


def _mean(test: str, rows: Sequence[Row], measure: str) -> Row:
    """The mean of rows of the same images: its interval is at most as wide as theirs are on average."""
    names = [measure, *(name for name in EDGES if all(name in row for row in rows))]
    return {"test": test, **{name: float(np.mean([row[name] for row in rows])) for name in names}}


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON, or as CSV where the name ends so (a column for every measure that a row has)."""
    if path.suffix != ".csv":
        with replacing(path) as file:
            file.write(json.dumps(list(rows), indent=1) + "\n")
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, [columns, *([_cell(row.get(name)) for name in columns] for row in rows)])


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else figure(value)


def corruptions(request: ValRequest) -> list[str]:
    """The corruptions that are asked for; `all` is the fifteen of ImageNet-C.

    Raises:
        UsageError: there is no such one; the nearest name is offered.
    """
    for name in request.corrupt:
        if name not in (*CORRUPTIONS, "all"):
            raise UsageError(f"--corrupt: unknown corruption '{name}'{did_you_mean(name, CORRUPTIONS)}")
    return list(CORRUPTIONS) if "all" in request.corrupt else list(request.corrupt)


class RobustnessProbe(Probe):
    """`val --attack`, `--watermark` and `--corrupt`: a split as it is, and changed by each on the fly."""

    name = "robustness"

    def wanted(self, request: ValRequest) -> bool:
        return bool(request.attack or request.corrupt or request.watermark)

    def check(self, request: ValRequest, loaded: Loaded, dataset: ImageDataset) -> None:
        if request.watermark is not None:
            if loaded.task != "singlelabel":
                raise UsageError(f"--watermark is for models of one label an image, and {loaded.source} is not")
            Watermarked(dataset.transform, request.watermark, loaded.recipe.normalize)
        if isinstance(loaded.method, LabelsPixels):
            loaded.method.check_seen_once(loaded.recipe)
        elif request.attack and loaded.task not in LABELLED:
            raise UsageError(f"--attack: {loaded.source} is for {loaded.task}; only images and pixels with classes")

    def measure(self, measured: Measured) -> list[Row]:
        request, split = measured.request, measured.split
        bench = Bench.of(request, measured.loaded, measured.accelerator)
        rows = bench.clean(split)
        for name in dict.fromkeys(request.attack):
            rows += bench.attacked(split, name, replace(ATTACKS[name], **request.strength(name)))
        if request.watermark is not None:
            rows += bench.watermarked(split, request.watermark, measured.evaluation)
        if request.corrupt:
            rows += bench.corrupted(split, corruptions(request), request.severity)
        if measured.stored:
            write_table(measured.stored / ROBUSTNESS, rows)
        return rows
