"""A network that a file fills is built without drawing its weights: its names, shapes and buffers are as ever."""

from __future__ import annotations

import timm
import torch
from torch import nn

from attnbias.methods.engine.backbones import build_backbone
from attnbias.methods.engine.outline import names_and_shapes, undrawn


def swin() -> nn.Module:
    """A small one: its buffers are tables that it computes, its weights truncated normal numbers and zeros."""
    network: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, depths=(2, 1))
    return network


def test_what_a_file_fills_is_not_drawn_and_buffers_are_computed() -> None:
    whole = swin()
    before = torch.get_rng_state()
    with undrawn():
        filled = swin()
    assert torch.equal(torch.get_rng_state(), before)
    buffers = dict(filled.named_buffers())
    assert "layers.0.blocks.1.attn_mask" in buffers
    assert all(torch.equal(buffers[name], value) for name, value in whole.named_buffers())
    filled.load_state_dict(whole.state_dict())
    images = torch.rand(1, 3, 56, 56)
    assert torch.equal(filled.eval()(images), whole.eval()(images))
    swin()
    assert not torch.equal(torch.get_rng_state(), before)  # outside of the block, numbers are drawn


def test_an_outline_has_names_and_shapes_alone() -> None:
    before = torch.get_rng_state()
    with names_and_shapes():
        outline = swin()
    assert torch.equal(torch.get_rng_state(), before)
    shapes = {name: (value.shape, value.dtype) for name, value in swin().state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in outline.state_dict().items()} == shapes
    assert all(value.is_meta for value in outline.state_dict().values())


def test_a_backbone_of_a_name_that_was_built_before_is_the_same_at_another_size() -> None:
    """What an outline tells is kept for a name and a size."""
    for size in (32, 64, 32):
        backbone = build_backbone("vit_tiny_patch16_224", size)
        assert backbone(torch.zeros(1, 3, size, size)).shape == (1, 192, size // 16, size // 16)
        assert "model.norm.weight" in backbone.state_dict()
        assert "model.head.weight" not in backbone.state_dict()
