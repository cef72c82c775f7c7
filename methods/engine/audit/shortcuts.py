"""Shortcuts: properties of images that tell a label or an error, and whether the model relies on their places.

A property may be of a place, as a watermark's or a coloured corner's. The place is then made grey in images of the
class. Hiding anything costs something: so what the score falls by is held against hiding the mirrored places, which are
as far from the middle. The model relies on the place where that is more than MARGIN for sure (the whole interval lies
above it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from attnbias.data.datasets import ImageDataset
from attnbias.data.transforms.basic import normalization
from attnbias.methods.engine.audit.causes import Cause, find_causes, questions
from attnbias.methods.engine.audit.properties import GRID, Place, file_values, picture_traits, picture_values, where
from attnbias.methods.engine.audit.result import Figure, Property
from attnbias.methods.engine.batches import EvaluationSampler, evenly
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.statistics import Interval, Ratio, interval

MOST = 1000
"""Images whose properties are looked at."""
PLACES, IMAGES = 6, 64
"""Places that are hidden, and images of a class that each is hidden in, at most."""
MARGIN = 0.05
"""Of a score within 0..1: what a place must matter more than its mirrored ones."""
SHOWN = 4

Verdict = Literal["relies", "does not rely", "undecided"]
RELIED: dict[Verdict, bool | None] = {"relies": True, "does not rely": False, "undecided": None}


@dataclass(frozen=True)
class PlaceReliance:
    """What a class's mean score is with a place hidden."""

    whole: float
    hidden: float
    mirrored: float
    """With one of the mirrored places hidden in its stead, their mean."""
    interval_95: Interval | None
    """Of mirrored - hidden, over images."""
    images: int

    @property
    def verdict(self) -> Verdict:
        """Whether the place matters more than MARGIN, by the interval."""
        low, high = self.interval_95 or (-1.0, 1.0)
        return "relies" if low > MARGIN else "does not rely" if high < MARGIN else "undecided"


@dataclass(frozen=True)
class Shortcut:
    """A property that tells something, and what the model makes of it."""

    cause: Cause
    reliance: PlaceReliance | None
    """None where the property is of no place, or tells an error."""
    images: tuple[int, ...]
    """Positions in the split of images that show it most."""

    def result(self, classes: Sequence[str], rows: Mapping[int, int]) -> Property:
        """As an audit keeps it; `rows` are the rows of samples.csv by image."""
        cause = self.cause
        question, trait = cause.question, cause.trait
        name = None if question.label is None else classes[question.label]
        return Property(
            name=trait.name,
            source=trait.source,
            predicts=question.predicts,
            class_name=name,
            rule=cause.rule,
            figure=Figure(
                name=f"{question.predicts}_by_{trait.name}",
                words="share of images that the property alone tells rightly, mean of those with and without",
                family="right",
                value=cause.value,
                interval_95=cause.interval_95,
                n=int(question.asked.sum()),
                unit="images",
                chance=0.5,
                chance_words="a property that tells nothing",
                kind="heuristic",
            ),
            sure=True,
            text=self.text(name),
            samples=tuple(rows[image] for image in self.images if image in rows),
            p=cause.p,
            relies=self._figure(name),
            relied_on=None if self.reliance is None else RELIED[self.reliance.verdict],
        )

    def text(self, name: str | None) -> str:
        """A sentence or two."""
        cause = self.cause
        if cause.question.predicts == "label":
            who = f"Images of {name} are {cause.words} than the others"
        elif name is None:
            who = f"Images that are named wrongly are {cause.words} than the others"
        else:
            who = f"Images of {name} that are missed are {cause.words} than those that are found"
        told = f"{who}: that alone tells {100 * cause.value:.0f} % of them apart (chance 50 %, p {cause.p:.2g})."
        if self.reliance is None or cause.place is None:
            return told
        verdict = {
            "relies": "relies on",
            "does not rely": "does not rely on",
            "undecided": "may or may not rely on",
        }[self.reliance.verdict]
        return (
            f"{told} The model {verdict} what is {where(cause.place)}: the score is {self.reliance.whole:.2f}, "
            f"{self.reliance.hidden:.2f} with that place grey, {self.reliance.mirrored:.2f} with a mirrored one grey."
        )

    def _figure(self, name: str | None) -> Figure | None:
        if self.reliance is None or self.cause.place is None:
            return None
        return Figure(
            name="place_reliance",
            words=f"what the score of {name} falls by more with the place {where(self.cause.place)} grey than with a "
            f"mirrored one grey; relied on where the interval lies above {MARGIN}",
            family="relies",
            value=self.reliance.mirrored - self.reliance.hidden,
            interval_95=self.reliance.interval_95,
            n=self.reliance.images,
            unit="images",
            better="lower",
            chance=0.0,
            chance_words="a model that does not see the place",
        )


