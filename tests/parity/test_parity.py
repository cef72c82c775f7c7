"""Every file of a folder of goldens (`--goldens DIR`) is held against the code; what no runner knows fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.golden_case import Golden
from tests.parity.harness import check, golden_files

DEFAULT = Path(__file__).parent.parent / "goldens"
LARGE = 100_000_000
HEAVY = {
    "ida/traj_r101_heavy_readme_recipe": "the same command over features is traj_feat_heavy_adamtwd_onecycle, and the "
    "whole network's gradients are grad_r101_c80_h4_heavy; its own notes ask for loose limits after two steps",
}
"""Cases that take as long as fifty others, and which lighter ones keep their promise: they wait for `-m slow` too."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_file" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--goldens")
    root = given or DEFAULT
    files = golden_files(root)
    if given and not files:
        raise pytest.UsageError(f"--goldens {root}: no golden files there")
    cases = []
    for path in files:
        # Whoever names a folder wants all of it; by default the large models wait for `-m slow`.
        large = given is None and path.name.endswith(".json.gz") and Golden.read(path).parameters > LARGE
        name = str(path.relative_to(root)).split(".")[0]
        marks = [pytest.mark.slow] if large or (given is None and name in HEAVY) else []
        cases.append(pytest.param(path, id=name, marks=marks))
    metafunc.parametrize("golden_file", cases)


def test_golden(golden_file: Path) -> None:
    problems = check(golden_file)
    assert not problems, f"{golden_file.name}: " + "; ".join(problems[:12])
