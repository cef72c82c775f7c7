"""What an audit says in words: its answer, what to try, and its limits; made of figures alone. No torch.

"Looks at" is said of maps, "relies on" of interventions on the image.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from attnbias.methods import METHODS
from attnbias.methods.engine.audit.result import (
    About,
    Against,
    Causes,
    Check,
    Figure,
    Sentence,
    State,
    Suggestion,
    Trust,
)
from attnbias.methods.engine.registry import get_description

MOST = 3
"""Sentences of the answer, and suggestions."""


def share(value: float | None) -> str:
    """A share in per cent."""
    return "-" if value is None else f"{100 * value:.0f} %"


def with_interval(figure: Figure) -> str:
    """A share in per cent with its interval."""
    if figure.interval_95 is None:
        return f"{share(figure.value)} (no interval)"
    low, high = (f"{100 * edge:.0f}" for edge in figure.interval_95)
    return f"{share(figure.value)} [{low} to {high}]"


# The answer -----------------------------------------------------------------------------------------------------------


def answer(
    about: About, figures: Mapping[str, Figure], causes: Causes, against: Against | None
) -> tuple[Sentence, ...]:
    """At most three sentences: what changed, where the model looks, what gives it away, what it relies on."""
    sentences = [
        *([Sentence(against.text, against.rests_on)] if against else []),
        *_looks(about, figures),
        *([Sentence(told.text, (told.figure.name,))] if (told := causes.suffered) else []),
        *_relies(figures),
        *_rest(figures, causes),
    ]
    return tuple(sentences[:MOST])


def _looks(about: About, figures: Mapping[str, Figure]) -> list[Sentence]:
    figure = figures.get("position_biased")
    if figure is None or figure.chance is None:
        accuracy = figures.get("accuracy")
        where = f"where it looks cannot be held against objects: {about.truth_reason or 'none says anything'}"
        if about.truth is None:
            where += "; masks/ beside the images tells them, --masks estimate takes those of a segmenter"
        named = f"The model names {with_interval(accuracy)} of {accuracy.n} true classes; " if accuracy else ""
        return [Sentence((named + where)[:1].upper() + (named + where)[1:] + ".", ("accuracy",) if accuracy else ())]
    words = {
        "holds": f"which is less often than the map at the middle ({share(figure.chance)})",
        "fails": f"which is more often than the map at the middle ({share(figure.chance)})",
        "undecided": f"which is not distinguishable from looking at the middle ({share(figure.chance)})",
    }[figure.beside(figure.chance)]
    text = f"In {with_interval(figure)} of {figure.n} objects the model looks wholly past the object, {words}."
    return [Sentence(text, (figure.name,))]


def _relies(figures: Mapping[str, Figure]) -> list[Sentence]:
    figure = figures.get("context_share")
    if figure is None or figure.chance is None:
        return []
    words = {
        "holds": "it does not rely on the context beyond that",
        "fails": "it relies on the context",
        "undecided": "not distinguishable from images without the class",
    }[figure.beside(figure.chance)]
    text = (
        f"Without the object, {with_interval(figure)} of the mean score of its class is left; images without the class "
        f"have {share(figure.chance)}: {words}."
    )
    return [Sentence(text, (figure.name,))]


def _rest(figures: Mapping[str, Figure], causes: Causes) -> list[Sentence]:
    """What else is sure: a group that is worse, a class that leans on another."""
    found = []
    if group := next((each for each in causes.groups if each.sure), None):
        text = (
            f"Of the group '{group.name}' it names {with_interval(group.accuracy)} of {group.accuracy.n}, of all "
            f"{with_interval(figures['accuracy'])}."
        )
        found.append(Sentence(text, ("worst_group_accuracy", "accuracy")))
    if pair := next((each for each in causes.pairs if each.sure), None):
        text = (
            f"'{pair.name}' is named in {with_interval(pair.together)} of the images with '{pair.context}', and in "
            f"{with_interval(pair.alone)} of those without."
        )
        found.append(Sentence(text, ("accuracy",)))
    return found


# What to try ----------------------------------------------------------------------------------------------------------


def suggestions(
    about: About,
    model: Sequence[str],
    data: str,
    trust: Trust,
    checks: Sequence[Check],
    causes: Causes,
    limit: int | None,
) -> tuple[Suggestion, ...]:
    """At most three things to try, each for a figure; `model` and `data` are how both were typed."""
    state = {check.name: check.state for check in checks}
    audit = ("audit", *model, data, *(("--split", about.split) if about.split != "val" else ()))
    found: list[Suggestion] = []
    if trust.verdict == "fails":
        other = "layercam" if about.map != "layercam" else "gradcam"
        failed = [entry.name for entry in trust.entries if entry.verdict == "fails"]
        words = "Look with another kind of map before believing this one."
        found.append(_suggestion(words, failed, *audit, "--map", other, *_elsewhere(other)))
    found += [*_after_properties(causes, model, data), *_trainings(state, about, data)]
    if any(group.sure for group in causes.groups):
        words = "Train the last layer anew on all groups alike: is the bias in the features, or in the head?"
        val = ("val", about.method, "--load-from", model[0], "--dataset", data, "--last-layer", "train")
        found.append(_suggestion(words, ["worst_group_accuracy"], *val))
    undecided = [check.figure.name for check in checks if check.state == "undecided" and check.figure]
    if limit is not None and undecided:
        words = "Audit all images: with more of them intervals are shorter."
        found.append(_suggestion(words, undecided[:1], *audit, *_elsewhere("all")))
    return tuple(found[:MOST])


def _after_properties(causes: Causes, model: Sequence[str], data: str) -> list[Suggestion]:
    if (suffered := causes.suffered) is None:
        return []
    words = (
        f"Train on images in which {suffered.name} does not tell the {suffered.predicts}, and hold both models against "
        "each other."
    )
    again = ("audit", "RUN", data, "--against", model[0], *_elsewhere("after"))
    return [_suggestion(words, [suffered.figure.name], *again)]


def _trainings(state: Mapping[str, State], about: About, data: str) -> list[Suggestion]:
    """Methods for where the model looks, and for what it relies on."""
    found = []
    method = _suggested("looks", about.method)
    if method and state.get("position_biased") in ("fails", "undecided"):
        words = "Train a model that attends to each class by itself, and audit it --against this one."
        found.append(_suggestion(words, ["position_biased"], "train", method, "--dataset", data))
    method = _suggested("relies", about.method)
    because = [name for name in ("context_share", "bg_gap") if state.get(name) == "fails"]
    if method and because:
        words = "Train with interventions on the context, and audit it --against this one."
        found.append(_suggestion(words, because, "train", method, "--dataset", data))
    return found


def _suggestion(text: str, because: Sequence[str], *words: str) -> Suggestion:
    return Suggestion(text, tuple(because), shlex.join(["attnbias", *words]))


def _suggested(what: str, but: str) -> str | None:
    """The first other method that is for this."""
    known = (get_description(name) for name in METHODS if name != but)
    return next((method.name for method in known if method.suggested_for == what), None)


def _elsewhere(name: str) -> tuple[str, str]:
    return "--out", f"audit-{name}"


# Limits ---------------------------------------------------------------------------------------------------------------


def limits(about: About, tau: float, sampled: int, agrees_with: str, rules: Sequence[str]) -> tuple[str, ...]:
    """How it was measured, and what the figures do not say."""
    found = [
        "Intervals are of 95 %, over images; a figure of a single image has none. Figures of classes, groups and parts "
        "are read one by one: some of many lie beside the truth by chance.",
        "A map is where this kind of map says that the model looks; what the model relies on is told by taking the "
        "object or the context away.",
        f"The focus of a map is where it reaches {tau:g} of its range. The map at the middle is a Gaussian of a "
        "quarter of the image's height.",
    ]
    if about.truth is not None:
        found.append(f"Objects are {about.truth}{f' ({about.truth_reason})' if about.truth_reason else ''}.")
        if about.truth_kind == "estimated":
            found.append(
                "What is held against estimated masks is an estimate itself. An object that was not found is left out "
                "(unannotated), likeliest where it is out of its usual context: figures may be too kind."
            )
        if about.truth == "boxes":
            found.append("What of a box is not its object counts as the object.")
        found.append(
            "Objects are taken away with their boxes and a margin, and filled from other images of the split: edges of "
            "the filling can tell a model something too."
        )
    else:
        found.append(f"No objects: {about.truth_reason}. Where the model looks was not held against anything.")
    if about.left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in about.left_out.items())
        found.append(f"Objects that the map was not held against: {counts}.")
    if about.unreadable:
        found.append(f"{len(about.unreadable)} images could not be read and were left out.")
    if sampled:
        agrees = f"; agreement is with {agrees_with}" if agrees_with else ""
        found.append(f"Trust in the map was tested on {sampled} objects, evenly from all{agrees}.")
    found += [f"{about.dataset}: {rule}." for rule in rules]
    return tuple(found)
