"""Find golden cases and their runners, run one, and list what is wrong with it.

`tests/parity/METHOD.py` holds RUNNERS: kind (the first word or words of a file's name) -> function that runs the
product's code as the case says and returns every output. An optional `tolerance(golden, output)` there says what a
case states in prose; an optional NOT_OWED holds outputs that are no promise of ours, with the reason. A setting that a
runner does not read is one that it ignores, and fails: DESCRIPTIVE holds those that cannot change a case's figures, as
NAME:SETTING patterns with the reason. Files below a folder called `records` are facts to read: no test is owed to them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.parity.comparison import differences, tolerance_of
from tests.parity.golden_case import Golden, UncomputedSetting

HERE = Path(__file__).parent


def golden_files(root: Path) -> list[Path]:
    """Every case below the folder; anything but Markdown, hidden files and records counts as one."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".md"]
    return [
        path
        for path in found
        if "records" not in path.relative_to(root).parts
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def check(path: Path) -> list[str]:
    """Run one case and list what is wrong with it, unknown methods, kinds and outputs included."""
    method = path.parent.name
    module = runner_module(method)
    if module is None:
        return [f"no runners for method '{method}': tests/parity/{method}.py is missing"]
    if not path.name.endswith((".json.gz", ".json", ".csv")):
        return [f"unknown file type '{path.suffix}'"]
    return check_case(Golden.read(path, method))


def check_case(case: Golden) -> list[str]:
    """The same of a case that was read, of a method that has runners."""
    module = runner_module(case.method)
    assert module is not None
    runner = find_runner(module.RUNNERS, case.name)
    if runner is None:
        return [
            f"unknown kind '{case.name.split('_')[0]}' of method '{case.method}'; known: {', '.join(module.RUNNERS)}"
        ]
    try:
        ours = runner(case)
    except UncomputedSetting as problem:
        return [str(problem)]
    if not isinstance(ours, Mapping) or not ours:
        return ["the runner returned nothing"]
    not_owed = getattr(module, "NOT_OWED", {})
    # A table of a published log holds figures of a training run beside those that follow from its settings.
    required = [] if case.path.suffix == ".csv" else [name for name in case.outputs if name not in not_owed]
    problems = [f"output '{name}' is not computed by the runner" for name in required if name not in ours]
    info = {**case.raw.get("data", {}), **case.outputs}
    # Some cases state facts beside `outputs`, such as the names of parameter groups: compared where a runner has them.
    stated = {**case.raw, **info}
    compared = [name for name in stated if name in ours]
    if not compared and set(info) != {"original_error"}:
        problems.append("nothing was compared")
    rule = getattr(module, "tolerance", None)
    for name in compared:
        problems += differences(stated[name], ours[name], tolerance_of(case, name, rule), name)
    unread = [name for name in case.config.unread() if descriptive(module, case, name) is None]
    return problems + [f"setting '{name}' is not read by the runner" for name in unread]


def descriptive(module: ModuleType, case: Golden, setting: str) -> str | None:
    """Why a setting, such as `backbone.init_cfg`, cannot change the figures of a case; None where it can."""
    for pattern, reason in getattr(module, "DESCRIPTIVE", {}).items():
        name, key = pattern.split(":")
        if fnmatchcase(case.name, name) and fnmatchcase(setting, key):
            return str(reason)
    return None


def find_runner(runners: Mapping[str, Any], name: str) -> Any | None:
    """The runner of the longest kind that the name begins with, at a word's end."""
    kinds = [kind for kind in runners if name == kind or name.startswith(f"{kind}_")]
    return runners[max(kinds, key=len)] if kinds else None


@cache
def runner_module(method: str) -> ModuleType | None:
    """Import tests/parity/METHOD.py under a name of its own, so that it cannot shadow a package."""
    path = HERE / f"{method}.py"
    if not path.is_file() or not method.isidentifier():
        return None
    spec = importlib.util.spec_from_file_location(f"parity_of_{method}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module if hasattr(module, "RUNNERS") else None
