"""Time a training step of LSAS networks against their counterparts: median CPU seconds of interleaved steps.

python tests/benchmarks/lsas_step.py [--steps 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import timm
import torch
from torch import nn

from attnbias.methods.lsas import METHOD


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, target: torch.Tensor) -> float:
    """One training step; returns its CPU seconds, which other processes on the machine hardly change."""
    start = time.process_time()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), target).backward()
    optimizer.step()
    return time.process_time() - start


def compare(models: dict[str, nn.Module], batch: int, size: int, steps: int) -> dict[str, float]:
    """Median step of each model, taken in turns on one batch; the first turn warms up."""
    images, target = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    optimizers = {name: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(steps + 1):
        for name, model in models.items():
            times[name].append(step(model.train(), optimizers[name], images, target))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)

    def ours(name: str, classes: int) -> nn.Module:
        return METHOD.build_model(METHOD.recipes[name].recipe, classes, "singlelabel")

    pairs = {
        "ResNet-50, 4 x 224 px": (
            {"lsas": ours("imagenet", 1000), "timm seresnet50": timm.create_model("seresnet50")},
            (4, 224),
        ),
        "ResNet-164, 8 x 32 px": ({"lsas": ours("cifar10", 10), "senet": ours("cifar10-senet", 10)}, (8, 32)),
    }
    for title, (models, (batch, size)) in pairs.items():
        found = compare(models, batch, size, steps)
        mine, other = found.values()
        print(json.dumps({"step": title, "seconds": found, "ratio": round(mine / other, 3)}))


if __name__ == "__main__":
    main()
