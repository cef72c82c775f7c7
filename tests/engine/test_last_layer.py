"""`val --last-layer SPLIT`: a linear layer trained anew on the features, every group alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from attnbias.data.registry import open_split
from attnbias.methods.engine.bias.context import group_measures
from attnbias.methods.engine.bias.last_layer import PENALTIES, balanced, chosen_layer, features_of, retrained
from attnbias.methods.engine.evaluation.groups import groups_of
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from tests.helpers.command_line import attnbias
from tests.helpers.tiny_runs import instead


def test_the_layer_is_sklearns_logistic_regression_of_the_same_weights() -> None:
    rng = np.random.default_rng(0)
    features, targets, weights = rng.normal(size=(120, 4)), rng.integers(0, 3, 120), rng.random(120)
    features[np.arange(120), targets] += 1
    penalty = 1e-2
    layer = retrained(
        *map(torch.from_numpy, (features.astype(np.float32), targets, weights.astype(np.float32))), 3, penalty
    )
    known = LogisticRegression(C=1 / (2 * penalty * weights.sum()), tol=1e-8, max_iter=1000)
    known.fit(features, targets, sample_weight=weights)
    found = layer(torch.from_numpy(features).float()).softmax(1).detach().numpy()
    assert found == pytest.approx(known.predict_proba(features), abs=2e-3)


def test_each_class_of_a_multi_label_set_is_sklearns_without_what_is_unknown() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(-1, 2, (150, 2))
    features = rng.normal(size=(150, 3)) + np.pad(targets, ((0, 0), (0, 1)))
    weights = (targets >= 0).astype(np.float32)
    layer = retrained(torch.from_numpy(features).float(), torch.from_numpy(targets), torch.from_numpy(weights), 2, 1e-3)
    found = layer(torch.from_numpy(features).float()).sigmoid().detach().numpy()
    for label in range(2):
        kept = targets[:, label] >= 0
        # One penalty for both classes, whose losses share one mean.
        known = LogisticRegression(C=1 / (2 * 1e-3 * weights.sum()), tol=1e-8, max_iter=1000)
        known.fit(features[kept], targets[kept, label])
        assert found[:, label] == pytest.approx(known.predict_proba(features)[:, 1], abs=2e-3)


def test_every_group_weighs_alike_and_what_is_unknown_nothing() -> None:
    groups = np.array(["a", "a", "a", "b", ""])
    assert balanced(groups) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 0])
    both = balanced(np.stack([groups, groups[::-1]], axis=1))
    assert both[:, 1] == pytest.approx([0, 1, 1 / 3, 1 / 3, 1 / 3])


def test_a_bias_of_the_head_is_mended_where_the_features_know_better() -> None:
    """A loud shortcut that is right for 95 % and a quiet feature that is always right."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 2000)
    shortcut = np.where(rng.random(2000) < 0.95, targets, 1 - targets)
    attributes = ["land" if place == 0 else "water" for place in shortcut]
    features = np.stack([2 * (2 * shortcut - 1), 2 * targets - 1], 1) + rng.normal(0, (0.3, 0.8), (2000, 2))
    given, truth = torch.from_numpy(features).float(), torch.from_numpy(targets)
    groups = groups_of(targets, attributes, ("bird", "duck"))

    def worst(layer: torch.nn.Linear, rows: torch.Tensor) -> float:
        scores = layer(given[rows]).softmax(1).detach().numpy()
        kept = [attributes[row] for row in rows.tolist()]
        return float(group_measures(targets[rows.numpy()], scores, kept, ("bird", "duck"))["worst_group_accuracy"])

    rows = torch.arange(2000)
    alike = chosen_layer(given, truth, groups, 2, worst)[0]
    plain = retrained(given, truth, torch.ones(2000), 2, 1e-3)
    assert worst(alike, rows) > worst(plain, rows) + 20


