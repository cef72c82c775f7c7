"""A case's settings changed, one at a time: no runner may give the case's figures whatever a setting says."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.parity.golden_case import Golden
from tests.parity.harness import check_case, descriptive, find_runner, runner_module

LONGEST = 3
"""Items of a list that are changed; the others are of the same kind."""


@dataclass(frozen=True)
class Change:
    """One setting, and other values for it."""

    name: str
    path: tuple[str | int, ...]
    values: tuple[Any, ...]

    def applied(self, case: Golden) -> Iterator[Golden]:
        """The case with each of the values."""
        for value in self.values:
            raw = copy.deepcopy(case.raw)
            place = raw["config"]
            for step in self.path[:-1]:
                place = place[step]
            place[self.path[-1]] = value
            yield Golden(case.path, case.method, case.name, raw)


def changes(case: Golden, all_of_them: bool = False) -> Iterator[Change]:
    """One change of every setting that is not said to be descriptive, those inside of others too."""
    module = runner_module(case.method)
    assert module is not None
    for change in _changes(case.raw.get("config") or {}, "", ()):
        if all_of_them or descriptive(module, case, change.name) is None:
            yield change


def ignored(cases: Iterable[Golden]) -> list[str]:
    """Settings that change no figure of any of these cases, which are of one kind.

    One case alone does not tell: a threshold may be far from every value, a batch without labels has no loss.
    """
    waiting: dict[str, bool] = {}
    for case in cases:
        for change in changes(case):
            if waiting.get(change.name, True):
                waiting[change.name] = all(_passes(changed) for changed in change.applied(case))
    return [name for name, without_effect in waiting.items() if without_effect]


def by_kind(cases: Iterable[Golden]) -> dict[str, list[Golden]]:
    """METHOD/KIND -> its cases, the smallest first."""
    kinds: dict[str, list[Golden]] = {}
    for case in sorted(cases, key=lambda case: (case.parameters, case.path.stat().st_size)):
        module = runner_module(case.method)
        runner = module and find_runner(module.RUNNERS, case.name)
        if module and runner:
            name = next(kind for kind, each in module.RUNNERS.items() if each is runner)
            kinds.setdefault(f"{case.method}/{name}", []).append(case)
    return kinds


def _passes(case: Golden) -> bool:
    try:
        return not check_case(case)
    except Exception:  # a value that makes no sense may fail in any way
        return False


def _changes(value: Any, name: str, path: tuple[str | int, ...]) -> Iterator[Change]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _changes(item, f"{name}.{key}" if name else key, (*path, key))
    elif isinstance(value, list) and value:
        flag = ""
        command = any(isinstance(item, str) and item.startswith("--") for item in value)
        for index, item in enumerate(value if command else value[:LONGEST]):
            # A value of a command line is named by its flag.
            yield from _changes(item, f"{name}[{flag or index}]", (*path, index))
            if command and isinstance(item, str):
                flag = item if item.startswith("--") else flag
    elif path:
        yield Change(name, path, _others(value))


def _others(value: Any) -> tuple[Any, ...]:
    """Other values of the same type, in both directions."""
    match value:
        case bool():
            return (not value,)
        case int():
            return tuple({value + 1, 2 * value + 3, value // 2, value // 8, -value} - {value})
        case float():
            return tuple({1.5 * value + 0.125, 0.5 * value} - {value})
        case str():
            return (str(int(value) + 1) if value.isdecimal() else f"{value}x",)  # a number of a command line
        case list():
            return ([1],)
        case dict():
            return ({"x": 1},)
        case _:
            return (1,)
