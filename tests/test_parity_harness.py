"""The parity harness itself: whatever a golden holds and no runner answers fails, and so does a wrong figure."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.changed_settings import by_kind, changes, ignored
from tests.parity.comparison import Tolerance, differences
from tests.parity.golden_case import Golden, Settings, UncomputedSetting
from tests.parity.harness import check, descriptive, golden_files, runner_module

GOLDENS = Path(__file__).parent / "goldens"
CASE = GOLDENS / "csra" / "lr_no_warmup.json.gz"


def write(folder: Path, name: str, change: Callable[[dict[str, Any]], None], method: str = "csra") -> Path:
    content = json.loads(gzip.decompress(CASE.read_bytes()))
    change(content)
    path = folder / method / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_an_unchanged_case_passes(tmp_path: Path) -> None:
    assert check(write(tmp_path, "lr_x.json", lambda case: None)) == []


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("warp_x.json", "csra", "unknown kind 'warp'"),
        ("lrs_x.json", "csra", "unknown kind 'lrs'"),
        ("lr_x.json", "nobody", "no runners for method 'nobody'"),
        ("lr_x.json", "golden", "no runners for method 'golden'"),
        ("lr_x.npz", "csra", "unknown file type '.npz'"),
    ],
)
def test_what_no_runner_knows_fails(tmp_path: Path, name: str, method: str, message: str) -> None:
    assert message in check(write(tmp_path, name, lambda case: None, method))[0]


def test_an_output_that_the_runner_does_not_compute_fails(tmp_path: Path) -> None:
    path = write(tmp_path, "lr_x.json", lambda case: case["outputs"].update(extra=1))
    assert check(path) == ["output 'extra' is not computed by the runner"]


def test_a_setting_that_the_runner_does_not_read_fails(tmp_path: Path) -> None:
    def add(case: dict[str, Any]) -> None:
        case["config"]["nesterov"] = True
        case["config"]["loaders"][0]["pin"] = 1

    assert check(write(tmp_path, "lr_x.json", lambda case: case["config"].update(nesterov=True))) == [
        "setting 'nesterov' is not read by the runner"
    ]
    assert "setting 'loaders' is" in check(write(tmp_path, "lr_x.json", add))[0]


def test_a_value_that_nothing_computes_fails_by_its_name(tmp_path: Path) -> None:
    def other_momentum(case: dict[str, Any]) -> None:
        case["config"]["sgd"]["momentum"] = 0.8

    (problem,) = check(write(tmp_path, "lr_x.json", other_momentum))
    assert problem.startswith("setting 'sgd' is {'momentum': 0.8")
    (problem,) = check(write(tmp_path, "lr_x.json", lambda case: case["config"]["argv"].extend(["--cutmix", "x"])))
    assert problem.startswith("setting 'argv' holds ['--cutmix']")


def test_settings_remember_what_was_read_inside_of_others_too() -> None:
    content = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4}, 5], "g": {"h": 6}, "i": 0.1}
    settings = Settings(content)
    assert settings.unread() == ["a", "b", "e", "g", "i"]
    assert settings["b"]["c"] == 2
    assert settings["e"][1] == 5
    settings.only(g={"h": 6}, i=0.1 + 1e-12, absent=1)
    assert settings.unread() == ["a", "b.d", "e[0].f"]
    assert "a" in settings
    assert settings.unread()[0] == "a"
    assert {**settings["b"]} == content["b"]
    assert settings.choice("a", {1: "one"}) == "one"
    assert settings.unread() == ["e[0].f"]
    with pytest.raises(UncomputedSetting, match=r"'g\.h' is 6; only 7 is computed"):
        settings["g"].only(h=7)
    with pytest.raises(UncomputedSetting, match=r"'a' is 1; known: \[2\]"):
        settings.choice("a", {2: "two"})
    with pytest.raises(UncomputedSetting, match="'a' is 1; only True"):
        settings.only(a=True)


CASES = [Golden.read(path) for path in golden_files(GOLDENS) if path.suffix == ".gz"]
LARGEST = 20_000_000
"""Values of the largest model whose settings are changed: each change runs its case again."""


def kinds() -> list[Any]:
    """The cases of each kind; those that build models wait for `-m slow`."""
    found = by_kind(case for case in CASES if case.parameters < LARGEST)
    return [
        pytest.param(cases, id=name, marks=[pytest.mark.slow] if builds_models(name, cases) else [])
        for name, cases in found.items()
        if any(list(changes(case)) for case in cases)
    ]


def builds_models(kind: str, cases: list[Golden]) -> bool:
    return kind.endswith(("layouts", "param_groups")) or any(case.parameters for case in cases)


@pytest.mark.timeout(1800)  # each change runs a case again, and some train
@pytest.mark.filterwarnings("default")  # a changed setting may leave nothing to divide by
@pytest.mark.parametrize("cases", kinds())
def test_a_changed_setting_is_never_ignored(cases: list[Golden]) -> None:
    assert ignored(cases) == []


@pytest.mark.parametrize("method", sorted({case.method for case in CASES}))
def test_every_setting_that_is_said_to_be_descriptive_is_one_of_a_case(method: str) -> None:
    module = runner_module(method)
    assert module is not None
    said: dict[str, str] = dict(getattr(module, "DESCRIPTIVE", {}))
    for pattern, reason in said.items():
        alone = type(module)("alone")
        alone.DESCRIPTIVE = {pattern: reason}  # type: ignore[attr-defined]
        names = ((case, name) for case in CASES if case.method == method for name in all_names(case))
        assert any(descriptive(alone, case, name) for case, name in names), f"no case has {pattern}"


def test_a_figure_beyond_its_tolerance_fails(tmp_path: Path) -> None:
    path = write(tmp_path, "lr_x.json", lambda case: case["outputs"]["rows"][3].__setitem__(2, 0.0101))
    (problem,) = check(path)
    assert problem.startswith("rows[3][2]: 1 of 1 values differ")


def all_names(case: Golden) -> list[str]:
    """Every setting's name, as `changes` and `unread` spell it."""
    return [*(change.name for change in changes(case, all_of_them=True)), *Settings(dict(case.config)).unread()]