def test_the_penalty_is_picked_on_images_the_layer_has_not_seen_and_then_it_learns_from_all() -> None:
    rng = np.random.default_rng(0)
    given, truth = torch.from_numpy(rng.normal(size=(40, 3))).float(), torch.from_numpy(rng.integers(0, 2, 40))
    groups, asked = np.array(["a", "b"] * 20), list[list[int]]()

    def worst(layer: torch.nn.Linear, rows: torch.Tensor) -> float:
        asked.append(rows.tolist())
        return float(len(asked) == 3)  # the third is the best

    layer, penalty = chosen_layer(given, truth, groups, 2, worst)
    assert asked == [list(range(1, 40, 2))] * len(PENALTIES)
    assert penalty == PENALTIES[2]
    expected = retrained(given, truth, torch.from_numpy(balanced(groups)).float(), 2, penalty)
    assert torch.equal(layer.weight, expected.weight)


@pytest.mark.parametrize(("name", "width"), [("csra", 64), ("ida", 64), ("lsas", 64), ("absvit", 128), ("llb", 256)])
def test_features_are_what_the_last_layers_read(name: str, width: int, demo_root: Path) -> None:
    method = get_method(name)
    recipe = override(method.named_recipe("demo").recipe, {"image_size": 32})
    torch.manual_seed(0)
    classes = tuple(f"digit_{digit}" for digit in range(10))
    loaded = Loaded(method, recipe, method.build_model(recipe, 10, "multilabel").eval(), classes, "multilabel", "none")
    dataset = method.open_dataset(recipe, open_split("demo", "val", demo_root))
    (kept, one), (_, other) = (features_of(loaded, dataset, [4, 0, 2], Accelerator(cpu=True), size) for size in (2, 3))
    assert kept == [4, 0, 2]
    assert one.shape == (3, width)
    assert torch.allclose(one, other, atol=1e-5)
    if name == "lsas":  # an average and a linear layer: the features give the logits
        image = dataset[4]["image"][None]
        with torch.no_grad():
            assert torch.allclose(loaded.model.get_submodule("fc")(one[:1]), loaded.model(image), atol=1e-5)


def test_val_measures_the_layer_that_was_trained_anew(demo_root: Path, tmp_path: Path) -> None:
    run, cpu = tmp_path / "run", ["--gpus", 0, "--threads", 1, "--data-root", demo_root]
    small = ["--recipe", "demo-single", "--epochs", 1, "--batch-size", 24, "--image-size", 32]
    attnbias("train", "lsas", *small, *cpu, "--out", run, expect=0)
    asked = ["val", "lsas", "--load-from", run, *cpu, "--last-layer", "val"]
    said = attnbias(*asked, "--split", "unbiased", "--json", tmp_path / "val.json", expect=0).out
    (result,) = json.loads((tmp_path / "val.json").read_text())
    found = result["last_layer"]
    assert "last layer, trained anew on val" in said
    assert f"{found['features']} features of {found['images']} images of val" in said
    assert f"the penalty is {found['penalty']:g}" in said
    assert found["as_trained"]["accuracy"] == pytest.approx(result["measures"]["top1"])
    assert {name: group["samples"] for name, group in found["retrained"]["groups"].items()} == {
        name: group["samples"] for name, group in result["groups"]["groups"].items()
    }
    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    broken = next((root / "demo-single" / "images" / "val").iterdir())
    broken.write_bytes(b"no image")
    left_out = ["--split", "unbiased", "--data-root", root, "--on-bad-image", "skip", "--json", "-"]
    (short,) = json.loads(attnbias(*instead(asked, *left_out), expect=0).out)
    assert (short["last_layer"]["images"], short["last_layer"]["skipped"]) == (found["images"] - 1, 1)
    scored: list[nn.Module] = []
    with register_module_forward_pre_hook(lambda module, _: scored.append(module)):
        assert "measured on what it is trained on" in attnbias(*asked, "--split", "val", expect=2).line
        assert "no split 'nowhere'" in attnbias(*asked[:-1], "nowhere", "--split", "val", expect=3).line
    assert not scored  # before anything is
