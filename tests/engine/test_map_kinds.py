"""LeGrad, attention rollout and RISE: their formulas, what they see, and the networks that they are refused for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import attention_maps, attention_weights
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.rise import CELLS, masks, rise
from attnbias.methods.engine.transformer_maps import legrad, rollout
from attnbias.methods.engine.vision_transformers import steps
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import DIGITS, write_model

CLASS_TOKEN, POOLED = "test_vit", "test_vit3"
"""With a class token; with a register and the mean of the patches."""

SIDE = 64


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = timm.create_model(name, img_size=SIDE, num_classes=5).eval()
    for parameter in built.parameters():  # heads and scales that start at nearly nothing would leave nothing to see
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1)
    return built


def tokens_of(vit: nn.Module, images: Tensor) -> list[Tensor]:
    """Tokens before each block, and behind the last."""
    kept: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _m, given: kept.append(given[0])) for block in vit.blocks]
    handles.append(vit.blocks[-1].register_forward_hook(lambda _m, _i, output: kept.append(output)))
    with torch.no_grad():
        vit(images)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("name", [CLASS_TOKEN, POOLED])
def test_rollout_multiplies_the_weights_of_all_blocks(name: str) -> None:
    vit, images = network(name), torch.randn(2, 3, SIDE, SIDE)
    before = tokens_of(vit, images)
    flow = np.broadcast_to(np.eye(before[0].shape[1]), (2, *[before[0].shape[1]] * 2))
    for step, tokens in zip(steps(vit), before, strict=False):
        with torch.no_grad():
            weights = attention_weights(step, tokens).double().mean(1).numpy()
        mixed = weights + np.eye(weights.shape[-1])
        flow = mixed / mixed.sum(-1, keepdims=True) @ flow
    first = vit.num_prefix_tokens
    expected = flow[:, 0, first:] if vit.cls_token is not None else flow[:, first:, first:].mean(1)
    np.testing.assert_allclose(rollout(vit, images), expected, rtol=1e-4)


def test_legrad_is_what_small_changes_of_the_weights_do_to_the_head() -> None:
    """Each block by its own formula, written out; derivatives by differences, in double precision."""
    vit, images = network(CLASS_TOKEN).double(), torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    before, total = tokens_of(vit, images), 0.0
    for block, tokens in zip(vit.blocks, before, strict=False):
        with torch.no_grad():
            weights = attention_weights(block, tokens).double()
        total = total + differences(vit, block, tokens, weights).clamp_min(0).mean((1, 2))
    expected = (total / len(vit.blocks))[:, None, vit.num_prefix_tokens :]
    np.testing.assert_allclose(legrad(vit, images, torch.tensor([3])), expected, atol=1e-6, rtol=1e-3)


@torch.no_grad()
def differences(vit: nn.Module, block: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Of class 3 by each weight (1, heads, S, S)."""
    attention = block.attn
    _, heads, count, _ = weights.shape
    values = attention.qkv(block.norm1(tokens)).reshape(1, count, 3, heads, -1).permute(2, 0, 3, 1, 4)[2]

    def said(changed: Tensor) -> float:
        mixed = (changed @ values).transpose(1, 2).reshape(1, count, -1)
        out = tokens + block.ls1(attention.proj(attention.norm(mixed)))
        out = out + block.ls2(block.mlp(block.norm2(out)))
        return float(vit.head(vit.norm(out.mean(1)))[0, 3])

    found, step = torch.zeros_like(weights), 1e-4
    for place in np.ndindex(*weights.shape):
        up, down = weights.clone(), weights.clone()
        up[place] += step
        down[place] -= step
        found[place] = (said(up) - said(down)) / (2 * step)
    return found


