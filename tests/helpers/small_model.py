"""A small model with random weights, stored as training stores it, for tests of what is done with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from attnbias.data.index import Task
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights

DIGITS = tuple(f"digit_{number}" for number in range(10))
"""The classes of the demo set."""


def write_model(
    path: Path,
    method: str = "csra",
    classes: tuple[str, ...] = DIGITS,
    seed: int = 0,
    *,
    named: str = "demo",
    task: Task = "multilabel",
    **fields: Any,
) -> Path:
    """Write a model of a named recipe of the method, with some fields changed."""
    found = get_method(method)
    recipe = override(found.named_recipe(named).recipe, fields)
    torch.manual_seed(seed)
    model = found.build_model(recipe, len(classes), task)
    write_weights(path, model.state_dict(), weights_metadata(found, recipe, classes, task))
    return path
