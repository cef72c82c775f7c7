"""A backbone starts from what timm or torchvision publishes under its name, and sees images as those weights do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.pretrained import follow_pretrained, pretrained
from attnbias.methods.engine.recipe import override, read_recipe
from attnbias.methods.ida.recipe import IDARecipe
from tests.helpers.command_line import attnbias

NAME = "test_convnext"
RUN = ["--recipe", "demo", "--backbone", NAME, "--image-size", 64, "--steps", 1, "--batch-size", 4, "--lr", 1e-12]
CPU = ["--gpus", 0, "--threads", 1, "--workers", 0]


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "vit_tiny_patch16_224",
        "convnext_tiny.fb_in22k_ft_in1k",
        "convnext_tiny.fb_in22k_ft_in1k_384",  # squeezed, not cropped
    ],
)
def test_images_are_made_as_timm_makes_them_for_these_weights(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    found = pretrained(name)
    assert found is not None
    values = np.random.default_rng(0).integers(0, 256, (300, 431, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    oracle = create_transform(**resolve_data_config(pretrained_cfg=config.to_dict()))
    torch.testing.assert_close(eval_transform(**found.recipe_fields())(image), oracle(image))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])  # bilinear 224 of 232, bicubic 224 of 256
def test_images_are_made_as_torchvision_makes_them_for_these_weights(name: str) -> None:
    found = pretrained(name)
    assert found is not None
    values = np.random.default_rng(0).integers(0, 256, (300, 431, 3), dtype=np.uint8)
    oracle = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    image = Image.fromarray(values)
    torch.testing.assert_close(eval_transform(**found.recipe_fields())(image), oracle(image))


def test_a_file_of_one_s_own_for_a_network_of_the_papers_is_taken_with_the_paper_s_images() -> None:
    def followed(name: str, published: bool) -> IDARecipe:
        recipe = override(IDARecipe(dataset="demo", backbone=name), {"image_size": 64})
        return follow_pretrained(recipe, {}, published=published)[0]

    for name, size in (("resnet50", 224), ("vit_b16", 224), (NAME, 160)):
        assert followed(name, published=True).image_size == size
        assert followed(name, published=False).image_size == (size if name == NAME else 64)


def hub(folder: Path, name: str) -> dict[str, Any]:
    """Random weights of a network where the hub's client keeps those that it fetched."""
    found = pretrained(name)
    assert found is not None
    assert found.source is not None
    organisation, repository, file = found.source.removeprefix("hf://").split("/")
    kept = folder / "hub" / f"models--{organisation}--{repository}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    state: dict[str, Any] = timm.create_model(name).state_dict()
    save_file(state, kept / "snapshots" / ("0" * 40) / file)
    return state


def test_pretrained_weights_come_through_the_hub_with_their_images_and_it_is_said(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, out = hub(tmp_path, NAME), tmp_path / "run"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run = ["--offline", "train", "ida", *RUN, *CPU, "--pretrained", "--data-root", demo_root]
    said = attnbias(*run, "--out", out, expect=0)
    assert "starting weights: hf://timm/test_convnext.r160_in1k/model.safetensors" in said.out
    assert "images as its weights know them: normalize" in said.out
    assert "typed: image_size 64" in said.out
    assert "left out: head.fc, head.norm" in said.out + said.err
    recipe, found = read_recipe(out / "recipe.yaml", IDARecipe, "ida"), pretrained(NAME)
    assert found is not None
    fields = found.recipe_fields() | {"image_size": 64}
    assert {name: getattr(recipe, name) for name in fields} == fields
    assert json.loads((out / "environment.json").read_text())["starting_weights"] == found.source
    trained = load_file(out / "checkpoints" / "step-00000001" / "model.safetensors")
    assert trained["backbone.model.stem.0.weight"].allclose(state["stem.0.weight"], atol=1e-6)


@pytest.mark.parametrize(
    ("method", "typed", "words"),
    [
        ("llb", [], "--pretrained is for methods that take any backbone"),
        ("csra", ["--backbone", "tiny"], "publishes weights of 'tiny'"),
        (
            "csra",
            ["--backbone", f"{NAME}.nobodys"],
            "timm has no weights 'nobodys' of test_convnext; it has: r160_in1k",
        ),
        ("csra", ["--backbone-weights", "a.pth"], "--backbone-weights are two ways to start"),
        ("csra", ["--from-scratch"], "--from-scratch starts at random, and --pretrained does not"),
    ],
)
def test_what_cannot_start_pretrained_says_why(method: str, typed: list[str], words: str, tmp_path: Path) -> None:
    refused = attnbias("train", method, "--recipe", "demo", "--pretrained", *typed, "--out", tmp_path / "run", expect=2)
    assert words in refused.line


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, "vit_small_patch16_dinov3", "mobilenetv4_conv_small_035"])
def test_two_processes_wait_for_no_gradient(name: str, demo_root: Path, tmp_path: Path) -> None:
    for method in ("csra", "ida"):
        run = ["train", method, *RUN, "--backbone", name, "--gpus", 0, "--processes", 2, "--threads", 1]
        attnbias(*run, "--data-root", demo_root, "--out", tmp_path / method, expect=0)
