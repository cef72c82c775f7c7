"""The losses of the four tasks, as the authors' program adds them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbias.data.to_device import to_device
from attnbias.methods.absvit.vision_language.recipe import TextTask

if TYPE_CHECKING:
    from attnbias.methods.absvit.vision_language.model import Answers


def task_loss(
    answers: Answers, target: Tensor, task: TextTask, weight: float = 0.0, match: Tensor | None = None
) -> dict[str, Tensor]:
    """Named terms, `loss` their plain sum: a mean over the samples, and `weight` x the reconstruction error.

    - vqa: binary cross-entropy with soft scores (B, classes), the mean over classes times their number;
    - snli-ve, nlvr2: cross-entropy with class numbers (B,);
    - retrieval: cross-entropy of the true caption, the first of (B, N), plus that of `match` (B,).
    """
    logits, terms = answers.logits.float(), {}
    if task == "vqa":
        terms["answer"] = F.binary_cross_entropy_with_logits(logits, target) * target.shape[1]
    elif task == "retrieval":
        terms["ranking"] = F.cross_entropy(logits, torch.zeros_like(target))
    else:
        terms["answer"] = F.cross_entropy(logits, target)
    if answers.matching is not None and match is not None:
        terms["matching"] = F.cross_entropy(answers.matching.float(), match)
    if answers.errors is not None:
        terms["reconstruction"] = weight * answers.errors.float().sum()
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def drawn_matches(count: int, device: torch.device) -> Tensor:
    """Draw which samples show the matching head their true image: the first half of a batch, shuffled, (count,)."""
    match = torch.zeros(count, dtype=torch.int64)
    match[: count // 2] = 1
    return to_device(match[torch.randperm(count)], device)