def test_files_below_a_folder_called_records_are_not_cases(tmp_path: Path) -> None:
    kept = write(tmp_path, "lr_x.json", lambda case: None)
    write(tmp_path, "records/lr_x.json", lambda case: None)
    (tmp_path / "csra" / "INDEX.md").write_text("")
    assert golden_files(tmp_path) == [kept]


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ({"shape": [2], "values": [1.0, "nan"]}, [1.0, float("nan")], True),
        ({"shape": [2], "values": [1.0, "nan"]}, [1.0, 2.0], False),
        ({"shape": [2], "values": [1.0, 2.0]}, [float("nan"), 2.0], False),
        ({"shape": [1], "values": [1.0]}, 1.0, True),
        ({"shape": [2, 1], "values": [1.0, 2.0]}, [1.0, 2.0], False),
        ({"value": {"a": [1, "x", None, True]}}, {"a": (1, "x", None, True)}, True),
        ({"value": {"a": 1}}, {"a": 1, "b": 2}, False),
        ([1, 2], [1, 2, 3], False),
        (None, 0, False),
        (True, 1, False),
        (1, True, False),
        ("a", "b", False),
        ({"names": ["b"], "shape": [1], "values": [2.0]}, {"a": 1.0, "b": 2.0}, True),
        ({"names": ["c"], "shape": [1], "values": [2.0]}, {"a": 1.0, "b": 2.0}, False),
    ],
)
def test_values_of_every_form(expected: Any, actual: Any, same: bool) -> None:
    assert (list(differences(expected, actual, Tolerance(1e-9, 0), "x")) == []) is same


def test_probes_and_statistics_are_both_held() -> None:
    values = np.linspace(-1, 1, 101)
    stats = {"mean": values.mean(), "std": values.std(), "min": -1, "max": 1}
    expected = {"shape": [101], "sha_stats": stats, "probe_indices": [0, 50], "probe_values": [-1, 0]}
    assert not list(differences(expected, values, Tolerance(1e-6), "x"))
    unprobed = values.copy()
    unprobed[70:] += 0.1
    assert list(differences(expected, unprobed, Tolerance(1e-6), "x"))


def test_numbers_in_printed_lines_may_differ_within_a_tolerance_of_their_own() -> None:
    tolerance = Tolerance(atol=1e-3, in_texts=True)
    assert not list(differences("mAP: 0.50000", "mAP: 0.50050", tolerance, "x"))
    assert list(differences("mAP: 0.50000", "mAP: 0.51000", tolerance, "x"))
    assert list(differences("mAP: 0.5000", "AP: 0.5000", tolerance, "x"))


def test_inputs_of_every_kind_can_be_rebuilt() -> None:
    kinds = set()
    for path in golden_files(GOLDENS):
        case = Golden.read(path)
        for key, spec in case.inputs.items():
            if isinstance(spec, dict) and "shape" in spec and spec["kind"] not in kinds:
                kinds.add(spec["kind"])
                assert case.input(key, 0 if "{" in str(spec.get("name", key)) else None).size
    assert {"normal", "labels", "values", "image_batch", "image", "integers"} <= kinds
