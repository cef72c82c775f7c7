"""What an audit finds, as values: all that audit.json holds, and that the page shows. No torch.

The page and its pictures are drawn from an `Audit` alone; README.md beside this file documents every field. Shares lie
within 0..1. "Looks at" is said of maps, "relies on" of interventions (`Figure.family`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Literal

from attnbias.data.reading import Json
from attnbias.methods.engine.statistics import Interval
from attnbias.methods.engine.types import Truth

SCHEMA, VERSION = "attnbias-audit", 1

FAILED = 4
"""The exit code where a condition does not hold: no other failure of a command has it."""

Kind = Literal["measured", "estimated", "heuristic"]
"""Measured against given objects or labels; against objects that a segmenter estimated; or a rule of thumb."""

Family = Literal["right", "looks", "relies", "trust"]
"""What a figure is of: scores, maps, interventions on the image, or the map's own worth."""

State = Literal["holds", "fails", "undecided", "not run"]
"""Undecided: the interval reaches to both sides of the threshold."""


Form = Literal["share", "number"]
"""How it is written: a share of a whole as per cent; a mean score, a correlation, a ratio or a length as it is."""


@dataclass(frozen=True)
class Figure:
    """One figure with all that is needed to read it."""

    name: str
    words: str
    """What it says: "share of objects wholly outside the focus"."""
    family: Family
    value: float | None
    """None where it is not defined."""
    interval_95: Interval | None
    """None where a single image says nothing of the spread, or there is no interval for this figure."""
    n: int
    """How many of `unit` it was measured on."""
    unit: Literal["objects", "images"] = "objects"
    """An object is one true class of one image."""
    better: Literal["higher", "lower"] | None = None
    """None where it only describes."""
    chance: float | None = None
    """What a map or a model that knows nothing reaches."""
    chance_words: str = ""
    """Whose it is: "the map at the middle", "a random order"."""
    kind: Kind = "measured"
    form: Form = "share"

    def beside(self, reference: float | None) -> State:
        """Whether it is better than a reference (holds) or worse (fails); undecided where its interval covers that, or
        where there is no interval or no reference."""
        if self.interval_95 is None or reference is None:
            return "undecided"
        low, high = self.interval_95
        if low <= reference <= high:
            return "undecided"
        return "holds" if (low > reference) == (self.better == "higher") else "fails"


@dataclass(frozen=True)
class About:
    """Line 0: what was audited, on what, and how."""

    model: str
    """As it was typed, without secrets."""
    source: str
    """Where the weights came from, in words."""
    weights_sha256: str
    """Of all tensors of the model by their names: the same whatever the file they were read from."""
    method: str
    backbone: str
    map: str
    map_reason: str
    layer: str | None
    """The layer that the map looks at; None where the map is the model's own attention."""
    layer_reason: str
    dataset: str
    split: str
    truth: Truth | None
    """What an object is; None where the set has neither masks nor boxes."""
    truth_reason: str
    """Why it is that; where there is none, which measures are missing for it."""
    truth_kind: Kind
    task: Literal["multilabel", "singlelabel"]
    classes: tuple[str, ...]
    images: int
    """Images that were scored."""
    images_of_split: int
    drawn: str
    """How they were chosen, where not all were taken."""
    objects: int
    """True classes of all scored images."""
    measured_objects: int
    """Those of them that the map was held against."""
    left_out: Mapping[str, int]
    """Objects that say nothing, by reason."""
    unreadable: tuple[str, ...]
    preprocessing: str
    command: str
    date: str
    """ISO 8601, UTC."""
    versions: Mapping[str, str]
    """attnbias, torch, Python ... and the device."""
    class_match: Json | None = None
    """Which of the model's classes stand for those of the dataset, and which have no match; None where the model has
    the dataset's own."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of the answer, made of measured figures alone."""

    text: str
    rests_on: tuple[str, ...]
    """Names of `Audit.figures`."""


@dataclass(frozen=True)
class TrustEntry:
    """One question to the map."""

    name: str
    """deletion, agreement, randomised_weights, shift ..."""
    question: str
    """"Does the score fall faster when its highest pixels go first than in a random order?" """
    verdict: Literal["passes", "fails", "undecided", "not run"]
    figure: Figure | None
    """None where it was not run. `chance` is what a random or untrained map reaches."""
    rule: str
    """When it passes: "the interval of the difference lies below 0"."""
    reason: str = ""
    """Why it was not run."""


