"""Each method's network against the bare network that it stands on: forward passes and whole training steps.

A training step is forward, loss, backward and the recipe's optimiser; the bare network is fine-tuned with the same
optimiser and plain (binary) cross-entropy. Images are noise; speed_engine.py and speed_data.py measure the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from harness import Figure, compare
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.data.index import Task
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.training.optim import build_optimizer


@dataclass(frozen=True)
class Ours:
    """A method's network by one of its recipes."""

    method: str
    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A method's network, what it is measured against, on which images, and the targets."""

    words: str
    ours: Ours
    base: Callable[[], nn.Module] | Ours
    images: int
    size: int
    classes: int = 1000
    task: Task = "singlelabel"
    forward: float | None = None
    training: float | None = None
    only_training: bool = False
    """Both sides are the same network in evaluation."""


def resnet101() -> nn.Module:
    return torchvision.models.resnet101(num_classes=80)


COCO: dict[str, Any] = {"base": resnet101, "images": 1, "size": 448, "classes": 80, "task": "multilabel"}
LIGHT, HEAVY = (Ours("ida", f"coco-resnet101-448-{weight}") for weight in ("light", "heavy"))
LLB = Ours("llb", "imagenet-augreg-base")

PAIRS = (
    Pair("CSRA, 6 heads / ResNet-101, 448 px", Ours("csra", "coco-resnetcut"), **COCO, forward=1.01),
    Pair("IDA light / ResNet-101, 448 px", LIGHT, **COCO, forward=1.03),
    Pair("IDA heavy / ResNet-101, 448 px", HEAVY, **COCO, forward=1.09),
    Pair(
        "LSAS / timm's seresnet50, 224 px",
        Ours("lsas", "imagenet"),
        lambda: timm.create_model("seresnet50"),
        4,
        224,
        forward=1.02,
        training=1.02,
    ),
    Pair(
        "LSAS in all four stages, as SE is / timm's seresnet50, 224 px",
        Ours("lsas", "imagenet", {"stages": (1, 2, 3, 4)}),
        lambda: timm.create_model("seresnet50"),
        4,
        224,
        forward=1.02,
        training=1.02,
    ),
    Pair(
        "LSAS / SENet-164, 32 px",
        Ours("lsas", "cifar10"),
        Ours("lsas", "cifar10-senet"),
        8,
        32,
        classes=10,
        forward=1.02,
        training=1.02,
    ),
    Pair(
        "AbSViT-S / ViT-S, 224 px",
        Ours("absvit", "absvit-small"),
        lambda: timm.create_model("vit_small_patch16_224", drop_path_rate=0.1),
        4,
        224,
        forward=2.15,
        training=2.6,
    ),
    Pair("LLB, frozen / ViT-B, 224 px", LLB, lambda: timm.create_model("vit_base_patch16_224"), 2, 224, training=0.85),
    Pair(
        "LLB, frozen / unfrozen, 224 px",
        LLB,
        Ours("llb", LLB.recipe, {"freeze": False}),
        2,
        224,
        training=0.62,
        only_training=True,
    ),
)


def built(side: Callable[[], nn.Module] | Ours, pair: Pair) -> nn.Module:
    """A network of the pair, with fresh weights."""
    if not isinstance(side, Ours):
        return side()
    method = get_method(side.method)
    return method.build_model(recipe_of(side), pair.classes, pair.task)


def recipe_of(side: Ours) -> Any:
    """The recipe of one of our networks."""
    return override(get_method(side.method).named_recipe(side.recipe).recipe, side.changes)


def batch_of(pair: Pair) -> dict[str, Tensor]:
    """Noise, and targets of the pair's task."""
    torch.manual_seed(0)
    if pair.task == "multilabel":
        target = (torch.rand(pair.images, pair.classes) < 0.04).float()
    else:
        target = torch.randint(pair.classes, (pair.images,))
    return {"image": torch.randn(pair.images, 3, pair.size, pair.size), "target": target}


def training_step(side: Callable[[], nn.Module] | Ours, pair: Pair) -> Callable[[], None]:
    """One step of fine-tuning a side of the pair."""
    method, recipe = get_method(pair.ours.method), recipe_of(side if isinstance(side, Ours) else pair.ours)
    model, batch = built(side, pair).train(), batch_of(pair)
    if isinstance(side, Ours):
        groups = method.param_groups(model, recipe)
    else:
        groups = [{"params": list(model.parameters()), "lr": recipe.lr, "weight_decay": recipe.weight_decay}]
    optimizer = build_optimizer(groups, recipe)
    plain = F.binary_cross_entropy_with_logits if pair.task == "multilabel" else F.cross_entropy

    def step() -> None:
        if isinstance(side, Ours):
            loss = method.loss(model, batch, recipe, pair.task)["loss"]
        else:
            loss = plain(model(batch["image"]), batch["target"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(rounds: int) -> Iterator[Figure]:
    """Evaluation: one forward pass without gradients."""
    for pair in (pair for pair in PAIRS if not pair.only_training):
        images = batch_of(pair)["image"]
        ours, base = (built(side, pair).eval() for side in (pair.ours, pair.base))
        with torch.inference_mode():
            yield compare(
                f"{pair.words}, {pair.images} at a time",
                lambda m=ours, x=images: m(x),
                lambda m=base, x=images: m(x),
                rounds,
                pair.forward,
            )


def training(rounds: int) -> Iterator[Figure]:
    """Training: whole steps."""
    for pair in PAIRS:
        ours, base = (training_step(side, pair) for side in (pair.ours, pair.base))
        yield compare(f"{pair.words}, {pair.images} at a time", ours, base, rounds, pair.training)
