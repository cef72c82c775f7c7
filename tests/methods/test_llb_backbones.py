"""LLB over timm's other vision transformers: whatever stands before the patches, and however positions are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from attnbias.data.transforms.basic import ToNormalizedTensor
from attnbias.methods.engine.description import AT_LAYER
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.pretrained import follow_pretrained
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.llb.model import LLB
from attnbias.methods.llb.recipe import LLBRecipe
from attnbias.weights.errors import WeightsError

METHOD = get_method("llb")
CLASSES = 5
SIDE = 4
"""Patches along a side."""
FAST = ["test_vit", "test_vit2", "test_vit3", "vit_tiny_patch16_dinov3_qkvb"]
"""One class token; a register without one, averaged; the same pooled by attention; both, with rotary positions."""
SLOW = [
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",
    "vit_xsmall_patch16_clip_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_ape_224",
    "vit_small_patch16_rope_mixed_224",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_pe_core_tiny_patch16_384",
    "vit_wee_patch16_reg1_gap_256",
    "vit_base_mci_224",
    "vit_base_patch16_rpn_224",
]
REFUSED = {
    "resnet50": "is ResNet, and this method runs plain vision transformers",
    "swin_tiny_patch4_window7_224": "is SwinTransformer, and",
    "vit_small_patch16_18x2_224": "blocks of its own kind",
    "vit_small_patch14_dinov3": "unknown backbone.*did you mean",
    "vit_small_patch14_dinov2.nobodys": "timm has no weights 'nobodys' of vit_small_patch14_dinov2; it has: lvd142m",
}


def recipe_of(name: str, **fields: Any) -> LLBRecipe:
    patch = timm.get_pretrained_cfg(name)
    side = SIDE * (14 if "patch14" in patch.architecture else 16)
    return LLBRecipe(backbone=name, image_size=side, objects=6, num_nv_layers=2, dataset="demo", **fields)


def build(recipe: LLBRecipe) -> LLB:
    torch.manual_seed(0)
    model = METHOD.build_model(recipe, CLASSES, "singlelabel")
    assert isinstance(model, LLB)
    return model.eval()


def stock(recipe: LLBRecipe, num_classes: int = CLASSES) -> Any:
    torch.manual_seed(1)
    network = timm.create_model(str(recipe.backbone), img_size=recipe.image_size, num_classes=num_classes)
    for parameter in network.parameters():  # what starts at zero, as positions and LayerScale, would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    return network.eval()


def images_of(recipe: LLBRecipe) -> Tensor:
    return torch.rand(3, 3, recipe.image_size, recipe.image_size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_network_s_own_weights_predict_as_in_timm_and_stay_frozen_under_the_branch(name: str) -> None:
    recipe = recipe_of(name, alpha=1.0)
    model, network, images = build(recipe), stock(recipe), images_of(recipe)
    METHOD.load_backbone(model, recipe, network.state_dict(), Path("w.safetensors"))
    with torch.no_grad():
        found, logits = METHOD.predict(model, images, "singlelabel"), network(images)
    torch.testing.assert_close(found["scores"], logits.softmax(-1))
    assert not torch.equal(found["branch"][0], found["branch"][1])  # the branch sees the image
    for kind in (*METHOD.maps, *AT_LAYER, "rollout"):
        maps = attention_maps(METHOD, model, images, torch.tensor([0, 3]), kind)
        assert maps.shape == (3, 2, SIDE, SIDE)
        assert (maps >= 0).all()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss = METHOD.loss(model.train(), {"image": images, "target": torch.tensor([0, 2, 4])}, recipe, "singlelabel")
    loss["loss"].backward()
    trainable = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(key.startswith("branch.") and p.grad is not None for key, p in trainable.items())
    torch.optim.SGD(trainable.values(), lr=0.1).step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(key.startswith("branch.") for key in moved)  # running statistics too


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_a_network_that_it_cannot_run_is_refused_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(LLBRecipe(backbone=name, image_size=224, objects=6, num_nv_layers=2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": 60}, "image_size is 60, not a multiple of the patch size of test_vit, 16"),
        ({"target_layer": 7}, "target_layer is 7, but test_vit has 6 blocks"),
    ],
)
def test_a_recipe_that_does_not_suit_the_network_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(override(recipe_of("test_vit"), fields))


def test_registers_are_in_no_map_and_no_object() -> None:
    """A change of a corner of the image moves that corner of the map most."""
    recipe = recipe_of("vit_tiny_patch16_dinov3_qkvb", target_layer=1)
    model, images = build(recipe), images_of(recipe)[:1]
    changed = images.clone()
    changed[..., -16:, -16:] += 3
    with torch.no_grad():
        before, after = (model.branch.assign(model.tokens(each, 1)).shares for each in (images, changed))
    assert before.shape == (1, SIDE * SIDE, 6)
    assert int((after - before).abs().sum(-1).argmax()) == SIDE * SIDE - 1


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", FAST)
def test_weights_without_a_classifier_train_one(name: str, freeze: bool, caplog: pytest.LogCaptureFixture) -> None:
    headless = stock(recipe_of(name), num_classes=0).state_dict()
    frozen = recipe_of(name)
    with pytest.raises(WeightsError, match=r"backbone\.head\.bias is missing.*--visual-weight 1"):
        METHOD.load_backbone(build(frozen), frozen, headless, Path("w.safetensors"))
    recipe = override(frozen, {"visual_weight": 1.0, "freeze": freeze})
    model = build(recipe)
    METHOD.load_backbone(model, recipe, headless, Path("w.safetensors"))
    assert "its classifier is new" in caplog.text
    batch = {"image": images_of(recipe), "target": torch.tensor([0, 2, 4])}
    METHOD.loss(model.train(), batch, recipe, "singlelabel")["loss"].backward()
    reached = {key.removeprefix("backbone.") for key, p in model.named_parameters() if p.grad is not None}
    assert reached == {key.removeprefix("backbone.") for key, p in model.named_parameters() if p.requires_grad}
    of_backbone = {key for key in reached if not key.startswith("branch.")}
    assert of_backbone == (
        {"head.weight", "head.bias"} if freeze else {k for k, _ in model.backbone.named_parameters()}
    )


def test_weights_of_another_image_size_are_resampled_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of("test_vit2")
    larger = stock(override(recipe, {"image_size": 96}))
    METHOD.load_backbone(build(recipe), recipe, larger.state_dict(), Path("w.safetensors"))
    assert "resampled: backbone.pos_embed" in caplog.text
    model = build(override(recipe, {"image_size": 96}))
    fitted = METHOD.fit_resolution(build(recipe), model.state_dict())
    build(recipe).load_state_dict(fitted)


def test_images_are_made_as_the_weights_know_them() -> None:
    recipe, said = follow_pretrained(recipe_of("vit_base_patch16_clip_224.openai"), {"alpha": 1.0}, published=True)
    assert "normalize clip" in said
    for train in (False, True):
        steps = METHOD.transform(recipe, train).transforms
        assert (steps[0].size, steps[0].interpolation.value) == ([248], "bicubic")  # 224 of 248, timm's rounding
        last = steps[-1]
        assert isinstance(last, ToNormalizedTensor)
        assert last.mean == timm.get_pretrained_cfg(str(recipe.backbone)).mean
