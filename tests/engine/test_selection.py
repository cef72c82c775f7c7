"""Which weights a person gets: what `best` is, what loads where nothing is typed, and what `--weights` loads.

The built-in set is turned round so that the answers are known beforehand: on `val` every label is the opposite of the
training labels, so the more a model learns, the worse it does there, and its slow moving average does better; `counter`
holds the training labels, so the newest raw weights do best there.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from attnbias.data.index import Index
from attnbias.data.prepared import index_path
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.load import Loaded, load_run
from tests.helpers.command_line import attnbias

RUN = ["--recipe", "demo", "--image-size", 32, "--batch-size", 12, "--epochs", 4, "--ema-decay", 0.97]
HOW = ["--gpus", 0, "--threads", 1, "--keep", 1, "--eval-batch-size", 72]
LAST = 24


def all_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def logged(run: Path, split: str) -> dict[tuple[int, str], float]:
    """(step, raw or ema) -> mAP of a split, in the order of the evaluations."""
    return {(line["step"], line["weights"]): line["mAP"] for line in all_lines(run) if line["split"] == split}


def steps(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def turned(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose `val` contradicts the training labels, whose `counter` repeats them, and whose `unbiased` has
    every label in every image."""
    root = tmp_path_factory.mktemp("turned")
    folder = dataset_folder("demo", root)
    shutil.copytree(dataset_folder("demo", demo_root), folder)
    train = Index.read(index_path(folder, "train"))
    rules = {"val": lambda label: 1 - label, "counter": lambda label: label, "unbiased": lambda label: 1}
    for split, rule in rules.items():
        records = tuple(r._replace(target=tuple(map(rule, r.target))) for r in train.records)
        replace(train, split=split, records=records).write(index_path(folder, split))
    return root


def train(turned: Path, out: Path, splits: str) -> Path:
    attnbias("train", "csra", *RUN, *HOW, "--data-root", turned, "--out", out, "--eval-splits", splits, expect=0)
    return out


@pytest.fixture(scope="module")
def early(turned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best weights are the averaged ones of its first evaluation, with one checkpoint kept beside them."""
    return train(turned, tmp_path_factory.mktemp("early") / "run", "val,counter")


def test_the_first_split_decides_and_the_best_checkpoint_is_never_pruned(early: Path) -> None:
    on_val, on_counter = logged(early, "val"), logged(early, "counter")
    assert max(on_val, key=lambda key: on_val[key]) == (6, "ema")
    assert max(on_counter, key=lambda key: on_counter[key])[0] > 6
    assert steps(early) == [6, LAST]


def test_another_first_split_picks_another_checkpoint(turned: Path, tmp_path: Path) -> None:
    run = train(turned, tmp_path / "run", "counter,val")
    on_counter = logged(run, "counter")
    best = max(on_counter, key=lambda key: on_counter[key])
    assert best[0] > 6
    assert steps(run) == sorted({best[0], LAST})
    measured = val(run, turned)
    assert measured["weights"].count(f"step {best[0]}, {'averaged' if best[1] == 'ema' else 'raw'} weights") == 1


def test_of_equal_values_the_first_is_best(turned: Path, tmp_path: Path) -> None:
    run = train(turned, tmp_path / "run", "unbiased")
    assert set(logged(run, "unbiased").values()) == {100.0}
    assert "step 6, raw weights" in val(run, turned)["weights"]


def val(run: Path, root: Path, *more: Any, split: str = "val") -> dict[str, Any]:
    """What `val --json` says of a run on one split."""
    printed = attnbias(
        "val", "csra", "--load-from", run, "--split", split, "--data-root", root, "--gpus", 0, "--json", "-", *more
    )
    assert printed.code == 0, printed.err
    (result,) = json.loads(printed.out)
    return result


CHOICES = [((), 6, "ema"), (("--weights", "raw"), 6, "raw"), (("--weights", "ema"), 6, "ema")]


@pytest.mark.parametrize(("typed", "step", "kind"), CHOICES)
def test_val_measures_the_weights_that_were_asked_for(
    typed: tuple[str, ...], step: int, kind: str, early: Path, turned: Path
) -> None:
    measured = val(early, turned, *typed)["measures"]["mAP"]
    assert measured == pytest.approx(logged(early, "val")[step, kind], abs=1e-9)


def test_a_checkpoint_folder_is_measured_as_itself(early: Path, turned: Path) -> None:
    newest = early / "checkpoints" / f"step-{LAST:08d}"
    for typed, kind in (((), "raw"), (("--weights", "raw"), "raw"), (("--weights", "ema"), "ema")):
        measured = val(newest, turned, *typed)["measures"]["mAP"]
        assert measured == pytest.approx(logged(early, "val")[LAST, kind], abs=1e-9)


def weights_by_hand(run: Path, kind: str) -> Loaded:
    """The model with the weights of one file of the best checkpoint, read without the program's own choice."""
    loaded = load_run("csra", str(run), {})
    name = {"raw": "model", "ema": "ema"}[kind]
    loaded.model.load_state_dict(load_file(run / "checkpoints" / "step-00000006" / f"{name}.safetensors"))
    return loaded


@pytest.mark.parametrize("kind", ["ema", "raw"])
def test_training_starts_from_the_best_weights_of_another_run(
    kind: str, early: Path, turned: Path, tmp_path: Path
) -> None:
    """A run folder gives those that were best; a weight file gives itself."""
    best = early / "checkpoints" / "step-00000006" / f"{'model' if kind == 'raw' else kind}.safetensors"
    once = ["--recipe", "demo", "--image-size", 32, "--batch-size", 12, "--steps", 1, "--lr", 1e-12]
    start = ["--load-from", early if kind == "ema" else best, "--data-root", turned, "--out", tmp_path / "run"]
    attnbias("train", "csra", *once, "--gpus", 0, "--threads", 1, *start, expect=0)
    expected = load_file(best)
    found = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors")
    learned = [name for name, value in expected.items() if "running" not in name and value.is_floating_point()]
    assert all(found[name].allclose(expected[name], atol=1e-7) for name in learned)


def as_batch(loaded: Loaded, images: list[Path]) -> torch.Tensor:
    transform = loaded.method.transform(loaded.recipe, False)
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in images])