@pytest.mark.parametrize("kind", ["legrad", "rollout"])
def test_a_map_of_a_transformer_is_of_each_class_and_sample_alone_and_leaves_the_model_as_it_was(kind: str) -> None:
    method, model = plain("test_vit")
    images = torch.randn(2, 3, SIDE, SIDE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        every = attention_maps(method, model, images, torch.arange(10), kind)
        some = attention_maps(method, model, images[1:], torch.tensor([[4, 1]]), kind)
        assert torch.isfinite(model(images)).all()
    assert every.shape == (2, 10, 4, 4)
    torch.testing.assert_close(some, every[1:, [4, 1]], rtol=1e-3, atol=1e-6)
    assert (every[0, 0] != every[0, 1]).any() == (kind == "legrad")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(block.attn.fused_attn for block in model.network.blocks)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def plain(backbone: str) -> tuple[AnyMethod, nn.Module]:
    method = get_method("plain")
    recipe = override(method.named_recipe("demo").recipe, {"backbone": backbone, "image_size": SIDE})
    torch.manual_seed(0)
    return method, method.build_model(recipe, 10, "multilabel").eval()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("resnet18", "legrad", "--map legrad needs one plain vision transformer"),
        ("resnet18", "rollout", "use gradcam, or rise"),
        ("vit_base_patch16_siglip_224", "legrad", "pools by attention"),
    ],
)
def test_a_kind_that_does_not_fit_the_network_is_refused_in_a_line(name: str, kind: str, words: str) -> None:
    with torch.device("meta" if "siglip" in name else "cpu"):
        method, model = plain(name)
    with pytest.raises(UsageError, match=words):
        attention_maps(method, model, torch.zeros(1, 3, SIDE, SIDE), torch.tensor([0]), kind)


def test_a_model_that_sends_an_image_through_its_blocks_twice_is_refused() -> None:
    vit = network(CLASS_TOKEN)
    with pytest.raises(UsageError, match="runs its blocks 12 times for 6 blocks"):
        rollout(Twice(vit), torch.randn(1, 3, SIDE, SIDE))


class Twice(nn.Module):
    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        again: Tensor = self.vit(images + self.vit(images).mean())
        return again


class Window(nn.Module):
    """The logit of class k is the mean brightness of quarter k."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.mean(1), 2).flatten(1)


def test_rise_is_the_mean_score_while_a_pixel_is_shown_and_finds_what_a_class_needs() -> None:
    images = torch.rand(2, 3, 36, 28, generator=torch.Generator().manual_seed(0)) + 0.5
    classes = torch.tensor([[0, 3], [1, 2]])
    found = rise(Window(), images, classes, 400)
    assert found.shape == (2, 2, 36, 28)
    planes = torch.cat(list(masks(400, 36, 28))).double().numpy()
    shown = images[0] * torch.from_numpy(planes).float()[:, None]
    scores = Window()(shown)[:, 3].double().numpy()
    expected = np.tensordot(scores, planes, 1) / planes.sum(0)
    np.testing.assert_allclose(found[0, 1], expected - expected.min(), atol=1e-5)
    quarters = F.adaptive_avg_pool2d(found, 2).flatten(2)
    assert torch.equal(quarters.argmax(-1), classes)
    alone = rise(Window(), images[1:], torch.tensor([2]), 400)
    torch.testing.assert_close(alone[0, 0], found[1, 1])


def test_masks_are_the_same_every_time_and_show_half() -> None:
    first, again = (torch.cat(list(masks(120, 30, 50))) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (120, 30, 50)
    assert first.min() >= 0
    assert first.max() < 1 + 1e-5
    assert first.mean().item() == pytest.approx(0.5, abs=0.03)
    assert first.mean(0).std() < 0.1  # no place is favoured
    assert CELLS == 7


def test_a_kind_that_does_not_fit_is_refused_before_any_image_is_scored(demo_root: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors", "csra", DIGITS)
    words = ["val", "csra", "--load-from", model, "--data-root", demo_root, "--gpus", 0, "--bias", "--map", "rollout"]
    said = attnbias(*words, expect=2)
    assert "--map rollout needs one plain vision transformer" in said.line
    assert "images" not in said.out
