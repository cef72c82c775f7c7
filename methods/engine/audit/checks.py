"""The checks of an audit: figures held against what knows nothing of the image, and against a person's own thresholds.

A condition of `--fail-if` fails only where the whole interval lies beyond its threshold. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from attnbias.methods.engine.audit.measures import BY_NAME
from attnbias.methods.engine.audit.result import Causes, Check, Figure, State
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.statistics import Interval

CONDITION = re.compile(r"\s*([\w-]+)\s*(>=|<=|>|<)\s*(\S+)\s*")

AGAINST_CHANCE = ("position_biased", "energy", "right_elsewhere", "context_share", "bg_gap")
"""Figures that are held against what knows nothing of the image, in the order of the page."""

NEEDS = {"looks": "attention", "relies": "reliance", "trust": "trust"}
"""What a figure comes from, by its family: a key of `MeasuredModel.not_run`."""

ONE_IMAGE = "a single image says nothing of the spread"


@dataclass(frozen=True)
class Condition:
    """What --fail-if asks for: it fails where the figure lies beyond the threshold."""

    typed: str
    name: str
    sign: str
    threshold: float

    @classmethod
    def of(cls, typed: str) -> Condition:
        """Read NAME>NUMBER.

        Raises:
            UsageError: it is none, or there is no such figure; the nearest is offered.
        """
        found = CONDITION.fullmatch(typed)
        if found is None:
            raise UsageError(f"--fail-if {typed!r}: expected FIGURE>NUMBER or FIGURE<NUMBER, as 'position_biased>0.2'")
        name, sign, number = found.groups()
        if name not in BY_NAME:
            raise UsageError(
                f"--fail-if: no figure '{name}'{did_you_mean(name, BY_NAME)}; one of: {', '.join(BY_NAME)}"
            )
        try:
            threshold = float(number)
        except ValueError:
            threshold = float("nan")
        if not isfinite(threshold):
            raise UsageError(f"--fail-if {typed!r}: {number} is not a number")
        return cls(typed.strip(), name, sign, threshold)

    @property
    def says(self) -> str:
        """What should hold, in words."""
        words = {">": "at most", ">=": "less than", "<": "at least", "<=": "more than"}
        return f"{self.name} is {words[self.sign]} {self.threshold:g}"

    def state(self, edges: Interval) -> State:
        """Whether what should hold does, of a figure with this interval."""
        low, high = edges if self.sign.startswith(">") else (-edges[1], -edges[0])
        limit = self.threshold if self.sign.startswith(">") else -self.threshold
        if low > limit or (low == limit and self.sign.endswith("=")):
            return "fails"
        if high < limit or (high == limit and not self.sign.endswith("=")):
            return "holds"
        return "undecided"


def checks(
    asked: Sequence[Condition], figures: Sequence[Figure], causes: Causes, not_run: Mapping[str, str]
) -> tuple[Check, ...]:
    """All checks: a person's own first, then those against what knows nothing of the image, then those of causes."""
    by_name = {figure.name: figure for figure in figures}
    found = [_own(condition, by_name.get(condition.name), not_run) for condition in asked]
    found += [_against_chance(name, by_name.get(name), not_run) for name in AGAINST_CHANCE]
    found += [_groups(causes), _pairs(causes), _properties(causes)]
    return tuple(found)


def missing(name: str, not_run: Mapping[str, str]) -> str:
    """Why a figure is not there."""
    need = "backgrounds" if name in _SWAPPED else NEEDS.get(BY_NAME[name].family, "")
    return not_run.get(need) or not_run.get(name) or "this set has nothing to measure it on"


_SWAPPED = {measure.name for measure in BY_NAME.values() if measure.over.startswith("background:")}


def _own(condition: Condition, figure: Figure | None, not_run: Mapping[str, str]) -> Check:
    state, reason = _state(condition, figure, missing(condition.name, not_run))
    return Check(condition.typed, condition.says, state, figure, condition.threshold, "yours", "--fail-if", reason)


def _state(condition: Condition, figure: Figure | None, why: str) -> tuple[State, str]:
    if figure is None or figure.value is None:
        return "not run", why
    if figure.interval_95 is None:
        return "undecided", ONE_IMAGE
    state = condition.state(figure.interval_95)
    return state, "its interval reaches to both sides of the threshold" if state == "undecided" else ""


def _against_chance(name: str, figure: Figure | None, not_run: Mapping[str, str]) -> Check:
    measure = BY_NAME[name]
    side = "below" if measure.better == "lower" else "above"
    says = f"{name} is {side} that of {measure.chance_words}"
    if figure is None or figure.chance is None:
        reason = missing(name, not_run)
        return Check(name, says, "not run", figure, None, "reference", measure.chance_words, reason)
    state = figure.beside(figure.chance)
    why = ONE_IMAGE if figure.interval_95 is None else "its interval covers that"
    reason = why if state == "undecided" else ""
    return Check(name, says, state, figure, figure.chance, "reference", measure.chance_words, reason)


def _groups(causes: Causes) -> Check:
    name, says = "groups", "no group is worse than the other images of its class"
    large = [group for group in causes.groups if not group.too_small]
    if not large:
        return Check(name, says, "not run", reason=causes.not_run.get(name) or "no group is large enough")
    worst = next(group for group in large if group.worst)
    state: State = "fails" if any(group.sure for group in large) else "undecided"
    words = f"worst: {worst.name}"
    return Check(name, says, state, worst.accuracy, threshold_words=words, reason=_no_proof(state))


def _pairs(causes: Causes) -> Check:
    name, says = "pairs", "no class is named more often beside another class than without it"
    if not causes.pairs:
        reason = causes.not_run.get(name) or "no two classes are often enough together and apart"
        return Check(name, says, "not run", reason=reason)
    most = max(causes.pairs, key=lambda pair: (pair.sure, pair.difference.value or 0))
    state: State = (
        "fails" if any(pair.sure and (pair.difference.value or 0) > 0 for pair in causes.pairs) else "undecided"
    )
    words = f"{most.name} beside {most.context}"
    return Check(name, says, state, most.difference, 0.0, "reference", words, _no_proof(state))


def _properties(causes: Causes) -> Check:
    name, says = "properties", "the model relies on no place that tells a label, and no property tells its errors"
    if name in causes.not_run:
        return Check(name, says, "not run", reason=causes.not_run[name])
    if (found := causes.suffered) is not None:
        figure = found.relies or found.figure
        return Check(name, says, "fails", figure, figure.chance, "reference", figure.chance_words, found.text)
    return Check(name, says, "undecided", reason=_no_proof("undecided"))


def _no_proof(state: State) -> str:
    return "none was found, which does not show that there is none" if state == "undecided" else ""
