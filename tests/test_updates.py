"""What an update computes: skipped steps, synchronised normalisation, gradients that are not finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnbias.methods import get_method
from attnbias.methods.engine.recipe import revise
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.setup import synchronized


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_first_step_that_the_scaler_skips_leaves_no_trace(kind: str) -> None:
    """fp16 starts with a scale that overflows: fused updates, as on GPUs, then go on as if that step had not been."""
    recipe = revise(get_method("csra").named_recipe("demo").recipe, {"optimizer": kind, "momentum": 0.9})
    ends = []
    for losses in ([1.0, 1.0], [float("inf"), 1.0, 1.0]):
        weight = nn.Parameter(torch.zeros(4096))
        optimizer = build_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], recipe, fused=True)
        scaler = torch.amp.GradScaler("cpu")
        for loss in losses:
            dirty = [torch.full((4096,), 7e3) for _ in range(50)]  # memory that torch then hands out anew
            del dirty
            scaler.scale(weight.sum() * loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        ends.append(weight.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("backbone", ["tiny", "efficientnet_b0", "regnety_002", "resnetv2_50"])
def test_synchronised_normalisation_computes_the_same(backbone: str) -> None:
    method = get_method("ida")
    recipe = revise(method.named_recipe("demo").recipe, {"backbone": backbone})
    model = method.build_model(recipe, 5, "multilabel").eval()
    names = list(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        model = synchronized(model)
        assert torch.equal(model(images), before)
    assert list(model.state_dict()) == names
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    assert layers
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
