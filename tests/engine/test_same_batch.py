"""One global batch, however it is cut: 1, 2 or 4 processes, with and without accumulation.

Losses agree up to float32's rounding, as sums are taken in another order, and over the steps as the weights drift
apart by it. Models with BatchNorm are left out: on a CPU torch has no synchronised one, so each share would be
normalised by itself. So is LLB, whose entropy is that of a share (its loss.py says so). What is random in a model
(dropout, drop path, mixing of batches) is drawn for each share, and is off here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.forked import ForkedRun

TOLERANCE = 1e-4
METHODS: dict[str, list[Any]] = {
    "csra": ["--recipe", "demo", "--backbone", "test_vit", "--image-size", 32],
    "llb": ["--recipe", "demo", "--image-size", 32],
    "absvit": ["--recipe", "demo", "--image-size", 32],
}
WITH_BATCHNORM: dict[str, list[Any]] = {
    "csra": ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32],
    "ida": ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32],
    "lsas": ["--recipe", "demo-single", "--depth", 8],
}
CPU = ["--gpus", 0, "--threads", 1]


def run(words: list[Any], log: Path, processes: int = 1) -> None:
    running = ForkedRun(words, log, processes)
    assert running.wait() == [0] * processes, log.read_text()


def trained(method: str, words: list[Any], root: Path, out: Path, processes: int = 1, accumulation: int = 1) -> None:
    words = ["train", method, *words, *CPU, "--epochs", 2, "--batch-size", 20, "--log-every", 1, "--data-root", root]
    run([*words, "--accumulation", accumulation, "--out", out], out.with_suffix(".log"), processes)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("method", ["csra", "absvit"])
def test_losses_do_not_depend_on_the_cut(method: str, demo_root: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    trained(method, METHODS[method], demo_root, whole)
    assert len(losses(whole)) >= 6
    for processes, accumulation in ((2, 1), (4, 1), (1, 3), (2, 2), (4, 2)):
        out = tmp_path / f"{processes}x{accumulation}"
        trained(method, METHODS[method], demo_root, out, processes, accumulation)
        assert losses(out) == pytest.approx(losses(whole), rel=TOLERANCE), out.name


@pytest.mark.parametrize("method", [*WITH_BATCHNORM, "llb", "absvit"])
def test_an_evaluation_does_not_depend_on_the_number_of_processes(method: str, demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = {**METHODS, **WITH_BATCHNORM}[method]
    trained(method, [*words, "--ema-decay", 0.9], demo_root, out)
    measured = []
    for processes in (1, 2, 4):
        results = tmp_path / f"{processes}.json"
        split = ["--split", "val,counter", "--eval-batch-size", 5, "--data-root", demo_root, "--json", results]
        run(["val", method, "--load-from", out, *CPU, *split], tmp_path / f"{processes}.log", processes)
        measured.append(json.loads(results.read_text()))
    assert measured[0] == measured[1] == measured[2]
