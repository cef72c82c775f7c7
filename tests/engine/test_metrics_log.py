"""metrics.jsonl after a power cut or an edit: mended or named, alike by resume and by `compare`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_line import Result, attnbias

SMALL = ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 2, "--batch-size", 20]


def train(root: Path, out: Path, *more: Any, expect: int = 0) -> Result:
    words = ["train", "csra", *SMALL, "--gpus", 0, "--threads", 1, "--log-every", 1, "--data-root", root]
    return attnbias(*words, "--out", out, *more, expect=expect)


@pytest.fixture(scope="module")
def finished(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(demo_root, out)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def log_of(run: Path) -> Path:
    return run / "metrics.jsonl"


def test_a_torn_last_line_is_cut_off_and_said(demo_root: Path, run: Path) -> None:
    whole = log_of(run).read_bytes()
    log_of(run).write_bytes(whole[:-40])
    attnbias("compare", run, expect=0)
    said = train(demo_root, run, "--resume", "auto").out
    assert "holds 9 of the 10 lines" in said
    assert "run; goes on from step " in said
    assert log_of(run).read_bytes() == whole[: whole[:-1].rindex(b"\n") + 1]


def test_what_follows_the_checkpoint_is_cut_off_whatever_it_is(demo_root: Path, run: Path) -> None:
    whole = log_of(run).read_bytes()
    for torn in (b'{"step": 9, "epo', b"\n\n \r\n", b"\0" * 99, b"\0\n\0"):
        log_of(run).write_bytes(whole + torn)
        attnbias("compare", run, expect=0)
    train(demo_root, run, "--resume", "auto")
    assert log_of(run).read_bytes() == whole


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"null", b'{"step": 1}', b"\xff\xfe", b"[" * 100_000, b'{"step": 1e999}']
)
def test_a_broken_line_in_the_middle_is_named(broken: bytes, demo_root: Path, run: Path) -> None:
    lines = log_of(run).read_bytes().split(b"\n")
    lines[2] = broken
    log_of(run).write_bytes(b"\n".join(lines))
    for failed in (attnbias("compare", run, expect=3), train(demo_root, run, "--resume", "auto", expect=3)):
        assert "metrics.jsonl, line 3 is damaged" in failed.line
    assert log_of(run).read_bytes() == b"\n".join(lines)


def test_a_run_resumed_into_another_folder_counts_its_own_lines(
    demo_root: Path, finished: Path, tmp_path: Path
) -> None:
    """Stopped and resumed there again, no line is written twice."""
    first = next(path for path in sorted((finished / "checkpoints").iterdir()) if path.name.endswith("4"))
    out = tmp_path / "run"
    train(demo_root, out, "--resume", first, "--save-steps", 2, "--keep", 9)
    steps = [json.loads(line)["step"] for line in log_of(out).read_text().splitlines()]
    assert steps == [5, 6, 7, 8, 8]
    shutil.rmtree(out / "checkpoints" / "step-00000008")
    train(demo_root, out, "--resume", "auto")
    assert [json.loads(line)["step"] for line in log_of(out).read_text().splitlines()] == steps


def test_the_log_is_on_the_disk_before_the_checkpoint_that_counts_it(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut cannot be tried here: what is flushed, and in which order, can be seen."""
    flushed: list[str] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    train(demo_root, tmp_path / "run")
    manifests = [position for position, name in enumerate(flushed) if name == "complete.json"]
    assert len(manifests) == 2
    for begin, end in zip([0, *manifests], manifests, strict=False):
        assert "metrics.jsonl" in flushed[begin:end]
