"""Groups that nobody named: clusters of each class by the model's features, and their accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attnbias.methods.engine.bias.found_groups import clusters
from tests.helpers.command_line import attnbias


@pytest.mark.parametrize(("sizes", "apart"), [((60, 40), 6.0), ((90, 10), 8.0), ((50, 30, 20), 8.0)])
def test_planted_clusters_are_found_and_numbered_by_size(sizes: tuple[int, ...], apart: float) -> None:
    rng = np.random.default_rng(len(sizes))
    planted = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    middles = apart * rng.normal(size=(len(sizes) + 1, 8)) / np.sqrt(2)
    features = middles[planted] + rng.normal(size=(len(planted), 8))
    found, far = clusters(features, len(sizes))
    assert (found == planted).mean() > 0.97
    for number in range(1, len(sizes) + 1):
        own = features[found == number]
        assert far[found == number] == pytest.approx(np.linalg.norm(own - own.mean(0), axis=1))


def test_few_images_are_one_cluster() -> None:
    assert clusters(np.arange(6.0).reshape(3, 2), 2)[0].tolist() == [1, 1, 1]


def test_val_measures_the_groups_that_it_found(demo_root: Path, tmp_path: Path) -> None:
    run, cpu = tmp_path / "run", ["--gpus", 0, "--threads", 1, "--data-root", demo_root]
    small = ["--recipe", "demo-single", "--steps", 2, "--batch-size", 24, "--image-size", 32]
    attnbias("train", "lsas", *small, *cpu, "--out", run, expect=0)
    asked = ["val", "lsas", "--load-from", run, *cpu, "--split", "unbiased", "--find-groups", 2]
    once, again = (
        json.loads(attnbias(*asked, "--eval-batch-size", size, "--json", "-", expect=0).out)[0] for size in (8, 16)
    )
    found = once["found_groups"]
    assert {name: each["samples"] for name, each in found["groups"].items()} == {
        name: each["samples"] for name, each in again["found_groups"]["groups"].items()
    }
    right = sum(group["samples"] * group["accuracy"] / 100 for group in found["groups"].values())
    images = sum(group["samples"] for group in found["groups"].values())
    assert 100 * right / images == pytest.approx(once["measures"]["top1"])
    assert found["nearest"].keys() == found["groups"].keys()
    assert all(paths and len(paths) <= 5 for paths in found["nearest"].values())
    said = " ".join(attnbias(*asked, expect=0).out.split())
    assert f"2 clusters in each class of the {found['features']} features" in said
    several = ["--recipe", "demo", *small[2:]]
    attnbias("train", "lsas", *several, *cpu, "--out", tmp_path / "several", expect=0)
    refused = attnbias("val", "lsas", "--load-from", tmp_path / "several", *cpu, "--find-groups", 2, expect=2)
    assert "does not give one label an image" in refused.line
