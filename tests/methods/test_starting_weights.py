"""Where a recipe starts: a paper's from the weights that the paper starts from, said on the screen and in the run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import resnet18, resnet101

from attnbias.data.fetch import download
from attnbias.methods import METHODS
from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.engine import published
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.recipe import FRESH, OWN
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.resolve import resolve_run
from attnbias.methods.engine.run_folder import MANIFEST, crc32
from attnbias.weights.files import write_weights
from attnbias.weights.manifest import PUBLISHED
from tests.helpers.archive_server import serving
from tests.helpers.command_line import attnbias

SMALL = ["--dataset", "demo", "--image-size", 32, "--batch-size", 2, "--steps", 1, "--gpus", 0, "--threads", 1]
RESNETCUT = ["train", "csra", "--recipe", "coco-resnetcut", *SMALL]


STARTS = [
    (method, name, named.recipe.init)
    for method in METHODS
    for name, named in get_method(method).recipes.items()
    if named.recipe.init != FRESH
]
"""Every recipe of every paper that does not start from fresh weights, and what it starts from."""


def test_every_recipe_starts_from_published_weights_for_its_method_or_asks_for_ones_own() -> None:
    methods = {"csra", "ida", "llb", "plain", "absvit-segmentation", "absvit-vision-language"}
    assert {method for method, _, _ in STARTS} == methods
    for method, name, init in STARTS:
        if init == OWN:
            assert name.startswith(("places-", "inat-")), name
            continue
        published = PUBLISHED[init]
        assert method in (*published.methods, *published.starts), name
        assert published.megabytes, name
    assert not [name for _, name, _ in STARTS if name.startswith(("demo", "mini", "tiny"))]


@pytest.mark.parametrize(("method", "name", "init"), STARTS, ids=lambda value: str(value))
def test_on_a_machine_without_network_and_data_every_recipe_says_what_is_missing(
    method: str, name: str, init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    run = ["train", method, "--recipe", name, "--gpus", 0, "--amp", "no", "--data-root", tmp_path / "data"]
    run += ["--out", tmp_path / "run"]
    refused = attnbias(*run, "--offline", expect=3)
    assert "--from-scratch" in refused.line
    if init == OWN:
        assert "--backbone-weights FILE" in refused.line
    else:
        published = PUBLISHED[init]
        assert str(tmp_path / "cache" / "weights" / init / published.file) in refused.line
        assert f"{published.megabytes:.0f} MB" in refused.line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def kinds_of_starts() -> list[Any]:
    """The same recipes; of those of one task that start from the same, the first in the fast suite."""
    known, kinds = set[tuple[str, str, str]](), []
    for method, name, init in STARTS:
        kind = method, init, getattr(get_method(method).recipes[name].recipe, "task", "")
        kinds.append(pytest.param(method, name, init, marks=[pytest.mark.slow] if kind in known else []))
        known.add(kind)
    return kinds


@pytest.mark.parametrize(("method", "name", "init"), kinds_of_starts(), ids=lambda value: str(value))
def test_a_dry_run_without_network_and_data_says_where_a_recipe_would_start(
    method: str, name: str, init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    run = ["train", method, "--recipe", name, "--gpus", 0, "--amp", "no", "--data-root", tmp_path / "data"]
    dry = attnbias(*run, "--out", tmp_path / "run", "--offline", "--dry-run", expect=0)
    assert "starting weights: " in dry.out
    assert init in dry.out
    assert "is not prepared here" in dry.out
    assert "learning rate" in dry.out or name.startswith("vqa")  # only the files tell how many questions train
    assert not (tmp_path / "cache").exists()


def test_weights_that_cannot_be_had_stop_the_run_and_say_where_to_put_them(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "gdown", None)
    out = tmp_path / "run"
    refused = attnbias(*RESNETCUT, "--data-root", demo_root, "--out", out, expect=3)
    assert "the recipe's starting weights: resnet101-cutmix is behind a form" in refused.line
    assert "(179 MB)" in refused.line
    assert str(tmp_path / "cache" / "weights" / "resnet101-cutmix" / "resnet101_cutmix_pretrained.pth") in refused.line
    assert not out.exists()


def test_a_run_starts_from_the_weights_of_its_recipe_and_keeps_their_name(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "weights" / "resnet101-cutmix"
    folder.mkdir(parents=True)
    published = resnet101().state_dict()
    torch.save(published, folder / "resnet101_cutmix_pretrained.pth")
    out = tmp_path / "run"
    done = attnbias(*RESNETCUT, "--lr", 1e-12, "--data-root", demo_root, "--out", out, expect=0)
    line = "backbone: resnet101-cutmix, 312 tensors, sha256 as at its first use; new: classifier"
    assert line in done.out.splitlines()
    assert "init: resnet101-cutmix" in (out / "recipe.yaml").read_text().splitlines()
    assert json.loads((out / "environment.json").read_text())["starting_weights"] == "resnet101-cutmix"
    trained = load_file(out / "checkpoints" / "step-00000001" / "model.safetensors")
    first = next(value for name, value in trained.items() if value.shape == (64, 3, 7, 7))
    assert first.allclose(published["conv1.weight"], atol=1e-6)


def test_a_recipe_fetches_its_weights_verifies_and_keeps_them(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server with the layout of torchvision's, which breaks off once: resumed, verified, asked once."""
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:8]
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("method: csra\ninit: resnet18-v1\nbackbone: resnet18\nimage_size: 32\n")
    train = ["train", "csra", "--recipe", recipe, *SMALL, "--data-root", demo_root]
    with serving() as server:
        file = f"resnet18-{digest}.pth"
        server.files[f"models/{file}"] = content
        server.break_after = [10_000_000, None]
        url = f"{server.url}models/{file}"
        known = replace(PUBLISHED["resnet18-v1"], url=url, file=file, digest=digest)
        monkeypatch.setattr(published, "PUBLISHED", {"resnet18-v1": known})
        dry = attnbias(*train, "--dry-run", expect=0)
        assert f"starting weights: resnet18-v1 (47 MB, to be fetched from {url} to {tmp_path / 'cache'}" in dry.out
        assert not server.requests
        done = attnbias(*train, "--out", tmp_path / "run", expect=0)
        assert "backbone: resnet18-v1, 60 tensors, sha256 ok; new: classifier" in done.out.splitlines()
        assert [asked for _, asked in server.requests] == [None, "bytes=10000000-"]
        attnbias(*train, "--offline", "--out", tmp_path / "again", expect=0)
        assert len(server.requests) == 2
    place = tmp_path / "cache" / "weights" / "resnet18-v1" / file
    assert f"starting weights: resnet18-v1 (47 MB, in {place})" in attnbias(*train, "--dry-run", expect=0).out
    place.write_bytes(content[:-1] + b"!")
    published._verified.clear()  # as in a new process
    damaged = attnbias(*train, "--out", tmp_path / "third", expect=3)
    assert f"expected sha256:{digest} (published)" in damaged.err.splitlines()[-1]  # behind "verifying ...", if slow
    assert not (tmp_path / "third").exists()