@pytest.fixture(scope="module")
def images(turned: Path) -> list[Path]:
    index = Index.read(index_path(dataset_folder("demo", turned), "train"))
    return [index.root / record.path for record in index.records[:3]]


@pytest.mark.parametrize(("typed", "step", "kind"), CHOICES)
def test_predict_scores_with_the_weights_that_were_asked_for(
    typed: tuple[str, ...], step: int, kind: str, early: Path, images: list[Path], tmp_path: Path
) -> None:
    table = tmp_path / "scores.csv"
    attnbias("predict", "--load-from", early, *images, "--csv", table, "--gpus", 0, *typed, expect=0)
    rows = list(csv.reader(table.read_text().splitlines()))[1:]
    found = torch.tensor([[float(score) for score in row[1:]] for row in rows])
    loaded = weights_by_hand(early, kind)
    with torch.inference_mode():
        expected = loaded.model(as_batch(loaded, images)).sigmoid()
    assert found.allclose(expected, atol=2e-6)


@pytest.mark.parametrize(("typed", "step", "kind"), CHOICES)
def test_visualize_and_export_take_the_weights_that_were_asked_for(
    typed: tuple[str, ...], step: int, kind: str, early: Path, turned: Path, images: list[Path], tmp_path: Path
) -> None:
    loaded = weights_by_hand(early, kind)
    batch = as_batch(loaded, images)
    seen = tmp_path / "seen"
    arguments = [images[0], "--out", seen, "--npz", "--classes", "0,1", "--device", "cpu", *typed]
    attnbias("visualize", "csra", "--load-from", early, *arguments, expect=0)
    drawn = torch.from_numpy(np.load(seen / "maps.npz")["maps_0"])
    with torch.inference_mode():
        maps = loaded.method.attention(loaded.model, batch[:1], torch.tensor([0, 1]))[0]
    assert drawn.allclose(maps, atol=1e-6)

    file = tmp_path / "model.pt2"
    arguments = ["--format", "torch-export", "--out", file, "--data-root", turned, *typed]
    attnbias("export", "csra", "--load-from", early, *arguments, expect=0)
    scores = torch.export.load(file).module()(batch)[0]
    with torch.inference_mode():
        expected = loaded.model(batch).sigmoid()
    assert scores.allclose(expected, atol=1e-5)
