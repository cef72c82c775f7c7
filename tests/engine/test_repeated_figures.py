"""Figures that must be the same however they are come by: logged while training, measured again by `val`, in batches of
another size, by other processes; and an evaluation leaves no trace in what it evaluates."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from attnbias.data.index import Index, Record
from attnbias.data.prepared import index_path
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.evaluation.evaluate import evaluate
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from tests.helpers.command_line import attnbias
from tests.helpers.forked import ForkedRun

SMALL = ["--recipe", "demo", "--image-size", 32, "--batch-size", 24]
CPU = ["--gpus", 0, "--threads", 1]


def run_of(name: str, out: Path, root: Path, *more: Any, processes: int = 1) -> Path:
    words = ["train", name, *SMALL, *CPU, "--data-root", root, "--out", out, *more]
    running = ForkedRun(words, out.with_suffix(".log"), processes)
    assert running.wait() == [0] * processes, running.log.read_text()
    return out


def logged(out: Path) -> dict[str, dict[str, Any]]:
    """raw or ema -> the line of the last evaluation."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["weights"]: line for line in lines if "weights" in line}


def measured(name: str, out: Path, root: Path, *more: Any) -> dict[str, Any]:
    found = attnbias("val", name, "--load-from", out, "--data-root", root, *CPU, *more, "--json", "-", expect=0)
    (result,) = json.loads(found.out)
    return dict(result["measures"])


# The log and `val` ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["demo", "demo-single"])
@pytest.mark.parametrize("name", ["absvit", "csra", "ida", "llb", "lsas"])
def test_val_repeats_what_the_run_logged(name: str, dataset: str, demo_root: Path, tmp_path: Path) -> None:
    how = ["--dataset", dataset, "--epochs", 1, "--ema-decay", 0.5, "--eval-batch-size", 7]
    out = run_of(name, tmp_path / "run", demo_root, *how)
    lines, deciding = logged(out), "mAP" if dataset == "demo" else "top1"
    assert list(lines) == ["raw", "ema"]
    assert lines["raw"] != {**lines["ema"], "weights": "raw"}
    for weights, line in lines.items():
        same, larger = (
            measured(name, out, demo_root, "--weights", weights, "--eval-batch-size", size) for size in (7, 24)
        )
        assert {measure: line[measure] for measure in same} == same
        assert line[deciding] == pytest.approx(larger[deciding], rel=1e-4)


def test_val_alone_repeats_what_two_processes_logged(demo_root: Path, tmp_path: Path) -> None:
    how = ["--epochs", 1, "--ema-decay", 0.5, "--eval-batch-size", 5]
    out = run_of("csra", tmp_path / "run", demo_root, *how, processes=2)
    for weights, line in logged(out).items():
        found = measured("csra", out, demo_root, "--weights", weights, "--eval-batch-size", 5)
        assert {name: line[name] for name in found} == found
    tables = []
    for processes in (1, 2):
        table = tmp_path / f"{processes}.csv"
        words = ["val", "csra", "--load-from", out, "--data-root", demo_root, *CPU, "--eval-batch-size", 5]
        running = ForkedRun([*words, "--csv", table], tmp_path / "val.log", processes)
        assert running.wait() == [0] * processes, running.log.read_text()
        tables.append(table.read_text())
    assert tables[0] == tables[1]  # its rows too, one an image, in the order of the set


# An evaluation leaves no trace ----------------------------------------------------------------------------------------


def test_a_run_that_is_evaluated_often_trains_as_one_that_is_not(demo_root: Path, tmp_path: Path) -> None:
    """BatchNorm and dropout behave otherwise while training; an evaluation turns them, and must turn them back."""
    for name, more in (("csra", ["--backbone", "tiny"]), ("absvit", ["--dropout", 0.3])):
        often, seldom = (
            load_file(run / "checkpoints" / "step-00000006" / "model.safetensors")
            for run in (
                run_of(name, tmp_path / f"{name}-{steps}", demo_root, *more, "--epochs", 2, "--eval-steps", steps)
                for steps in (1, 6)
            )
        )
        assert often.keys() == seldom.keys()
        assert all(torch.equal(often[key], seldom[key]) for key in often)


class Uncertain(nn.Module):
    """A model whose answer in training mode depends on chance and on the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images).mean((2, 3))
        return logits


def test_models_are_evaluated_without_dropout_and_their_statistics_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for position in range(5):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{position}.png")
    records = tuple(Record(f"{position}.png", (position % 2, 1, 0)) for position in range(5))
    index = Index("some", "val", "multilabel", ("a", "b", "c"), tmp_path, records)
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"image_size": 16})
    dataset = method.open_dataset(recipe, index)
    model = Uncertain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = evaluate(method, model, dataset, recipe, Accelerator(cpu=True), batch_size=2).scores["scores"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(torch.stack([dataset[position]["image"] for position in range(5)])).sigmoid()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Two runs side by side ------------------------------------------------------------------------------------------------


def store(out: Path, root: Path, split: str) -> None:
    attnbias("val", "csra", "--load-from", out, "--split", split, "--data-root", root, *CPU, "--store", expect=0)


@pytest.mark.parametrize("dataset", ["demo", "demo-single"])
def test_compare_finds_the_better_run_better(dataset: str, demo_root: Path, tmp_path: Path) -> None:
    """Both are measured on what they were trained on; one has hardly begun."""
    how = ["--dataset", dataset, "--backbone", "tiny", "--eval-every", 100]
    begun = run_of("csra", tmp_path / "begun", demo_root, *how, "--epochs", 1)
    learned = run_of("csra", tmp_path / "learned", demo_root, *how, "--epochs", 25)
    for out in (begun, learned):
        store(out, demo_root, "train")
    for runs, sign in (((begun, learned), 1), ((learned, begun), -1)):
        folder = tmp_path / f"compared{sign}"
        attnbias("compare", *runs, "--out", folder, expect=0)
        lines = json.loads((folder / "comparison.json").read_text())["lines"]
        line = next(line for line in lines if line["measure"] in ("mAP", "top1") and line["split"].endswith("/train"))
        change = line["changes"][1]
        assert change["difference"] == pytest.approx(line["values"][1] - line["values"][0])
        low, high = sorted(sign * edge for edge in change["interval_95"])
        assert 0 < low < sign * change["difference"] < high


def test_compare_names_a_run_that_was_evaluated_on_other_labels(demo_root: Path, tmp_path: Path) -> None:
    first = run_of("csra", tmp_path / "first", demo_root, "--epochs", 1)
    other, root = shutil.copytree(first, tmp_path / "other"), tmp_path / "root"
    folder = shutil.copytree(dataset_folder("demo", demo_root), dataset_folder("demo", root))
    index = Index.read(index_path(folder, "val"))
    records = [record._replace(target=record.target[::-1]) for record in index.records[:1]]
    replace(index, records=(*records, *index.records[1:])).write(index_path(folder, "val"))
    store(first, demo_root, "val")
    store(other, root, "val")
    shown = attnbias("compare", first, other, "--out", tmp_path / "compared", expect=0).out
    said = f"demo/val: {other} was evaluated on other labels than {first}: no difference"
    assert said in shown.splitlines()
    assert "was evaluated on other labels than" in (tmp_path / "compared" / "comparison.md").read_text()
    (line,) = (
        line
        for line in json.loads((tmp_path / "compared" / "comparison.json").read_text())["lines"]
        if line["measure"] == "mAP"
    )
    assert line["changes"] == [None, None]
    assert line["remarks"] == [said]
