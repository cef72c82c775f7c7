"""Which properties of images and of their metadata tell a label, or an error: one stump at a time, cross-validated.

A stump asks whether a property is above a threshold. Threshold and side are chosen on four fifths of the images and
judged on the rest, five times, so that what is reported was not fitted. Its figure is the mean of the shares of images
with and without the class that it tells rightly: one half is chance. Many properties and classes are tried, and the
best of many is high by chance: so each is held against the highest of all under PERMUTATIONS random exchanges of the
images' properties (Westfall & Young 1993), by which at most 5 % of audits of unrelated images name anything.

That a property tells a label is a fact about the images. Whether the model uses it only an intervention tells
(shortcuts.py). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from attnbias.methods.engine.audit.properties import FEWEST, Place, Trait, where
from attnbias.methods.engine.statistics import Interval, Ratio, interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

FOLDS = 5
THRESHOLDS = 7
"""Tried of each property: quantiles of its distinct values."""
PERMUTATIONS = 499
LEVEL = 0.05


class Question(NamedTuple):
    """What is to be told of images."""

    predicts: Literal["label", "error"]
    label: int | None
    """Whether an image shows this class; or whether the class is missed where it is. None: whether an image is named
    wrongly at all."""
    yes: Bools
    """(N,)"""
    asked: Bools
    """(N,): the images that it is asked of."""

    @property
    def worth_asking(self) -> bool:
        """Whether enough images say yes, and enough no."""
        return min(self.yes.sum(), self.asked.sum() - self.yes.sum()) >= FEWEST


@dataclass(frozen=True)
class Cause:
    """A property that tells something, in more images than chance explains."""

    trait: Trait
    question: Question
    value: float
    """Share of the images told rightly, the mean of those with and without: 0.5 is chance."""
    interval_95: Interval | None
    """Over images, of this stump alone; `p` counts that it is the best of many."""
    p: float
    """Among all properties and questions."""
    higher: bool
    """Whether the images that say yes have higher values."""
    threshold: float
    """The median of the folds'."""
    others: tuple[Trait, ...]
    """Further properties that tell the same, the best first."""

    @property
    def words(self) -> str:
        """How the images that say yes differ: "brighter"."""
        return self.trait.more if self.higher else self.trait.less

    @property
    def rule(self) -> str:
        """Which images the stump tells to say yes: "images of camera a", "images with brightness above 0.3"."""
        if self.trait.is_word:
            return f"images {'of' if self.higher else 'not of'} {self.trait.name}"
        at = f" ({where(self.trait.place)})" if self.trait.place else ""
        number = f"{self.threshold:,.0f}" if abs(self.threshold) >= 1000 else f"{self.threshold:.3g}"
        return f"images with {self.trait.name}{at} {'above' if self.higher else 'at most'} {number}"

    @property
    def place(self) -> Place | None:
        """The place of the image that tells it, where one does."""
        return next((trait.place for trait in (self.trait, *self.others) if trait.place is not None), None)


def questions(targets: np.ndarray, scores: np.ndarray) -> list[Question]:
    """All that can be asked of labelled and scored images: targets (N,), or (N, C) with 1, 0, -1 = unknown; scores
    (N, C). A class is named by the highest score in single-label work, else by a score of at least one half."""
    single = targets.ndim == 1
    classes = np.arange(scores.shape[1])
    labels = np.where(targets[:, None] == classes, 1, 0) if single else targets
    named = (scores.argmax(1)[:, None] == classes) if single else scores >= 0.5
    known, shown = labels >= 0, labels == 1
    wrong = ((named != shown) & known).any(1)
    asked = [Question("error", None, wrong, np.ones(len(wrong), dtype=np.bool_))]
    for label in classes.tolist():
        asked.append(Question("label", label, shown[:, label], known[:, label]))
        asked.append(Question("error", label, shown[:, label] & ~named[:, label], shown[:, label]))
    return [question for question in asked if question.worth_asking]


def find_causes(
    traits: Sequence[Trait],
    values: np.ndarray,
    asked: Sequence[Question],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Cause]:
    """Of each question the property that tells it best, where one does at 5 % among all; the surest first.

    `values` (N, P) holds one row an image.
    """
    if not asked or not traits:
        return []
    stumps = _Stumps(values, asked, np.random.default_rng(seed))
    found = stumps.judged()
    highest = np.sort([stumps.judged(shuffled=True).scores.max() for _ in range(permutations)])
    p = (1 + permutations - np.searchsorted(highest, found.scores * (1 - 1e-9))) / (1 + permutations)  # (Q, P)
    causes = []
    for number, question in enumerate(asked):
        order = np.argsort(-found.scores[number], kind="stable")
        sure = [int(trait) for trait in order if p[number, trait] <= LEVEL]
        if sure:
            best, others = sure[0], tuple(traits[other] for other in sure[1:])
            right, higher, threshold = stumps.told(found, number, best)
            weights = np.where(question.yes, 0.5 / question.yes.sum(), 0.5 / (question.asked & ~question.yes).sum())
            rows = np.flatnonzero(question.asked)
            edges = interval(Ratio((weights * right)[rows], weights[rows]), rows, flags=True)
            value = float(found.shares[number, best])
            causes.append(
                Cause(traits[best], question, value, edges, float(p[number, best]), higher, threshold, others)
            )
    return sorted(causes, key=lambda cause: (cause.p, -cause.value))


