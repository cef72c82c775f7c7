"""What each line of `compare` says, and which way is better, from the tables that they are computed by. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from attnbias.methods.engine.attention_measures import ATTENTION, BACKGROUNDS, FAITHFULNESS, Named, between_name
from attnbias.methods.engine.metrics import METRICS

OTHERS = (
    Named("tied_scores", "scores that equal one of the other label in their class: their order is arbitrary", None),
    Named("cooccur_AP", "average precision of classes whose co-occurring class is there too", "higher"),
    Named("exclusive_AP", "average precision of classes whose co-occurring class is not there", "higher"),
    Named("context_gap", "cooccur_AP - exclusive_AP: what the co-occurring class decides", "lower"),
    Named("worst_group_accuracy", "accuracy of the worst group", "higher"),
    Named("group_gap", "accuracy of all samples - that of the worst group", "lower"),
    Named("object_share", "how much of the class's probability the object alone leaves", "higher"),
    Named("context_share", "how much of the class's probability the context alone leaves", "lower"),
    Named("parameters", "numbers that are learned", None),
    Named("MACs", "multiply-accumulates of one image", "lower"),
    Named("ms an image", "milliseconds per image on this machine", "lower"),
)


def described(measure: str) -> Named:
    """The words of a line by its name; of one that is in no table, its name alone."""
    if measure in (known := {each.name: each for each in _every()}):
        return known[measure]
    metric, _, rest = measure.partition(" ")
    if metric in known and " - " in rest:
        return Named(measure, f"how much {metric} is lost from one split to the other", "lower")
    if metric in known and rest.endswith("gained there"):
        return Named(
            measure, f"{metric} beyond that of the first run where both are as good on the first split", "higher"
        )
    test, _, last = measure.rpartition(": ")
    if test and last in known:
        return Named(measure, f"{known[last].words}, under {test}", known[last].better)
    return Named(measure, "", None)


def _every() -> Iterator[Named]:
    for metric in METRICS:
        yield Named(metric.name, metric.words, metric.better)
    for measure in ATTENTION:
        yield Named(measure.name, measure.words, measure.better)
        words = f"{measure.words}: where it lies between a map at the middle (0) and the best map of its grid (1)"
        yield Named(between_name(measure.name), words, "higher")
    yield from (*FAITHFULNESS, *BACKGROUNDS, *OTHERS)
