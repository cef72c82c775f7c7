"""`attnbias doctor` says what would keep a run from working, and what mends it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import torch

import attnbias
from attnbias.data import cores
from attnbias.data.cores import available_cores
from attnbias.methods.engine import launch
from attnbias.methods.engine.requests import ValRequest
from tests.helpers.archive_server import serving
from tests.helpers.command_line import attnbias as command


def findings(*arguments: Any, expect: int = 0) -> dict[str, dict[str, str]]:
    """By their names, from the JSON of the command."""
    rows = json.loads(command("doctor", "--json", *arguments, expect=expect).out)
    return {row["name"]: row for row in rows}


def test_every_package_device_and_folder_has_a_line_in_table_json_and_python(here: Path) -> None:
    rows, shown = findings(), command("doctor", expect=0).out.splitlines()
    declared = {re.split(r"[^\w-]", line)[0] for line in requires("attnbias") or () if ";" not in line}
    assert {*declared, "CPU", "data", "weights", "runs"} <= set(rows)
    assert [line.split("  ")[0].strip() for line in shown[1:]] == list(rows)
    listed = attnbias.doctor()
    assert [row.name for row in listed] == list(rows)
    assert listed["torch"].value == torch.__version__.split("+")[0] == rows["torch"]["value"].split("+")[0]


def test_a_package_that_is_older_than_what_was_tried_is_a_problem_with_its_cure(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = here / "older" / "timm-0.4.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.4\n")
    monkeypatch.syspath_prepend(str(older.parent))
    rows = findings(expect=3)
    assert rows["timm"]["verdict"] == "problem"
    assert rows["timm"]["value"].startswith("0.4, not ")
    assert rows["timm"]["advice"].startswith("pip install 'timm")
    assert {row["verdict"] for name, row in rows.items() if name != "timm"} <= {"ok", "note"}


def test_without_a_torch_that_works_the_rest_is_still_said(here: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None; sys.argv = ['attnbias', 'doctor', '--json']\n"
    script = f"{blocked}from attnbias.cli.app import main\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["PyTorch"]["verdict"] == "problem"
    assert "pip install torch" in rows["PyTorch"]["advice"]
    assert "runs" in rows


def test_a_folder_that_cannot_be_made_is_a_problem_that_names_its_option(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("ATTNBIAS_CACHE", str(here / "file" / "cache"))
    rows = findings("--data-root", here / "file" / "sets", expect=3)
    assert {name for name, row in rows.items() if row["verdict"] == "problem"} == {"data", "weights"}
    assert "$ATTNBIAS_CACHE" in rows["weights"]["advice"]
    assert not (here / "runs").exists()  # it only looks


def test_the_network_is_asked_where_that_is_typed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        server.files[""] = b"hub"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert "network" not in findings()
        assert not server.requests
        assert findings("--network")["network"]["verdict"] == "ok"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    unreached = findings("--network")["network"]
    assert unreached["verdict"] == "note"
    assert "127.0.0.1:9" in unreached["value"]
    monkeypatch.setenv("ATTNBIAS_OFFLINE", "1")
    assert "not asked" in findings("--network")["network"]["value"]


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 8), ("150000 100000", 1), ("50000 100000", 1)])
def test_cores_are_those_that_this_process_may_use(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert available_cores() == expected


@pytest.mark.parametrize(("usable", "there", "expected"), [(64, None, 16), (12, None, 12), (12, 4, 3)])
def test_loaders_share_the_cores_of_this_machine(
    usable: int, there: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One GPU a process; `there` processes were started on this machine by an outer launcher, of 8 in all."""
    monkeypatch.setattr(launch, "available_cores", lambda: usable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there or 1)
    if there:
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(there))
    assert launch.place(ValRequest.of({"method": "csra", "load_from": ["run"]})).workers == expected
