"""AbSViT over timm's other vision transformers: a first pass that is timm's own, and a second one that is steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from attnbias.data.transforms.basic import ToNormalizedTensor
from attnbias.methods.absvit.model import AbSViT
from attnbias.methods.absvit.recipe import AbSViTRecipe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.pretrained import follow_pretrained
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method

METHOD = get_method("absvit")
CLASSES = 5
SIDE = 4
"""Patches along a side."""
NETWORKS = [
    "test_vit",
    "test_vit3",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "test_vit4",
            "vit_small_patch14_reg4_dinov2",
            "deit3_small_patch16_224",
            "vit_base_patch16_clip_224",
            "vit_base_patch16_siglip_224",
        )
    ),
]
"""Class token; a register and attention pooling; RMSNorm; registers with LayerScale; no class position; a norm before
the blocks; a map-pooled tower."""
REFUSED = {
    "vit_tiny_patch16_dinov3_qkvb": "is Eva, EvaBlock",
    "deit_tiny_distilled_patch16_224": "is VisionTransformerDistilled",
    "vit_base_patch16_rpn_224": "ResPostBlock",
    "resnet50": "is ResNet, and this method runs plain vision transformers",
}


def recipe_of(name: str, **fields: Any) -> AbSViTRecipe:
    side = SIDE * (14 if "patch14" in name else 16)
    return AbSViTRecipe(backbone=name, image_size=side, dataset="demo", drop_path=0.0, **fields)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_pass_is_the_network_s_own_and_every_parameter_learns(name: str) -> None:
    recipe = recipe_of(name)
    torch.manual_seed(0)
    model = METHOD.build_model(recipe, CLASSES, "singlelabel").eval()
    assert isinstance(model, AbSViT)
    stock: Any = timm.create_model(name, img_size=recipe.image_size, num_classes=CLASSES).eval()
    for parameter in stock.parameters():  # what starts at zero, as positions and LayerScale, would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    METHOD.load_backbone(model, recipe, stock.state_dict(), Path("w.safetensors"))
    images = torch.rand(3, 3, recipe.image_size, recipe.image_size)
    with torch.no_grad():
        passes, logits = model(images, passes=True), stock(images)
    torch.testing.assert_close(passes.first, logits)
    assert not torch.equal(passes.second, passes.first)  # little moves under LayerScale
    for kind in METHOD.maps:
        assert METHOD.attention(model, images, torch.tensor([0, 3]), kind=kind).shape == (3, 2, SIDE, SIDE)
    batch = {"image": images, "target": torch.tensor([0, 2, 4])}
    METHOD.loss(model.train(), batch, recipe, "singlelabel")["loss"].backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_a_network_that_cannot_look_twice_is_refused_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        METHOD.build_model(override(recipe_of(name), {"image_size": 224}), CLASSES, "singlelabel")


def test_weights_of_another_image_size_are_resampled_beside_their_prefix_tokens() -> None:
    small, large = (
        METHOD.build_model(override(recipe_of("test_vit2"), {"image_size": size}), CLASSES, "singlelabel")
        for size in (64, 96)
    )
    fitted = METHOD.fit_resolution(small, large.state_dict())
    assert fitted["pos_embed"].shape == small.pos_embed.shape == (1, 1 + SIDE * SIDE, 64)
    assert torch.equal(fitted["pos_embed"][:, :1], large.pos_embed[:, :1])


def test_images_are_made_as_the_weights_know_them_where_the_pipeline_asks() -> None:
    recipe = recipe_of("vit_base_patch16_clip_224.openai")
    followed, said = follow_pretrained(recipe, {}, published=True)
    assert "crop_ratio 0.9" in said
    first, *_, last = METHOD.transform(followed, train=False).transforms
    assert (first.size, first.interpolation.value) == ([248], "bicubic")  # 224 of 248, timm's rounding
    assert isinstance(last, ToNormalizedTensor)
    assert last.mean == timm.get_pretrained_cfg(str(recipe.backbone)).mean
    squeezed, said = follow_pretrained(override(recipe, {"pipeline": "shift"}), {}, published=True)
    assert "normalize clip" in said
    assert "crop_ratio" not in said
    assert squeezed.crop_ratio == recipe.crop_ratio
