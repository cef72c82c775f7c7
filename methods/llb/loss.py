"""LLB's loss: the branch's classification, and the entropy of how it uses its objects."""

from __future__ import annotations

from torch import Tensor

from attnbias.data.index import Task
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.llb.model import BranchOutput


def llb_loss(
    output: BranchOutput, target: Tensor, weight: float, visual_weight: float, task: Task
) -> dict[str, Tensor]:
    """The branch's classification loss minus `weight` times the entropy of object usage; soon negative.

    `target` is (B,) int64, soft (B, C), or in multi-label work (B, C) with -1 = ignore. The entropy is that of this
    process's micro-batch: the same global batch on more processes gives a lower one (as in the program).
    """
    classification = classification_loss(output.branch.float(), target, task)
    diversity = usage_entropy(object_usage(output.shares))
    terms = {"classification": classification, "diversity": diversity}
    loss = objective(classification, diversity, weight)
    if output.visual is not None:
        terms["visual"] = classification_loss(output.visual.float(), target, task)
        loss = loss + visual_weight * terms["visual"]
    return {"loss": loss, **terms}


def objective(classification: Tensor, diversity: Tensor, weight: float) -> Tensor:
    """Reward diversity: the loss falls as more objects are in use."""
    return classification - weight * diversity


def object_usage(shares: Tensor) -> Tensor:
    """How much of all patches each object takes: (..., O) -> (O,), summing to one."""
    return shares.float().flatten(0, -2).mean(0)


def usage_entropy(usage: Tensor) -> Tensor:
    """Entropy (natural logarithm) of object usage (O,): 0 = one object for all, log O = all alike."""
    usage = usage + 1e-12
    return -(usage * usage.log()).sum()