def test_a_run_of_before_without_the_field_is_read_and_resumed(demo_root: Path, tmp_path: Path) -> None:
    """Recipes of earlier versions say nothing of where they start; what begins a run is behind it when it goes on."""
    out = tmp_path / "run"
    run = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", *SMALL, "--data-root", demo_root, "--out", out]
    attnbias(*run, expect=0)
    for path in (out / "checkpoints").glob("*/model.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["attnbias"])
        del metadata["recipe"]["init"]
        write_weights(path, load_file(path), {"attnbias": json.dumps(metadata)})
        written = json.loads((path.parent / MANIFEST).read_text())
        written["files"][path.name] = {"bytes": path.stat().st_size, "crc32": crc32(path)}
        (path.parent / MANIFEST).write_text(json.dumps(written))
    attnbias("val", "csra", "--load-from", out, "--data-root", demo_root, "--gpus", 0, expect=0)
    attnbias(*run, "--resume", "auto", "--init", "resnet18-v1", "--offline", expect=0)
    assert "init: none" in (out / "recipe.yaml").read_text().splitlines()
    assert json.loads((out / "environment.json").read_text())["starting_weights"] == "random"


def test_two_ways_to_start_are_refused(tmp_path: Path) -> None:
    for other in ("--from-scratch", "--pretrained", "--load-from x", "--backbone-weights x"):
        said = attnbias("train", "csra", "--init", "resnet18-v1", *other.split(), "--out", tmp_path / "run", expect=2)
        assert f"--init and {other.split()[0]} are two ways to start" in said.line


def test_another_network_than_the_recipes_begins_at_random_and_says_why(demo_root: Path, tmp_path: Path) -> None:
    tiny = [*RESNETCUT, "--backbone", "tiny", "--data-root", demo_root, "--out", tmp_path / "run"]
    done = attnbias(*tiny, expect=0)
    assert "starting weights: random (the recipe's resnet101-cutmix are of backbone resnet101" in done.out
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["starting_weights"] == "random"
    for flag in ("--backbone-weights", "--load-from"):
        both = attnbias(*tiny, "--from-scratch", flag, "resnet101-v1", expect=2)
        assert flag in both.line


def test_a_network_by_name_in_place_of_the_papers_begins_at_random_and_says_how_it_would_not() -> None:
    run = resolve_run(get_method("llb"), "imagenet-augreg-base", {"backbone": "vit_small_patch14_reg4_dinov2"}, {})
    assert run.request.recipe.init == FRESH
    assert run.resolved.why_fresh == (
        " (the recipe's vit_base_patch16_224.augreg_in21k_ft_in1k are of another network; --pretrained gives "
        "vit_small_patch14_reg4_dinov2 its own)"
    )


def test_the_demo_starts_at_random_and_says_so(demo_root: Path, tmp_path: Path) -> None:
    done = attnbias("train", "csra", "--recipe", "demo", "--data-root", demo_root, "--dry-run", expect=0)
    assert "starting weights: random" in done.out


def test_a_head_of_other_classes_is_not_taken_silently(demo_root: Path, tmp_path: Path) -> None:
    start = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", *SMALL]
    attnbias(*start, "--data-root", demo_root, "--out", tmp_path / "first", expect=0)
    start += ["--load-from", tmp_path / "first"]
    same = attnbias(*start, "--data-root", demo_root, "--out", tmp_path / "a", expect=0)
    assert "other classes" not in same.out + same.err
    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    for path in (root / "demo" / "index").iterdir():
        content = json.loads(path.read_text())
        content["classes"].reverse()
        path.write_text(json.dumps(content))
    other = attnbias(*start, "--data-root", root, "--out", tmp_path / "b", expect=0)
    said = other.out + other.err
    assert "was trained on other classes: class 0 was 'digit_0' and is 'digit_9'" in said
    assert "the same names in another order" in said


def test_weights_are_only_written_where_they_can_be_read_again(demo_root: Path, tmp_path: Path) -> None:
    """Names that are not UTF-8: safetensors writes there, and opens nothing of it."""
    start = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", *SMALL, "--data-root", demo_root]
    strange, run = tmp_path / "run\udcff", tmp_path / "run"
    assert "need names in UTF-8" in attnbias(*start, "--out", strange, expect=3).line
    assert not strange.exists()
    attnbias(*start, "--out", run, expect=0)
    for command in (
        ["weights", "convert", run, "--to", tmp_path / "w\udcff.safetensors"],
        ["export", "csra", "--load-from", run, "--format", "torch-export", "--out", tmp_path / "w\udcff.pt2"],
    ):
        assert "need names in UTF-8" in attnbias(*command, expect=3).line
    run.rename(strange)
    assert "rename it" in attnbias("val", "csra", "--load-from", strange, "--data-root", demo_root, expect=3).line


@pytest.mark.parametrize(("heads", "code"), [(4, 3), (2, 0)])
def test_a_backbone_with_other_heads_is_refused_although_its_shapes_agree(
    heads: int, code: int, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = get_method("absvit")
    monkeypatch.setitem(ARCHITECTURES["mini_patch8_token"], "num_heads", heads)
    fields = {"architecture": "mini_patch8_token", "top_down": False, "image_size": 32, "dataset": "demo"}
    recipe = method.recipe_type.model_validate(fields)
    classes = tuple(map(str, range(10)))
    state = method.build_model(recipe, len(classes), "multilabel").state_dict()
    write_weights(tmp_path / "vit.safetensors", state, weights_metadata(method, recipe, classes, "multilabel"))
    run = ["train", "llb", "--recipe", "demo", *SMALL, "--data-root", demo_root, "--out", tmp_path / "run"]
    said = attnbias(*run, "--backbone-weights", tmp_path / "vit.safetensors", expect=code)
    if code == 0:
        assert "backbone: " in said.out
        assert "; new: branch\n" in said.out
    else:
        assert "is of a network with 4 attention heads, and the recipe's has 2" in said.line