@dataclass(frozen=True)
class Trust:
    """Whether the map can be trusted; the page says so first where it cannot."""

    verdict: Literal["passes", "fails", "undecided", "not run"]
    """fails where one entry does; passes where all that were run do."""
    text: str
    entries: tuple[TrustEntry, ...]


@dataclass(frozen=True)
class Check:
    """One condition."""

    name: str
    """position_biased, or what was typed for --fail-if."""
    says: str
    """The condition that should hold, in words: "position_biased is at most 0.2"."""
    state: State
    figure: Figure | None = None
    """None where it was not run."""
    threshold: float | None = None
    threshold_of: Literal["yours", "reference", "none"] = "none"
    """`reference`: a map or a model that knows nothing of the image (`threshold_words`)."""
    threshold_words: str = ""
    reason: str = ""
    """Why it was not run, or why nothing could be decided."""


@dataclass(frozen=True)
class Cell:
    """One cell of the two-by-two: whether the class is named, and whether the focus meets the object."""

    right: bool
    on_object: bool
    figure: Figure
    """Its share of all measured objects."""
    count: int
    samples: tuple[int, ...]
    """Rows of samples.csv, from 0, the clearest first (area_matched: highest where on the object, else lowest)."""


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    number: int
    objects: int
    accuracy: Figure
    """Share of its images in which it is named."""
    average_precision: Figure | None
    """Of multi-label sets."""
    position_biased: Figure | None
    on_object: Figure | None
    """Share of the map's sum on the object (energy); `chance` is that of the map at the middle."""
    context_only: Figure | None
    """What of its mean score is left with its objects taken away."""
    too_small: bool
    """Too few objects to say anything: greyed."""


@dataclass(frozen=True)
class Pair:
    """A class and a class that is often beside it."""

    name: str
    """The class."""
    context: str
    """The other one."""
    together: Figure
    """Share of the images with both in which the class is named."""
    alone: Figure
    """The same of its images without the other one."""
    difference: Figure
    """together - alone."""
    sure: bool
    """Whether it holds at 5 % among all pairs that are read together (Holm)."""


@dataclass(frozen=True)
class Group:
    """Images that share a label and an attribute."""

    name: str
    accuracy: Figure
    too_small: bool
    worst: bool
    sure: bool
    """Whether it is worse than the other images of its class, at 5 % among all groups (Holm)."""


@dataclass(frozen=True)
class Property:
    """Something of an image, or of its metadata, that tells a label or an error without looking at the object."""

    name: str
    """brightness, border_colour, a metadata column ..."""
    source: Literal["picture", "column"]
    predicts: Literal["label", "error"]
    class_name: str | None
    """Whose label, or whose errors; None = of all classes."""
    rule: str
    """The stump in words: "brightness above 0.71"."""
    figure: Figure
    """How well it predicts on held-out images; `chance` beside it."""
    sure: bool
    """Whether it holds at 5 % among all that were tried."""
    text: str
    """A sentence for the page."""
    samples: tuple[int, ...] = ()
    """Rows of samples.csv that show it."""
    p: float | None = None
    """Among all properties and questions that were tried."""
    relies: Figure | None = None
    """Of a place that tells a label: what hiding it costs, more than hiding a mirrored place."""
    relied_on: bool | None = None
    """Whether the model relies on that place; None where that is undecided, or was not tried."""

    @property
    def is_found(self) -> bool:
        """Whether the model is shown to suffer of it: it relies on its place, or errs by it."""
        return self.sure and (self.predicts == "error" or self.relied_on is True)


@dataclass(frozen=True)
class Causes:
    """Where it comes from."""

    pairs: tuple[Pair, ...]
    groups: tuple[Group, ...]
    properties: tuple[Property, ...]
    backgrounds: tuple[Figure, ...]
    """Objects on other images' contexts, contexts alone (measured interventions)."""
    not_run: Mapping[str, str]
    """Of pairs, groups, properties, backgrounds: why it is missing."""

    @property
    def suffered(self) -> Property | None:
        """The first property that the model suffers of; one that only tells a label is a fact about the images."""
        return next((each for each in self.properties if each.is_found), None)


