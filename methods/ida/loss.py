"""IDA's losses: the sum of binary cross-entropies that the program trains with, its mean, and the asymmetric loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from attnbias.methods.engine.losses import binary_cross_entropy

if TYPE_CHECKING:
    from attnbias.data.index import Task
    from attnbias.methods.ida.recipe import IDARecipe

ASL_SCALE = 1000


def classification_loss(logits: Tensor, target: Tensor, recipe: IDARecipe, task: Task) -> Tensor:
    """Return the recipe's loss of logits (B, C) against targets (B, C), or cross-entropy against class numbers (B,).

    The program sums over the images of one process (32 in the published run) and lets gradients be averaged over
    processes, so that its scale, and with it the weight of Adam's coupled decay, changes with their number.
    "bce_sum" keeps the published scale whatever the number of processes: mean over the images, times `loss_batch`.
    """
    logits = logits.float()
    if task == "singlelabel":
        return F.cross_entropy(logits, target)
    if recipe.loss == "asl":
        return asymmetric_loss(
            logits,
            target,
            gamma_pos=recipe.asl_gamma_pos,
            gamma_neg=recipe.asl_gamma_neg,
            clip=recipe.asl_clip,
            detach_focus=recipe.asl_detach_focus,
        )
    loss = binary_cross_entropy(logits, target)
    return loss * recipe.loss_batch if recipe.loss == "bce_sum" else loss


def asymmetric_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_pos: float,
    gamma_neg: float,
    clip: float,
    detach_focus: bool,
    eps: float = 1e-5,
) -> Tensor:
    """Asymmetric loss (Ridnik et al., ICCV 2021): 1000 times its mean over images and classes.

    The program's scale. It parses this loss's options and then ignores them; here they work.

    Args:
        clip: added to the probability of each negative, so that easy negatives add nothing.
        detach_focus: keep the focusing weight out of the gradient.
        eps: smallest probability inside the logarithms.
    """
    positive = target.clamp_min(0).to(logits.dtype)
    p = logits.sigmoid()
    q = (1 - p + clip).clamp_max(1)  # probability of "absent", shifted
    cross_entropy = -(positive * p.clamp_min(eps).log() + (1 - positive) * q.clamp_min(eps).log())
    probability = (p * positive + q * (1 - positive)).detach() if detach_focus else p * positive + q * (1 - positive)
    focus = (1 - probability) ** (gamma_pos * positive + gamma_neg * (1 - positive))
    return ASL_SCALE * (cross_entropy * focus * (target >= 0)).mean()
