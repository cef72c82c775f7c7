"""Folders of other programs are read like files: Accelerate's, sharded ones, those of torch.distributed.checkpoint.

And nothing else of them: a table that runs code, names a file elsewhere or claims more than is there is refused.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.models import resnet18

from attnbias.weights.errors import WeightsError
from attnbias.weights.files import read_checkpoint
from tests.helpers.command_line import attnbias

State = dict[str, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 20))


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


def distributed(folder: Path, content: dict[str, Any]) -> Path:
    with warnings.catch_warnings(action="ignore"):  # that there is one process only
        dcp.save(content, checkpoint_id=folder)
    return folder


def accelerate(folder: Path, model: nn.Module, **how: Any) -> Path:
    Accelerator(cpu=True).save_model(model, folder, **how)
    return folder


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickles"])
@pytest.mark.parametrize("shard", ["10GB", "3KB"], ids=["whole", "sharded"])
def test_what_accelerate_saves(shard: str, safe: bool, tmp_path: Path) -> None:
    model = network()
    folder = accelerate(tmp_path / "saved", model, max_shard_size=shard, safe_serialization=safe)
    read = read_checkpoint(folder)
    assert same(read.state, model.state_dict())
    assert read.layout.startswith("sharded" if shard == "3KB" else "safetensors" if safe else "bare")
    if shard == "3KB":
        (index,) = folder.glob("*.index.json")
        assert len(list(folder.iterdir())) > 2
        assert same(read_checkpoint(index).state, read.state)


def test_the_state_of_a_run_of_accelerate(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = network()
    prepared, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    accelerator.save_state(str(tmp_path / "state"))
    assert same(read_checkpoint(tmp_path / "state").state, prepared.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"state": {"w": torch.ones(9)}, "lr": 0.1}, "epoch": 3},
        lambda state: {
            "app": {"model": {f"_orig_mod.{n}": v for n, v in state.items()}, "optim": {"w": torch.ones(9)}}
        },
    ],
    ids=["bare", "training", "application"],
)
def test_what_torch_distributed_checkpoint_saves(wrap: Any, tmp_path: Path) -> None:
    state = network().state_dict()
    content = wrap(state)
    folder = distributed(tmp_path / "dcp", content.get("app", content))
    read = read_checkpoint(folder)
    assert same(read.state, state)
    assert read.layout.startswith("distributed, ")


def test_the_sharded_state_of_a_run_of_accelerate(tmp_path: Path) -> None:
    state = network().state_dict()
    distributed(tmp_path / "pytorch_model_fsdp_0", {"model": state})
    distributed(tmp_path / "optimizer_0", {"optimizer": {"w": torch.ones(3)}})
    assert same(read_checkpoint(tmp_path).state, state)


def test_a_paper_s_model_is_recognised_and_trained_from_a_folder(demo_root: Path, tmp_path: Path) -> None:
    """CSRA's names in a distributed checkpoint of a parallel model."""
    backbone = {n: v for n, v in resnet18().state_dict().items() if not n.startswith("fc.")}
    state = {**backbone, "classifier.multi_head.0.head.weight": torch.zeros(10, 512, 1, 1)}
    folder = distributed(tmp_path / "dcp", {"model": {f"module.{name}": value for name, value in state.items()}})
    said = attnbias("weights", "inspect", folder, expect=0).out
    assert "distributed, model, module. stripped; 121 tensors" in said
    assert "csra (multilabel): fits" in said
    run = ["train", "csra", "--recipe", "demo", "--backbone", "resnet18", "--num-heads", 1, "--image-size", 32]
    run += ["--batch-size", 2, "--steps", 1, "--gpus", 0, "--threads", 1, "--data-root", demo_root]
    done = attnbias(*run, "--load-from", folder, "--out", tmp_path / "run", expect=0)
    assert f"model: {folder}, 61 tensors; new: nothing" in done.out.splitlines()


# Damaged and hostile --------------------------------------------------------------------------------------------------


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_table_that_runs_code_does_not(tmp_path: Path) -> None:
    folder = distributed(tmp_path / "dcp", network().state_dict())
    table = pickle.loads((folder / ".metadata").read_bytes())
    table.planner_data = Runs(tmp_path / "ran")
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    with pytest.raises(WeightsError, match=r"refused: it holds posix\.system"):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_a_table_that_leads_elsewhere_or_claims_too_much_is_refused(tmp_path: Path) -> None:
    folder = distributed(tmp_path / "dcp", network().state_dict())
    whole = (folder / ".metadata").read_bytes()

    def changed(change: Any) -> None:
        table = pickle.loads(whole)
        change(table)
        (folder / ".metadata").write_bytes(pickle.dumps(table))

    def elsewhere(table: Any) -> None:
        next(iter(table.storage_data.values())).relative_path = "../other/__0_0.distcp"

    def huge(table: Any) -> None:
        next(iter(table.state_dict_metadata.values())).size = torch.Size([1 << 20, 1 << 20])

    def less(table: Any) -> None:
        next(iter(table.state_dict_metadata.values())).chunks.clear()

    for change, words in ((elsewhere, "is not a file in it"), (huge, "cannot hold"), (less, "0 of the 1,200 numbers")):
        changed(change)
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(folder)


def test_damaged_bytes_are_refused_as_such(tmp_path: Path) -> None:
    state = network().state_dict()
    folder = distributed(tmp_path / "dcp", state)
    draw = random.Random(0)
    for file in (folder / ".metadata", folder / "__0_0.distcp"):
        whole = file.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            content[draw.randrange(len(content))] = draw.randrange(256)
            file.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
            with suppress(WeightsError):  # any other error is one of ours
                read_checkpoint(folder)
        file.write_bytes(whole)
    assert same(read_checkpoint(folder).state, state)


def test_shards_that_are_missing_elsewhere_or_not_whole_are_named(tmp_path: Path) -> None:
    folder = accelerate(tmp_path / "saved", network(), max_shard_size="3KB")
    (index,) = folder.glob("*.index.json")
    table = json.loads(index.read_text())
    name, file = next(iter(table["weight_map"].items()))
    for change, words in (
        ({name: "../evil.safetensors"}, "is not a file beside it"),
        ({name: "gone.safetensors"}, r"gone\.safetensors is missing"),
        ({"another": file}, "does not hold"),
    ):
        index.write_text(json.dumps({**table, "weight_map": {**table["weight_map"], **change}}))
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(folder)
    index.write_text("{")
    with pytest.raises(WeightsError, match="damaged or no table of shards"):
        read_checkpoint(folder)


def test_a_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    line = attnbias("val", "csra", "--load-from", tmp_path, expect=3).line
    assert "a folder of Accelerate" in line
