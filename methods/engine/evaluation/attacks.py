"""White-box attacks on whatever classifies images or their pixels: FGSM and PGD, untargeted, within an L-infinity ball
of pixel values.

Goodfellow, Shlens, Szegedy: "Explaining and Harnessing Adversarial Examples", ICLR 2015 (FGSM); Madry et al.: "Towards
Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (PGD). Strengths default to AbSViT's evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnbias.data.index import Task
from attnbias.methods.engine.losses import classification_loss


@dataclass(frozen=True)
class Attack:
    """Strength of an attack, in pixel values of 0 to 1."""

    epsilon: float = 1 / 255
    """Largest change of a pixel."""
    step_size: float = 0.5 / 255
    steps: int = 5
    random_start: bool = True
    """Start from a random point of the ball."""


ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(step_size=1 / 255, steps=1, random_start=False),
    "pgd": Attack(),
}


def adversarial(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    attack: Attack,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    task: Task = "singlelabel",
    start: Tensor | None = None,
) -> Tensor:
    """Change images so that a classifier errs: images (B, 3, H, W) -> adversarial images, normalised alike.

    Args:
        model: In evaluation mode; model(images) gives logits (B, C). Its parameters receive no gradient.
        images: As in `against`.
        targets: True labels: class numbers (B,), or (B, C) in {1, 0, -1 = left out} in multi-label work.
        attack: Its strength.
        mean: Per channel.
        std: Per channel.
        task: Cross-entropy for single-label work, binary cross-entropy for multi-label.
        start: As in `against`.
    """
    return against(
        lambda changed: classification_loss(model(changed).float(), targets.clone(), task),
        *(images, attack, mean, std),
        start=start,
    )


def against(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    attack: Attack,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    start: Tensor | None = None,
) -> Tensor:
    """Change images (B, 3, H, W) so that a loss of them, one number, rises.

    Args:
        loss: Of images. What it is computed with receives no gradient.
        images: Normalised by (x - mean) / std, x in [0, 1].
        attack: Its strength.
        mean: Per channel.
        std: Per channel.
        start: Where a random start begins: uniform in [-1, 1], shaped like the images. None = drawn from torch's
            global generator.
    """
    scale = torch.tensor(std, device=images.device).view(3, 1, 1)
    offset = torch.tensor(mean, device=images.device).view(3, 1, 1)
    low, high = -offset / scale, (1 - offset) / scale  # black and white, normalised
    radius, step_size = attack.epsilon / scale, attack.step_size / scale
    # Full precision whatever the surroundings, and a graph even inside an evaluation loop.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        clean = images.detach().clone().float()
        changed = clean
        if attack.random_start:
            start = torch.rand_like(clean) * 2 - 1 if start is None else start
            changed = (clean + start * radius).clamp(low, high)
        for _ in range(attack.steps):
            changed.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(changed), changed)
            changed = changed.detach() + step_size * gradient.sign()
            changed = changed.clamp(clean - radius, clean + radius).clamp(low, high)
    return changed.detach()
