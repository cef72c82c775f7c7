"""Where a recipe starts: a paper's from the weights that the paper starts from, said on the screen and in the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet101

from attnbias.methods import METHODS
from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from attnbias.weights.manifest import PUBLISHED
from tests.helpers.command_line import attnbias

SMALL = ["--dataset", "demo", "--image-size", 32, "--batch-size", 2, "--steps", 1, "--gpus", 0, "--threads", 1]
RESNETCUT = ["train", "csra", "--recipe", "coco-resnetcut", *SMALL]


def test_every_recipe_starts_from_published_weights_of_its_method() -> None:
    starts = {(m, name, named.init) for m in METHODS for name, named in get_method(m).recipes.items() if named.init}
    assert {method for method, _, _ in starts} == {"csra", "ida", "llb"}
    for method, name, init in starts:
        assert init in PUBLISHED, name
        assert method in PUBLISHED[init].methods, name
        assert PUBLISHED[init].option == "--backbone-weights", name


def test_weights_that_cannot_be_had_stop_the_run_and_say_where_to_put_them(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    refused = attnbias(*RESNETCUT, "--data-root", demo_root, "--out", out, expect=3)
    assert "starting weights: resnet101-cutmix" in refused.out
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
    attnbias(*RESNETCUT, "--lr", 1e-12, "--data-root", demo_root, "--out", out, expect=0)
    assert json.loads((out / "environment.json").read_text())["starting_weights"] == "resnet101-cutmix"
    trained = load_file(out / "checkpoints" / "step-00000001" / "model.safetensors")
    first = next(value for name, value in trained.items() if value.shape == (64, 3, 7, 7))
    assert first.allclose(published["conv1.weight"], atol=1e-6)


def test_another_network_than_the_recipes_begins_at_random_and_says_why(demo_root: Path, tmp_path: Path) -> None:
    tiny = [*RESNETCUT, "--backbone", "tiny", "--data-root", demo_root, "--out", tmp_path / "run"]
    done = attnbias(*tiny, expect=0)
    assert "starting weights: random (the recipe's resnet101-cutmix are of backbone resnet101" in done.out
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["starting_weights"] == "random"
    for flag in ("--backbone-weights", "--load-from"):
        both = attnbias(*tiny, "--from-scratch", flag, "resnet101-v1", expect=2)
        assert flag in both.line


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
    assert code == 0 or "is of a network with 4 attention heads, and the recipe's has 2" in said.line
