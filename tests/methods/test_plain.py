"""The plain classifier's promises: any network with its own weights and head, and the layer that is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.maps import attention_maps, on_grid
from attnbias.methods.engine.recipe import FRESH, override
from attnbias.methods.plain.layer import find_layer
from attnbias.methods.plain.method import METHOD
from attnbias.methods.plain.recipe import RECIPES
from attnbias.model import load
from tests.engine.test_backbone_families import FAST, SLOW, whole_network
from tests.engine.test_pretrained import hub
from tests.helpers.command_line import attnbias

BY_HAND = {
    "resnet10t": "layer4",
    "convnext_atto": "norm_pre",
    "swin_tiny_patch4_window7_224": "norm",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "vit_small_patch14_reg4_dinov2": "blocks.11.norm1",
    "vit_small_patch16_dinov3": "norm",
}
"""What users of Grad-CAM choose: behind a class token's last attention no patch reaches the answer."""

OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in (*FAST, *SLOW) if name not in BY_HAND]

WIDE = {
    "tf_efficientnet_lite0",
    "efficientvit_m0",
    "mobilenetv4_conv_small_035",
    "mobilevitv2_050",
    "shvit_s1",
    "tiny_vit_5m_224",
    "xception41",
}
"""Convolutions whose every location sees the whole image when their weights are fresh."""


def corner_of(name: str, side: int) -> tuple[Tensor, Tensor, str]:
    """The lower left corner of the grid that is found, the images that it comes from, and the name of the layer."""
    network = whole_network(name, side)
    layer = find_layer(network, side)
    kept: list[Tensor] = []
    layer.module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    images = torch.randn(2, 3, side, side).requires_grad_()
    network(images)
    grid = on_grid(kept[-1], layer, (side, side), tokens=kept[-1].ndim == 3)  # (B, D, h, w)
    assert grid.shape[2] == grid.shape[3] > 1
    assert grid.shape[1] > grid.shape[2]
    return grid[..., -1, 0], images, next(n for n, module in network.named_modules() if module is layer.module)


@pytest.mark.parametrize("name", [*BY_HAND, *OTHERS])
def test_the_layer_that_is_found_lies_as_the_image_does(name: str) -> None:
    """What is at a corner of the grid depends most on that corner of the image."""
    corner, images, layer = corner_of(name, 128)
    assert layer == BY_HAND.get(name, layer)
    (gradient,) = torch.autograd.grad((corner * torch.randn_like(corner)).sum(), images)
    quarters = F.adaptive_avg_pool2d(gradient.square().sum((0, 1))[None], 2)[0]
    assert name in WIDE or quarters.argmax() == 2, quarters


def test_looking_for_the_layer_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = METHOD.build_model(override(RECIPES["demo"].recipe, {"backbone": "resnet18"}), 3, "multilabel").train()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with torch.inference_mode():
        assert METHOD.explained_layer(model).module is model.get_submodule("network.layer4")
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_can_be_named_and_a_wrong_name_is_refused() -> None:
    recipe = override(RECIPES["demo"].recipe, {"backbone": "resnet18", "layer": "layer3"})
    model = METHOD.build_model(recipe, 3, "multilabel").eval()
    images = torch.rand(2, 3, 64, 64)
    assert attention_maps(METHOD, model, images, torch.tensor([0]), "layercam").shape == (2, 1, 4, 4)
    model = METHOD.build_model(override(recipe, {"layer": "layer5"}), 3, "multilabel").eval()
    with pytest.raises(UsageError, match=r"--layer layer5: .*did you mean 'layer4'"):
        attention_maps(METHOD, model, images, torch.tensor([0]), "layercam")


def test_a_class_of_several_of_the_network_s_own_has_the_highest_of_their_logits() -> None:
    model = METHOD.build_model(override(RECIPES["demo"].recipe, {"backbone": "tiny"}), 3, "singlelabel").eval()
    own = torch.tensor([[3.0, -1.0, 2.0], [0.0, 5.0, 1.0]])
    told = model.answering_as([[0, 2], [], [1]]).retold(own)
    assert torch.equal(told[:, [0, 2]], torch.tensor([[3.0, -1.0], [1.0, 5.0]]))
    assert (told.softmax(1)[:, 1] == 0).all()  # of which the network knows nothing
    assert torch.equal(model.retold(own), own)


