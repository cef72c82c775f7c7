"""Whether the map of an audit can be trusted: questions to it, each with a rule that its interval decides. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attnbias.methods.engine.audit.result import Figure, Trust, TrustEntry

KEPT = 0.5
"""Rank correlation from which two maps are taken as the same: a rule of thumb."""

QUESTIONS = {
    "deletion_gain": (
        "Does the score fall sooner when the map's highest pixels go first, than in a random order?",
        "the interval lies above 0",
        0.0,
    ),
    "insertion_gain": (
        "Does the score come back sooner when the map's highest pixels come first, than in a random order?",
        "the interval lies above 0",
        0.0,
    ),
    "agreement": (
        "Does another kind of map of the same class look at the same places?",
        "the interval lies above 0",
        0.0,
    ),
    "untrained_agreement": (
        "Does the map change when the network's weights are random?",
        f"the interval lies below {KEPT:g} (a rule of thumb)",
        KEPT,
    ),
    "shift_agreement": (
        "Does the map move with the image?",
        f"the interval lies above {KEPT:g} (a rule of thumb)",
        KEPT,
    ),
}
"""Figure -> what is asked, the rule, and its threshold."""


def judge(figures: Mapping[str, Figure], not_run: str, *, agrees_with: str = "") -> Trust:
    """Ask all questions; `agrees_with` says what `agreement` is with."""
    entries = [_entry(name, figures.get(name), not_run) for name in QUESTIONS]
    if agrees_with:
        entries = [
            replace(entry, question=f"{entry.question} (With {agrees_with}.)") if entry.name == "agreement" else entry
            for entry in entries
        ]
    verdicts = [entry.verdict for entry in entries]
    failed = [entry.name for entry in entries if entry.verdict == "fails"]
    open_ones = [entry.name for entry in entries if entry.verdict == "undecided"]
    if failed:
        return Trust("fails", f"The map cannot be trusted: it fails {_listed(failed)}.", tuple(entries))
    if open_ones:
        words = f"Whether the map can be trusted is undecided: the rule of {_listed(open_ones)} may hold or not."
        return Trust("undecided", words, tuple(entries))
    if "passes" in verdicts:
        return Trust("passes", "The map passes every test that was run of it.", tuple(entries))
    return Trust("not run", f"Whether the map can be trusted was not tested: {not_run}.", tuple(entries))


def _entry(name: str, figure: Figure | None, not_run: str) -> TrustEntry:
    question, rule, threshold = QUESTIONS[name]
    if figure is None or figure.value is None:
        return TrustEntry(name, question, "not run", None, rule, not_run)
    state = figure.beside(threshold)
    return TrustEntry(name, question, "passes" if state == "holds" else state, figure, rule)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
