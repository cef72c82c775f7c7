"""Small tensors that the CPU makes for a step that is on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device, queued behind the work that is there: nothing waits for that to be done.

    From ordinary memory a copy is not queued.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
