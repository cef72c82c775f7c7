"""Which device a command computes on, by what PyTorch says of a machine that is not this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.requests import Machine, ValRequest
from tests.helpers.command_line import attnbias


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A machine with some GPUs, and no launcher."""
    count = int(request.param)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # to be taken back
        monkeypatch.delenv(name)
    return count


def asked(**options: Any) -> ValRequest:
    return ValRequest(method="csra", load_from=["x"], **options)


@pytest.mark.parametrize("gpus", [4], indirect=True)
@pytest.mark.parametrize(
    ("typed", "before", "visible", "count"),
    [
        ("0,2", None, "0,2", 2),
        ("3,1", None, "3,1", 2),
        ("2,", None, "2", 1),
        ("1,3", "4,5,6,7", "5,7", 2),
        ("2", None, None, 2),
        (3, None, None, 3),
    ],
)
def test_gpus_are_counted_or_named(
    typed: Any, before: str | None, visible: str | None, count: int, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    placed = place(asked(gpus=typed))
    assert (placed.gpus, placed.processes, placed.device) == (count, count, "cuda")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    given = ValRequest.from_json(placed.to_json())
    assert (given.gpus, given.cards) == (count, ())  # a process that is started picks nothing more


@pytest.mark.parametrize(
    ("gpus", "typed", "visible", "words"),
    [
        (2, "0,2", None, "--gpus 0,2: there is no card 2; this machine has cards 0 to 1"),
        (0, "0,1", None, "--gpus 0,1: there is no card 0; this machine has no GPU"),
        (1, 2, "MIG-1,MIG-2", "--gpus 2 asked for, but this machine has 1 GPU (CUDA_VISIBLE_DEVICES='MIG-1,MIG-2': of"),
        (2, 4, "0,1", "--gpus 4 asked for, but this machine has 2 GPUs (CUDA_VISIBLE_DEVICES='0,1' hides others)"),
        (
            0,
            1,
            "",
            "--gpus 1 asked for, but this machine has no GPU (CUDA_VISIBLE_DEVICES='' hides others); use --gpus 0",
        ),
    ],
    indirect=["gpus"],
)
def test_gpus_that_are_not_there_are_named_with_what_hides_them(
    gpus: int, typed: Any, visible: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError) as refused:
        place(asked(gpus=typed))
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize("typed", ["0,0", "two", "0,x", "-1", ",", "1.5"])
def test_what_is_no_number_of_gpus_is_refused(typed: str, tmp_path: Path) -> None:
    line = attnbias("val", "csra", "--load-from", tmp_path, "--gpus", typed, expect=2).line
    assert line.startswith(
        f"error: --gpus {typed}: {'a card is named twice' if typed == '0,0' else 'expected how many'}"
    )


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_a_launcher_that_starts_more_processes_than_gpus_is_refused(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("LOCAL_RANK", "3"), ("RANK", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=r"started 4 processes on this machine, which has 2 GPUs: .*--nproc-per-node 2"
    ):
        place(asked())
    assert place(asked(gpus=0)).device == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place(asked()).device == "cuda"


@pytest.mark.parametrize(
    ("gpus", "mps", "typed", "device"),
    [
        (2, False, {}, "cuda"),
        (2, True, {"device": "auto"}, "cuda"),
        (0, True, {"device": "auto"}, "mps"),
        (0, True, {}, "mps"),
        (0, True, {"device": "mps"}, "mps"),
        (0, True, {"device": "cpu"}, "cpu"),
        (0, True, {"gpus": 0}, "cpu"),
        (0, False, {"device": "auto"}, "cpu"),
    ],
    indirect=["gpus"],
)
def test_auto_is_cudas_gpus_then_apples_then_the_cpu(
    gpus: int, mps: bool, typed: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In commands of one process and of several."""
    made = torch.empty
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *size, device=None: made(*size))
    for request in (asked(**typed), Machine(**typed)):
        placed = place(request)
        assert placed.device == device
        assert (placed.gpus == 0) is (device == "cpu")
        assert place(placed) == placed
