"""What an audit measures: one table, which the figures, --fail-if and the documentation read. No torch.

A figure of a sample is a column of samples.csv; every figure here is a mean of a column, or a ratio of the means of
two, over the samples that have it. Those of images are counted once an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attnbias.methods.engine.attention_measures import ATTENTION, BACKGROUNDS
from attnbias.methods.engine.audit.result import Family, Form

CENTRE, ORACLE, SWAPPED = "centre:", "oracle:", "background:"
"""What stands before a column of the map at the middle, of the best map of the same grid, and of other contexts."""

MIDDLE = "the map at the middle"
ABSENT = "images without the class"


@dataclass(frozen=True)
class AuditMeasure:
    """One figure of the whole, of a class or of a part of the objects."""

    name: str
    words: str
    """What it says, for the page and the documentation."""
    family: Family
    better: Literal["higher", "lower"] | None
    over: str = ""
    """The column whose mean it is; empty of what is computed otherwise."""
    under: str = ""
    """Or by whose mean that mean is divided."""
    chance: str = ""
    """The column whose mean, or ratio to the mean of `under`, is that of what knows nothing of the image."""
    chance_words: str = ""
    at_chance: float | None = None
    """In its place where it is the same everywhere."""
    flag: bool = False
    """Whether it is true or false of each sample: intervals are then those of shares."""
    form: Form = "share"


NO_SHARES = ("energy_lift", "centroid_shift")
"""Measures of attention that are ratios or lengths."""

ALONE = {
    "pointing_scaled": "pointing game: the highest pixel is on the object, or within 3 % of the image's longer side",
    "pointing_no_tolerance": "pointing game: the highest pixel is on the object itself",
    "mixed_same": "share of the objects whose class is named on the context of another image of the class",
    "mixed_rand": "share of the objects whose class is named on the context of an image without the class",
    "only_bg_b": "share of the objects whose class is named with the object's box black",
    "only_bg_t": "share of the objects whose class is named with other places of the image in the object's box",
    "noise_on_object": "share of the objects whose class is named under noise on the object",
    "noise_on_context": "share of the objects whose class is named under noise of the same norm on the context",
}
"""Words of measures whose own lean on the line above them: here each may stand alone."""


def _of_maps() -> Iterable[AuditMeasure]:
    """The measures of attention that are means of columns, in the order of val's table."""
    chosen = [each for each in ATTENTION if each.better and each.shown is not None and (each.of_sample or each.ratio)]
    for each in sorted(chosen, key=lambda each: each.shown or 0):
        over, under = each.ratio or (each.name, "")
        yield AuditMeasure(
            each.name,
            ALONE.get(each.name, each.words),
            "looks",
            each.better,
            over,
            under,
            f"{CENTRE}{over}",
            MIDDLE,
            flag=each.flag,
            form="number" if each.name in NO_SHARES else "share",
        )


MEASURES: tuple[AuditMeasure, ...] = (
    AuditMeasure(
        "accuracy",
        "share of the true classes of all images that are named: the highest score of a single-label set, else a score "
        "of at least one half",
        "right",
        "higher",
        "right",
        flag=True,
    ),
    AuditMeasure(
        "mean_average_precision",
        "mean over the classes of a multi-label set of their average precision, equal scores taken together",
        "right",
        "higher",
    ),
    AuditMeasure(
        "worst_group_accuracy",
        "accuracy of the worst of the groups (a label under an attribute) that are large enough",
        "right",
        "higher",
    ),
    *_of_maps(),
    AuditMeasure(
        "right_elsewhere",
        "share of the objects whose class is named that have their focus wholly outside",
        "looks",
        "lower",
        "right_elsewhere",
        "right_measured",
        f"{CENTRE}right_elsewhere",
        MIDDLE,
        flag=True,
    ),
    AuditMeasure(
        "probability", "mean score of the true class on the whole image", "relies", None, "probability", form="number"
    ),
    AuditMeasure(
        "object_only",
        "mean score of the true class with the object alone, on another image of the split",
        "relies",
        "higher",
        "object_only",
        chance="absent_score",
        chance_words=ABSENT,
        form="number",
    ),
    AuditMeasure(
        "context_only",
        "mean score of the true class without the object: its box filled from another image of the split",
        "relies",
        "lower",
        "context_only",
        chance="absent_score",
        chance_words=ABSENT,
        form="number",
    ),
    AuditMeasure(
        "object_share",
        "object_only by probability: what of the mean score the object alone leaves",
        "relies",
        "higher",
        "object_only",
        "probability",
        "absent_score",
        ABSENT,
    ),
    AuditMeasure(
        "context_share",
        "context_only by probability: what of the mean score is left without the object",
        "relies",
        "lower",
        "context_only",
        "probability",
        "absent_score",
        ABSENT,
    ),
    *(
        AuditMeasure(
            each.name,
            ALONE.get(each.name, each.words),
            "relies",
            each.better,
            f"{SWAPPED}{each.name}",
            at_chance=0.0 if each.name == "bg_gap" else None,
            chance_words="a model that the context tells nothing" if each.name == "bg_gap" else "",
            flag=each.name != "bg_gap",
        )
        for each in BACKGROUNDS
        if each.name not in ("original", "rfs")
    ),
    AuditMeasure(
        "deletion_gain",
        "random_deletion - deletion: how much sooner the score falls when the map's highest pixels are set to 0 first, "
        "than in a random order (areas under the curves)",
        "trust",
        "higher",
        "deletion_gain",
        at_chance=0.0,
        chance_words="a random order",
        form="number",
    ),
    AuditMeasure(
        "insertion_gain",
        "insertion - random_insertion: how much sooner the score comes back when the highest pixels come first, in a "
        "blurred image",
        "trust",
        "higher",
        "insertion_gain",
        at_chance=0.0,
        chance_words="a random order",
        form="number",
    ),
    AuditMeasure(
        "agreement",
        "rank correlation with another kind of map of the same class",
        "trust",
        "higher",
        "agreement",
        at_chance=0.0,
        chance_words="maps that have nothing in common",
        form="number",
    ),
    AuditMeasure(
        "untrained_agreement",
        "rank correlation with the map of the same network with random weights",
        "trust",
        "lower",
        "untrained_agreement",
        at_chance=1.0,
        chance_words="a map that shows the network, not what it has learned",
        form="number",
    ),
    AuditMeasure(
        "shift_agreement",
        "rank correlation with the map of the image moved by a few pixels, moved back",
        "trust",
        "higher",
        "shift_agreement",
        at_chance=0.0,
        chance_words="maps that have nothing in common",
        form="number",
    ),
)
"""In the order of audit.json."""

BY_NAME = {measure.name: measure for measure in MEASURES}
