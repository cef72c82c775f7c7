"""What a model costs: parameters, multiply-accumulates, and the operations that LSAS's program counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten

BATCH, ROUNDS = 16, 7
"""Images at once, and passes, by which the time of one image is told."""


@dataclass(frozen=True)
class Cost:
    """The cost of one image."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions, linear layers and attention: half of torch's floating-point operations."""
    operations: int
    """macs, plus 2 for each element of a BatchNorm and 1 for each element that enters a ReLU or a pooling: what the
    LSAS program prints as FLOPs. It counts no additions of shortcuts and no multiplication by attention."""


@runtime_checkable
class Folds(Protocol):
    """A module that multiplies weights once and keeps what comes out."""

    def folded_decoders(self) -> list[Tensor]:
        """What it keeps, made now where it is not there yet."""


def _elements(times: int) -> object:
    def count(input_shape: Sequence[int], *_: object, out_shape: object = None, **__: object) -> int:
        return times * prod(input_shape)

    return count


ELEMENTWISE = {
    **dict.fromkeys((aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training), 2),
    **dict.fromkeys((aten.relu, aten.relu_, aten.max_pool2d_with_indices, aten._adaptive_avg_pool2d, aten.mean), 1),
}


def measure_cost(model: nn.Module, image_size: int | tuple[int, int]) -> Cost:
    """Run one black image (3, H, W) through the model, in evaluation mode, and count.

    A model built under `torch.device("meta")` is counted without computing anything.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    parameters = list(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameters[0].device, dtype=parameters[0].dtype)
    counter = FlopCounterMode(display=False, custom_mapping={op: _elements(n) for op, n in ELEMENTWISE.items()})
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Folds):
                    module.folded_decoders()  # a cost of the model, not of an image
            with counter:
                model(image)
    finally:
        model.train(training)
    counts = counter.get_flop_counts()["Global"]
    elementwise = sum(count for op, count in counts.items() if op in ELEMENTWISE)
    macs = (sum(counts.values()) - elementwise) // 2
    return Cost(sum(p.numel() for p in parameters), macs, macs + elementwise)


@torch.no_grad()
def milliseconds_per_image(model: nn.Module, image_size: int) -> float:
    """Time of a forward pass over BATCH black images, for each of them: the median of ROUNDS after a warm-up.

    Float32, in evaluation mode, on the model's device and torch's threads. A figure of this machine.
    """
    first = next(model.parameters())
    images = torch.zeros(BATCH, 3, image_size, image_size, device=first.device, dtype=first.dtype)
    model.eval()
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        model(images)
        if first.device.type == "cuda":
            torch.cuda.synchronize(first.device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:]) / BATCH