@dataclass(frozen=True)
class Subset:
    """A part of the objects."""

    family: Literal["object size", "place", "answer"]
    name: str
    """small objects, in the middle, right ..."""
    words: str
    """Its rule: "at most 4 % of the image"."""
    n: int
    figures: tuple[Figure, ...]
    samples: tuple[int, ...]
    """Rows of samples.csv."""


@dataclass(frozen=True)
class Sample:
    """One true class of one scored image: a row of samples.csv."""

    image: int
    """Position among the images that were drawn of the split."""
    path: str
    label: int
    """The true class; -1 in an image without one."""
    right: bool
    """Whether its class is named; of an image without one, whether none is."""
    predicted: tuple[int, ...]
    """The classes that the model names, the highest first."""
    score: float
    """Probability of the true class; of an image without one, the highest of all."""
    group: str
    """The image's attribute, or empty."""
    values: Mapping[str, float]
    """What was measured of it by column: the map's measures, `centre:` and `oracle:` those of the reference maps,
    object_only, context_only ... Empty where nothing was."""


@dataclass(frozen=True)
class Example:
    """One picture of a finding."""

    sample: int
    """Row of samples.csv."""
    path: str
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    drawn: str
    """The class whose map is drawn."""
    says: str
    """What is to be seen, with its figures: "score 0.91, 3 % of the map on the object"."""


@dataclass(frozen=True)
class Finding:
    """At most four pictures of one finding."""

    name: str
    """right-elsewhere, wrong-elsewhere ..., random."""
    title: str
    how: str
    """How they were chosen: "the four with the highest score"; "drawn by chance (seed 0)"."""
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Difference:
    """One figure before and after, on the same objects or images."""

    name: str
    words: str
    before: Figure
    after: Figure
    difference: float
    """after - before."""
    interval_95: Interval | None
    p: float | None
    paired: bool
    sure: bool
    """Whether it holds at 5 % among all rows (Holm) and its interval leaves zero out."""


@dataclass(frozen=True)
class Against:
    """The other model on the same samples: before it, and after it the one that is audited."""

    about: About
    rows: tuple[Difference, ...]
    text: str
    """A sentence for the page."""
    rests_on: tuple[str, ...]
    """Names of the figures in it."""
    pictures: tuple[Finding, ...] = ()
    """At most four objects of each way in which the answer or the focus has changed."""


@dataclass(frozen=True)
class Suggestion:
    """What to try."""

    text: str
    because: tuple[str, ...]
    """Names of the figures that it rests on."""
    command: str
    """Of attnbias."""


@dataclass(frozen=True)
class Audit:
    """Everything that an audit found."""

    about: About
    answer: tuple[Sentence, ...]
    """At most three."""
    trust: Trust
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]
    """All figures of the whole, each name once: what --fail-if can name."""
    scores: tuple[Figure, ...]
    """Mean score of the true class on the whole image, on the object alone, on the context alone; empty without
    objects."""
    quadrants: tuple[Cell, ...]
    """Four, or none without objects."""
    classes: tuple[ClassRow, ...]
    causes: Causes
    subsets: tuple[Subset, ...]
    pictures: tuple[Finding, ...]
    against: Against | None
    suggestions: tuple[Suggestion, ...]
    """At most three."""
    limits: tuple[str, ...]
    samples: tuple[Sample, ...]
    """The rows of samples.csv, which audit.json leaves out."""

    def figure(self, name: str) -> Figure | None:
        """A figure of the whole by its name; None where it was not measured."""
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def exit_code(self) -> int:
        """4 where a condition of --fail-if fails or could not be measured, else 0."""
        own = [check.state for check in self.checks if check.threshold_of == "yours"]
        return FAILED if {"fails", "not run"} & {*own} else 0

    def content(self) -> Json:
        """What audit.json holds: all but the samples; NaN and infinity are null."""
        parts: Iterator[str] = (part.name for part in fields(self) if part.name != "samples")
        return {"schema": SCHEMA, "version": VERSION} | {name: _plain(getattr(self, name)) for name in parts}

    def to_json(self) -> str:
        """The text of audit.json."""
        return json.dumps(self.content(), indent=1, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
