"""Measures that only LLB has, pure functions on stored predictions: branch against branch, alpha, losses, objects.

Probabilities are (N, C) float; targets are (N,) class numbers, in multi-label work (N, C) with -1 = ignore.
"""

from __future__ import annotations

import numpy as np
import torch

from attnbias.data.index import Task
from attnbias.methods.engine.metrics import multilabel_measures, singlelabel_measures
from attnbias.methods.engine.types import Metrics
from attnbias.methods.llb.loss import usage_entropy

ALPHAS = tuple(step / 10 for step in range(11))


def mix(visual: np.ndarray, branch: np.ndarray, alpha: float) -> np.ndarray:
    """Mixture of both branches' probabilities; alpha weighs the visual one."""
    return alpha * visual + (1 - alpha) * branch


def alpha_sweep(
    targets: np.ndarray, visual: np.ndarray, branch: np.ndarray, task: Task = "singlelabel"
) -> dict[float, Metrics]:
    """Measure the mixture at every alpha. Training does not depend on alpha: one pass over the images gives all."""
    measure = multilabel_measures if task == "multilabel" else singlelabel_measures
    return {alpha: measure(targets, mix(visual, branch, alpha)) for alpha in ALPHAS}


def agreement(targets: np.ndarray, visual: np.ndarray, branch: np.ndarray) -> dict[str, np.ndarray]:
    """Which samples both branches classify rightly, only one does, or neither: four disjoint masks (N,)."""
    seen, known = visual.argmax(-1) == targets, branch.argmax(-1) == targets
    return {
        "both_right": seen & known,
        "only_visual": seen & ~known,
        "only_branch": ~seen & known,
        "neither": ~seen & ~known,
    }


def negative_log_likelihood(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log of the true class's probability: the loss of a mixture."""
    chosen = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def program_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The figure that the published program prints as its evaluation loss: softmax once more, over probabilities.

    It lies near log C whatever the model does and compares with nothing but itself.
    """
    logits = probabilities.astype(np.float64)
    log_sum = np.log(np.exp(logits).sum(-1))
    return float((log_sum - logits[np.arange(len(targets)), targets]).mean())


def object_measures(usage: np.ndarray) -> Metrics:
    """Measure the usage (O,) of latent objects: how many are in use, how many are dead, which lead.

    `perplexity` is exp of the usage entropy, 1 ... O; `dead` counts objects below a hundredth of an even share;
    `most_used` are the numbers of the ten objects that are used most.
    """
    return {
        "perplexity": usage_entropy(torch.from_numpy(usage)).exp().item(),
        "dead": int(np.count_nonzero(usage < 0.01 / len(usage))),
        "most_used": np.argsort(-usage, kind="stable")[:10].tolist(),
    }
