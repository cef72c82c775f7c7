"""Where a network computes in float32 whatever precision a run has."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block whose operations keep the precision of their inputs.

    On `meta`, where models are counted and nothing is computed, torch knows no autocast.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