def test_a_whole_network_of_a_library_answers_as_it_does_there(tmp_path: Path) -> None:
    network = timm.create_model("test_vit.r160_in1k").eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    loaded = load_run("plain", str(tmp_path / "w.pth"), {"backbone": "test_vit.r160_in1k", "image_size": 160})
    assert len(loaded.classes) == 1000
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), network(images))


def test_a_network_is_fetched_by_its_name_and_seen_as_its_publisher_sees_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(tmp_path, "test_vit.r160_in1k")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    words = ["visualize", "plain", "--load-from", "timm:test_vit", tmp_path / "a.png", "--out", tmp_path / "out"]
    said = attnbias("--offline", *words, "--device", "cpu", "--classes", "3", expect=0)
    assert "images as its weights know them: image_size 160, normalize half" in said.out + said.err
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert "Grad-CAM at network." in page
    model = load("timm:test_vit")
    assert (model.method, model.recipe.image_size, len(model.classes)) == ("plain", 160, 1000)
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
    words = ["predict", "--load-from", "timm:test_vitt", tmp_path / "a.png", "--device", "cpu", "--method"]
    assert (
        "timm publishes no weights of 'test_vitt' (did you mean 'test_vit'" in attnbias(*words, "plain", expect=2).line
    )
    assert "no checkpoint timm:test_vitt" in attnbias(*words, "csra", expect=3).line


def test_a_file_of_one_s_own_is_known_by_its_network_s_name(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_convnext", num_classes=3).state_dict(), tmp_path / "own.pth")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    words = ["predict", "--method", "plain", "--load-from", tmp_path / "own.pth", tmp_path / "a.png", "--device", "cpu"]
    assert "own.pth is not a checkpoint of 'plain'" in attnbias(*words, expect=3).line
    known = ["--backbone", "test_convnext", "--image-size", 160, "--csv", tmp_path / "scores.csv"]
    said = attnbias(*words, *known, expect=0)
    assert "assumed: normalize imagenet" in said.out + said.err
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])  # layers before the last one, a convolution
def test_a_head_of_several_layers_tells_its_classes_too(name: str, tmp_path: Path) -> None:
    network = torchvision.models.get_model(name, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    loaded = load_run("plain", str(tmp_path / "w.pth"), {"backbone": name, "image_size": 64})
    assert len(loaded.classes) == 7
    assert loaded.recipe.init == FRESH  # not what the nearest recipe, of another network, starts from
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), network(images))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("timm:", "timm: names no network; expected timm:NAME"),
        ("torchvision:resnet5", "torchvision publishes no weights of 'resnet5' (did you mean 'resnet50'?)"),
        (
            "torchvision:vit_b_16",
            "torchvision:vit_b_16 is not taken: of inception, maxvit and ViT networks only timm's",
        ),
    ],
)
def test_a_name_that_is_not_taken_says_why(source: str, words: str) -> None:
    for command in (["val", "plain", "--load-from"], ["weights", "inspect"]):
        assert words in attnbias(*command, source, expect=2).line
    other = attnbias("val", "csra", "--load-from", source, expect=3).line
    assert f"no checkpoint {source}: it names a network, not a file" in other
    assert "--backbone NAME --pretrained" in other


def test_a_head_starts_fresh_whatever_the_file_s_classes_and_it_is_said(demo_root: Path, tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    state["fc.weight"] += 1
    torch.save(state, tmp_path / "w.pth")
    run = ["train", "plain", "--recipe", "demo", "--backbone", "resnet18", "--backbone-weights", tmp_path / "w.pth"]
    run += ["--image-size", 32, "--batch-size", 2, "--steps", 1, "--lr", 1e-12, "--gpus", 0, "--threads", 1]
    said = attnbias(*run, "--data-root", demo_root, "--out", tmp_path / "run", expect=0)
    assert f"backbone: {tmp_path / 'w.pth'}, 60 tensors; new: network.fc" in said.out.splitlines()
    trained = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors")
    torch.testing.assert_close(trained["network.conv1.weight"], state["conv1.weight"])
    assert trained["network.fc.weight"].abs().max() < 0.5


class Corner(nn.Module):
    """Answers by one corner of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images)[:, :, 0, 0])


def test_where_no_layer_is_found_those_that_can_be_named_are() -> None:
    with pytest.raises(UsageError, match=r"choose one with --layer; the last of those with a grid: first$"):
        find_layer(Corner(), 32)
    network = Corner()
    assert find_layer(network, 32, "first").module is network.first