class _Judged(NamedTuple):
    """Held-out results of every stump, (Q, P) each."""

    shares: Floats
    """Told rightly, mean of yes and no."""
    scores: Floats
    """The same in standard errors above chance: questions with many images and with few weigh alike."""
    chosen: NDArray[np.int64]
    """(Q, FOLDS, P): the threshold of each fold."""
    higher: Bools
    """(Q, FOLDS, P): whether yes is above it."""


class _Stumps:
    """Every property at every threshold against every question, in folds."""

    def __init__(self, values: np.ndarray, asked: Sequence[Question], rng: np.random.Generator) -> None:
        self.asked, self.rng = asked, rng
        count = len(values)
        shares = np.arange(1, THRESHOLDS + 1) / (THRESHOLDS + 1)
        self.thresholds = np.stack([np.quantile(np.unique(column), shares) for column in values.T])  # (P, T)
        above = values[:, :, None] > self.thresholds  # (N, P, T)
        self.above = above.reshape(count, -1).astype(np.float32)
        self.folds = self._balanced_folds(count)
        # Questions that are asked of the same images share a row: most are asked of all.
        planes, self.row_of = np.unique(np.stack([question.asked for question in asked]), axis=0, return_inverse=True)
        self.seen = self._by_fold(planes)
        self.yes = self._by_fold(np.stack([question.yes for question in asked]))

    def _balanced_folds(self, count: int) -> NDArray[np.int64]:
        """The fold of each image: random, and images that answer alike lie in all of them."""
        answers = np.stack([question.yes for question in self.asked], axis=1)
        _, alike = np.unique(answers, axis=0, return_inverse=True)
        folds = np.empty(count, dtype=np.int64)
        folds[np.lexsort((self.rng.random(count), alike.ravel()))] = np.arange(count) % FOLDS
        return folds

    def _by_fold(self, planes: Bools) -> csr_array:
        """Planes (R, N) as rows (R * FOLDS, N), one a fold."""
        split = planes[:, None] & (self.folds == np.arange(FOLDS)[:, None])  # (R, FOLDS, N)
        return csr_array(split.reshape(-1, planes.shape[1]).astype(np.float32))

    def judged(self, *, shuffled: bool = False) -> _Judged:
        """Choose every stump on four folds and judge it on the fifth; `shuffled`: by other images' properties."""
        above = self.above[self.rng.permutation(len(self.above))] if shuffled else self.above
        shape = (-1, FOLDS, *self.thresholds.shape)
        seen = (self.seen @ above).reshape(shape)[self.row_of]  # (Q, FOLDS, P, T): asked images above the threshold
        hits = (self.yes @ above).reshape(shape)  # of them, those that say yes
        positives = self.yes.sum(1).reshape(-1, FOLDS, 1, 1)
        negatives = self.seen.sum(1).reshape(-1, FOLDS, 1, 1)[self.row_of] - positives
        alarms = seen - hits
        gap = _rest(hits) / np.maximum(_rest(positives), 1) - _rest(alarms) / np.maximum(_rest(negatives), 1)
        chosen = np.abs(gap).argmax(-1)[..., None]
        higher = np.take_along_axis(gap, chosen, -1)[..., 0] > 0  # (Q, FOLDS, P)
        right = [
            np.where(higher == wanted, there, total[..., 0] - there).sum(1)  # (Q, P)
            for part, total, wanted in ((hits, positives, True), (alarms, negatives, False))
            for there in [np.take_along_axis(part, chosen, -1)[..., 0]]
        ]
        totals = [total.sum((1, 3), dtype=np.float64) for total in (positives, negatives)]  # (Q, 1)
        shares = (right[0] / totals[0] + right[1] / totals[1]) / 2
        errors = np.sqrt(1 / totals[0] + 1 / totals[1]) / 4
        return _Judged(shares, (shares - 0.5) / errors, chosen[..., 0], higher)

    def told(self, found: _Judged, question: int, trait: int) -> tuple[Bools, bool, float]:
        """Which images (N,) one property tells rightly, on which side yes is, and the middle threshold."""
        chosen, higher = found.chosen[question, :, trait], found.higher[question, :, trait]
        above = self.above.reshape(len(self.above), *self.thresholds.shape)[:, trait]  # (N, T)
        said = (above[np.arange(len(above)), chosen[self.folds]] > 0) == higher[self.folds]
        threshold = float(np.median(self.thresholds[trait, chosen]))
        return said == self.asked[question].yes, bool(higher.sum() * 2 > FOLDS), threshold


def _rest(parts: np.ndarray) -> np.ndarray:
    """What all folds but each one add up to, (Q, FOLDS, ...)."""
    return parts.sum(1, keepdims=True) - parts
