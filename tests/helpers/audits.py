"""An audit with every section of the page filled, of invented figures and drawn images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from attnbias.methods.engine.audit.examples import changed, choose, pairs_shown, shown
from attnbias.methods.engine.audit.result import (
    About,
    Against,
    Audit,
    Causes,
    Cell,
    Check,
    ClassRow,
    Difference,
    Figure,
    Group,
    Pair,
    Property,
    Sample,
    Sentence,
    Subset,
    Suggestion,
    Trust,
    TrustEntry,
)
from attnbias.methods.engine.display.gallery import GalleryItem, ShareBox, View

QUADRANTS = ((True, True), (True, False), (False, True), (False, False))


def figure(name: str, words: str, family: Any, value: float | None, reach: float = 0.05, **fields: Any) -> Figure:
    """A figure with a symmetric interval."""
    edges = None if value is None else (value - reach, value + reach)
    return Figure(**{"name": name, "words": words, "family": family, "value": value, "interval_95": edges, "n": 240}
                  | fields)  # fmt: skip


def audit(classes: tuple[str, ...] = ("cat", "dog", "bird"), images: int = 24, **parts: Any) -> Audit:
    """One object an image; every second one is named, every third one looked at. `parts` replace what is given."""
    biased = figure(
        "position_biased",
        "share of objects wholly outside the focus",
        "looks",
        0.41,
        0.08,
        better="lower",
        chance=0.22,
        chance_words="the map at the middle",
    )
    energy = figure(
        "energy",
        "share of the map's sum on the object",
        "looks",
        0.37,
        better="higher",
        chance=0.29,
        chance_words="the map at the middle",
    )
    reliance = figure(
        "context_share",
        "share of the score left without the object",
        "relies",
        0.62,
        better="lower",
        kind="estimated",
    )
    samples = tuple(_sample(position, classes) for position in range(images))
    cells = tuple(_cell(right, on_object, samples) for right, on_object in QUADRANTS)
    causes = _causes(classes)
    whole: dict[str, Any] = {
        "about": about(classes, images),
        "answer": (
            Sentence(
                "It looks at the object less often than a map at the middle would: the focus misses 41 % of 240 "
                "objects (33 to 49 %), the map at the middle 22 %.",
                ("position_biased",),
            ),
            Sentence("It keeps 62 % of its score (57 to 67 %) when the object is taken away.", ("context_share",)),
        ),
        "trust": trust("passes"),
        "checks": (
            Check("position_biased", "at most 20 % of the objects are wholly outside the focus", "fails", biased, 0.2,
                  "yours", "typed: --fail-if"),
            Check("energy", "more of the map is on the object than of one at the middle", "holds", energy, 0.29,
                  "reference", "the map at the middle"),
            Check("context_share", "at most 60 % of the score is left without the object", "undecided", reliance, 0.6,
                  "none", "", "the interval reaches to both sides"),
            Check("worst_group", "no group falls far behind", "not run", None, None, "none", "", "no groups are known"),
        ),
        "figures": (biased, energy, reliance),
        "scores": (
            figure("whole", "the whole image", "right", 0.71, better="higher", form="number"),
            figure("object_only", "the object alone, on another image", "relies", 0.33, form="number", better="higher"),
            figure("context_only", "the context alone", "relies", 0.44, form="number", better="lower"),
        ),
        "quadrants": cells,
        "classes": tuple(_class(name, number) for number, name in enumerate(classes)),
        "causes": causes,
        "subsets": tuple(
            Subset("object size", name, words, 80, (biased, energy), ())
            for name, words in (("small", "at most 4 % of the image"), ("large", "above 20 % of the image"))
        ),
        "pictures": choose(samples, cells, causes, classes),
        "against": Against(
            about(classes, images, model="runs/plain"),
            (
                Difference("position_biased", biased.words, figure("position_biased", biased.words, "looks", 0.6,
                           better="lower"), biased, -0.19, (-0.27, -0.11), 0.001, True, True),
                Difference("energy", energy.words, energy, energy, 0.0, (-0.04, 0.04), 0.9, True, False),
            ),
            "It looks elsewhere less often than before, on the same 240 objects: 41 % after 60 %.",
            ("position_biased", "energy"),
            changed(tuple(_before(sample) for sample in samples), samples, classes),
        ),
        "suggestions": (
            Suggestion("Train with CSRA on the same recipe.", ("position_biased",), "attnbias train csra"),
        ),
        "limits": ("A map shows where a score comes from, not why.", "Intervals are of these images alone."),
        "samples": samples,
    }  # fmt: skip
    return Audit(**whole | parts)


def about(classes: tuple[str, ...], images: int, model: str = "runs/csra") -> About:
    return About(
        model=model,
        source="a run of attnbias",
        weights_sha256="5f3c" * 16,
        method="csra",
        backbone="resnet101",
        map="gradcam",
        map_reason="the model has no attention of its own",
        layer="layer4",
        layer_reason="the last one with a grid",
        dataset="demo",
        split="val",
        truth="masks",
        truth_reason="the set has masks",
        truth_kind="measured",
        task="multilabel",
        classes=classes,
        images=images,
        images_of_split=2 * images,
        drawn="every second one",
        objects=images,
        measured_objects=images,
        left_out={"no mask": 3},
        unreadable=(),
        preprocessing="224 px, centre crop",
        command="attnbias audit runs/csra demo",
        date="2026-11-29T16:00:00+00:00",
        versions={"attnbias": "1.0", "torch": "2.8"},
    )


def trust(verdict: Any) -> Trust:
    """The map's worth, of two questions."""
    value, text = (0.21, "It is better than chance.") if verdict == "passes" else (0.52, "It is no better than chance.")
    deletion = figure("deletion", "area under the curve of the score", "trust", value, better="lower", chance=0.5,
                      chance_words="a random order", form="number", unit="images")  # fmt: skip
    return Trust(
        verdict,
        text,
        (
            TrustEntry(
                "deletion",
                "Does the score fall faster when its highest pixels go first?",
                verdict,
                deletion,
                "the interval of the difference lies below 0",
            ),
            TrustEntry(
                "shift", "Does it stay where the image moves by a few pixels?", "not run", None, "", "not asked for"
            ),
        ),
    )


