"""What several outputs of a golden case rest on is computed once."""

from __future__ import annotations

from torch import Tensor, nn


def compute_once(module: nn.Module) -> None:
    """From now on the module answers a tensor that it has seen, that very object, as it did before."""
    compute, known = module.forward, dict[int, tuple[Tensor, Tensor]]()

    def forward(given: Tensor) -> Tensor:
        if id(given) not in known:
            known[id(given)] = given, compute(given)
        return known[id(given)][1]

    module.forward = forward
