"""Hold what the code computed against what a golden case says, by the rules of the goldens' README."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from tests.parity.golden_case import Golden

NUMBER = re.compile(r"[-+]?\d+\.\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Tolerance:
    """|ours - golden| <= atol + rtol * |golden|, for at least `share` of the values; texts exact unless `in_texts`."""

    atol: Any = 0.0
    rtol: Any = 0.0
    atol_of_max_abs: float = 0.0
    share: float = 1.0
    in_texts: bool = False


ToleranceRule = Callable[[Golden, str], Tolerance | None]
"""A runner module's `tolerance(golden, output)`: what a case says in prose or in a form of its own, else None."""


def tolerance_of(case: Golden, output: str, rule: ToleranceRule | None = None) -> Tolerance:
    """Find an output's tolerance: the runner's rule, the entry for its name, `NAME_atol`, then the file's own."""
    if rule and (found := rule(case, output)):
        return found
    entries = {**case.tolerance.get("per_output", {}), **case.tolerance.get("tolerance_by_output", {})}
    entries.update(case.raw.get("tolerance_by_output", {}))
    for pattern, entry in sorted(entries.items(), key=lambda item: item[0] != output):
        if any(fnmatchcase(output, part.strip().replace("[", "[[]")) for part in pattern.split(",")):
            return Tolerance(**entry)
    named = {
        key.rsplit("_", 1)[1]: value
        for key, value in case.tolerance.items()
        if key.endswith(("_atol", "_rtol")) and output.startswith(key.rsplit("_", 1)[0])
    }
    if named:
        return Tolerance(**named, in_texts=True)
    return Tolerance(atol=case.tolerance.get("atol", 0.0), rtol=case.tolerance.get("rtol", 0.0))


def differences(expected: Any, actual: Any, tolerance: Tolerance, place: str) -> Iterator[str]:
    """Yield one line for each difference (none where all is well)."""
    if _is_array(expected):
        yield from _array_differences(expected, actual, tolerance, place)
    elif isinstance(expected, dict) and set(expected) == {"value"}:
        yield from differences(expected["value"], actual, tolerance, place)
    elif isinstance(expected, dict):
        ours = {str(key): value for key, value in actual.items()} if isinstance(actual, Mapping) else None
        if ours is None or set(ours) != set(expected):
            names = sorted(ours) if ours is not None else type(actual).__name__
            yield f"{place}: expected the entries {sorted(expected)}, got {names}"
        else:
            for key, value in expected.items():
                yield from differences(value, ours[key], tolerance, f"{place}.{key}")
    elif isinstance(expected, list):
        ours = _plain(actual)
        if not isinstance(ours, list) or len(ours) != len(expected):
            size = len(ours) if isinstance(ours, list) else type(actual).__name__
            yield f"{place}: expected a list of {len(expected)}, got {size}"
        else:
            for index, value in enumerate(expected):
                yield from differences(value, ours[index], tolerance, f"{place}[{index}]")
    else:
        yield from _value_differences(expected, _plain(actual), tolerance, place)


def _is_array(expected: Any) -> bool:
    return isinstance(expected, dict) and "shape" in expected and ("values" in expected or "probe_values" in expected)


def _array_differences(expected: dict[str, Any], actual: Any, tolerance: Tolerance, place: str) -> Iterator[str]:
    if "names" in expected and isinstance(actual, Mapping):
        missing = [name for name in expected["names"] if name not in actual]
        if missing:
            yield f"{place}: {missing} missing"
            return
        actual = np.stack([_numbers(actual[name]) for name in expected["names"]])
    ours, shape = _numbers(actual), tuple(expected["shape"])
    if ours.shape == () and shape == (1,):
        ours = ours.reshape(1)
    if ours.shape != shape:
        yield f"{place}: expected shape {shape}, got {ours.shape}"
        return
    flat = ours.reshape(-1)
    if "values" in expected:
        golden = _numbers(expected["values"]).reshape(-1)
        index = np.arange(golden.size)
    else:
        golden = _numbers(expected["probe_values"]).reshape(-1)
        index = np.asarray(expected["probe_indices"], dtype=np.int64)
    largest = np.nanmax(np.abs(golden), initial=0.0)
    atol = np.broadcast_to(np.maximum(tolerance.atol, tolerance.atol_of_max_abs * largest), shape).reshape(-1)
    rtol = np.broadcast_to(tolerance.rtol, shape).reshape(-1)
    with np.errstate(invalid="ignore"):
        allowed = atol[index] + rtol[index] * np.abs(golden)
        close = (np.abs(flat[index] - golden) <= allowed) | (flat[index] == golden)
    close |= np.isnan(flat[index]) & np.isnan(golden)
    if golden.size and close.mean() < tolerance.share:
        wrong = np.flatnonzero(~close)
        worst = wrong[np.argmax(np.nan_to_num(np.abs(flat[index] - golden)[wrong] - allowed[wrong], nan=np.inf))]
        yield (
            f"{place}: {wrong.size} of {golden.size} values differ; worst at {int(index[worst])}: "
            f"expected {golden[worst]:.9g}, got {flat[index[worst]]:.9g} (allowed {allowed[worst]:.3g})"
        )
    if "sha_stats" in expected and tolerance.share == 1:
        yield from _statistics_differences(expected["sha_stats"], flat, float(atol.max()), float(rtol.max()), place)


def _statistics_differences(
    stats: dict[str, Any], flat: np.ndarray, atol: float, rtol: float, place: str
) -> Iterator[str]:
    """Bounds that follow from the bound on each element: mean and std may be off by the error's root mean square."""
    golden = {name: float(value) for name, value in stats.items()}
    spread = float(np.hypot(golden["mean"], golden["std"]))
    ours = {"mean": flat.mean(), "std": flat.std(), "min": flat.min(), "max": flat.max()}
    for name, value in ours.items():
        allowed = atol + rtol * (spread if name in ("mean", "std") else abs(golden[name]))
        # Statistics are stored with nine digits.
        if not abs(value - golden[name]) <= allowed + 1e-8 * abs(golden[name]):
            yield f"{place}: {name} expected {golden[name]:.9g}, got {value:.9g} (allowed {allowed:.3g})"


def _value_differences(expected: Any, actual: Any, tolerance: Tolerance, place: str) -> Iterator[str]:
    number = isinstance(expected, int | float) and not isinstance(expected, bool)
    if number or expected in ("nan", "inf", "-inf"):
        if not isinstance(actual, int | float) or isinstance(actual, bool):
            yield f"{place}: expected {expected}, got {actual!r}"
        else:
            yield from _array_differences({"shape": [1], "values": [expected]}, [actual], tolerance, place)
    elif isinstance(expected, str) and isinstance(actual, str) and tolerance.in_texts:
        if NUMBER.sub("#", expected) != NUMBER.sub("#", actual):
            yield f"{place}: expected {expected!r}, got {actual!r}"
        else:
            pairs = [[float(text) for text in NUMBER.findall(line)] for line in (expected, actual)]
            yield from differences(pairs[0], pairs[1], tolerance, place)
    elif expected != actual or type(expected) is not type(actual):
        yield f"{place}: expected {expected!r}, got {actual!r}"


def _numbers(value: Any) -> np.ndarray:
    """Float64 array of an array, a tensor or nested lists; "nan" texts are NaN."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    return np.asarray(value, dtype=np.float64)


def _plain(value: Any) -> Any:
    """Lists, numbers and texts in place of tensors, arrays, tuples and paths."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