def gallery_items(audit: Audit, side: tuple[int, int] = (90, 64)) -> dict[int, GalleryItem]:
    """Images of noise, each with a spot for its true class and one for the next class."""
    rng, items, paired = np.random.default_rng(0), {}, pairs_shown(audit)
    for position in shown(audit):
        label = position % len(audit.about.classes)
        other = (label + 1) % len(audit.about.classes)
        heat = np.zeros((2, 7, 7), dtype=np.float32)
        heat[0, 1, 1] = heat[1, 5, 5] = 1
        image = Image.fromarray(rng.integers(0, 255, (*side[::-1], 3), dtype=np.uint8))
        predicted = (label,) if position % 2 == 0 else (other,)
        view = View({label: 0.6, other: 0.5}, predicted, {label: heat[0], other: heat[1]})
        box = ShareBox(label, 0.1, 0.1, 0.3, 0.3)
        before = View({label: 0.3, other: 0.5}, (other,), {label: heat[1], other: heat[0]})
        views = (view, before) if position in paired else (view,)
        items[position] = GalleryItem(f"image {position}.jpg", image, views, (label,), (), (box,))
    return items


def _sample(position: int, classes: tuple[str, ...]) -> Sample:
    label, right = position % len(classes), position % 2 == 0
    predicted = label if right else (label + 1) % len(classes)
    elsewhere = float(position % 3 != 0)
    values = {
        "energy": 0.3 * (1 - elsewhere),
        "position_biased": elsewhere,
        "context_only": 0.1 + 0.5 * (position % 5 == 0),
    }
    score = 0.5 + 0.01 * position if right else 0.4
    return Sample(position, f"images/{position}.jpg", label, right, (predicted,), score, "", values)  # fmt: skip


def _before(sample: Sample) -> Sample:
    """As the model before saw it: wrong in every fourth image, and never at the object in the first half."""
    right = sample.right and sample.image % 4 != 0
    elsewhere = float(sample.image < 12 or sample.values["position_biased"] == 1)
    values = {**sample.values, "position_biased": elsewhere, "energy": 0.2 * (1 - elsewhere)}
    return replace(sample, right=right, score=sample.score - 0.2 * (not right), values=values)


def _cell(right: bool, on_object: bool, samples: tuple[Sample, ...]) -> Cell:
    rows = tuple(
        row
        for row, sample in enumerate(samples)
        if sample.right == right and (sample.values["position_biased"] == 0) == on_object
    )
    share = len(rows) / len(samples)
    return Cell(right, on_object, figure("cell", "", "looks", share, n=len(samples)), len(rows), rows)


def _class(name: str, number: int) -> ClassRow:
    value = (7 * number % 19) / 20
    few = number % 5 == 4
    return ClassRow(
        name,
        number,
        3 if few else 20 + number,
        figure("accuracy", "named", "right", value, 0.1),
        None,
        figure("position_biased", "elsewhere", "looks", 1 - value, 0.1, better="lower", chance=0.2),
        figure("energy", "on the object", "looks", value / 2, better="higher", chance=0.3),
        None if few else figure("context_only", "left", "relies", 0.5, better="lower"),
        few,
    )


def _causes(classes: tuple[str, ...]) -> Causes:
    first, second = classes[0], classes[-1]
    return Causes(
        pairs=(
            Pair(first, second, figure("together", "", "right", 0.8, n=40), figure("alone", "", "right", 0.5, n=30),
                 figure("difference", "", "right", 0.3, 0.1), True),
        ),
        groups=(
            Group(f"{first}, on land", figure("accuracy", "", "right", 0.9, n=40, unit="images"), False, False, False),
            Group(f"{first}, on water", figure("accuracy", "", "right", 0.4, n=30, unit="images"), False, True, True),
        ),
        properties=(
            Property("brightness", "picture", "label", first, "brightness above 0.71",
                     figure("brightness", "", "right", 0.83, unit="images", chance=0.5, chance_words="a coin",
                            kind="heuristic"), True, f"Brightness tells {first}.", (0, 3)),
        ),
        backgrounds=(figure("mixed_rand", "on the context of another class", "relies", 0.48, better="higher"),),
        not_run={"groups by camera": "no such column"},
    )  # fmt: skip