@torch.no_grad()
def find_shortcuts(
    loaded: Loaded,
    dataset: ImageDataset,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> list[Shortcut]:
    """Properties of the scored images that tell their labels or the model's errors, the surest first; and whether the
    model relies on their places. One sample an image, at most MOST, evenly from the split."""
    paths = np.array([dataset.records[position].path for position in evaluation.ids])
    rows = np.sort(np.unique(paths, return_index=True)[1])  # of several samples of an image the first
    rows = rows[evenly(len(rows), MOST)]
    positions = evaluation.ids[rows].tolist()
    mean, std = (
        torch.tensor(values, device=accelerator.device).view(3, 1, 1)
        for values in normalization(loaded.recipe.normalize)
    )
    mine: list[tuple[int, list[float]]] = []
    for batch in EvaluationSampler(len(rows), batch_size, accelerator.process_index, accelerator.num_processes):
        images = _images(dataset, [positions[row] for row in batch], accelerator)
        mine += zip(batch, picture_values((images * std + mean).clamp(0, 1)).cpu().tolist(), strict=True)
    of_files, files = file_values(dataset, positions)
    values = np.concatenate([np.array([own for _, own in sorted(Control().join(mine))]), files], axis=1)
    traits = [*picture_traits(), *of_files]
    asked = questions(evaluation.targets[rows], evaluation.scores["scores"][rows])
    found, tried = [], 0
    for cause in find_causes(traits, values, asked, seed=seed):
        column = values[:, traits.index(cause.trait)] * (1 if cause.higher else -1)
        yes = np.flatnonzero(cause.question.yes)
        clearest = yes[np.argsort(-column[yes], kind="stable")][:SHOWN]
        label, place, reliance = cause.question.label, cause.place, None
        if cause.question.predicts == "label" and label is not None and place is not None and tried < PLACES:
            of_class = [positions[row] for row in yes[evenly(len(yes), IMAGES)]]
            reliance = _reliance(loaded, dataset, of_class, label, place, accelerator, batch_size)
            tried += 1
        found.append(Shortcut(cause, reliance, tuple(positions[row] for row in clearest)))
    return found


def _images(dataset: ImageDataset, positions: Sequence[int], accelerator: Accelerator) -> Tensor:
    return torch.stack([dataset[position]["image"] for position in positions]).to(accelerator.device)


def _reliance(
    loaded: Loaded,
    dataset: ImageDataset,
    positions: Sequence[int],
    label: int,
    place: Place,
    accelerator: Accelerator,
    batch_size: int,
) -> PlaceReliance:
    """Score images of a class whole, with a place hidden, and with each mirrored place hidden."""
    row, column = place
    mirrored = [(GRID - 1 - row, column), (row, GRID - 1 - column), (GRID - 1 - row, GRID - 1 - column)]
    mine: list[tuple[int, list[float]]] = []
    for batch in EvaluationSampler(len(positions), batch_size, accelerator.process_index, accelerator.num_processes):
        images = _images(dataset, [positions[each] for each in batch], accelerator)
        shown = [images, *(grey_at(images, each) for each in (place, *mirrored))]
        scores = [loaded.method.predict(loaded.model, each, loaded.task)["scores"][:, label] for each in shown]
        mine += zip(batch, torch.stack(scores, dim=1).double().cpu().tolist(), strict=True)
    rows = np.array([own for _, own in sorted(Control().join(mine))])  # (N, 5)
    more = rows[:, 2:].mean(1) - rows[:, 1]
    whole, hidden, *others = rows.mean(0).tolist()
    return PlaceReliance(
        whole, hidden, float(np.mean(others)), interval(Ratio.mean(more), np.arange(len(more))), len(positions)
    )


def grey_at(images: Tensor, place: Place) -> Tensor:
    """Images (B, 3, H, W) with a place, and half a place around it, in the mean colour of the rest of each image."""
    height, width = images.shape[-2:]
    gone = torch.zeros((height, width), dtype=torch.bool, device=images.device)
    top, bottom = _reach(place[0], height)
    left, right = _reach(place[1], width)
    gone[top:bottom, left:right] = True
    rest = (images * ~gone).sum((2, 3), keepdim=True) / (~gone).sum()
    return torch.where(gone, rest, images)


def _reach(step: int, side: int) -> tuple[int, int]:
    """First and last pixel, half-open, of a place along a side, with half a place around it."""
    first, last = (min(max(each, 0), GRID) for each in (step - 0.5, step + 1.5))
    return round(side * first / GRID), round(side * last / GRID)
