"""`train --bias-every N`: where the model looks while it learns, on the same few images each time.

The run is not touched: what is measured draws nothing from its random states, and leaves no gradient behind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.methods.engine.bias.objects import resolve_truth
from attnbias.methods.engine.bias.report import measure_bias
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.types import LABELLED, LogLine

IMAGES = 64
"""Images with objects that are looked at, drawn by SEED: enough for a curve, a few seconds on a CPU."""
SEED = 0

BIAS = "bias/"
"""What stands before the names of the measures in a line of metrics.jsonl."""


class BiasWatch:
    """Measures the attention bias of a model on a fixed part of a split."""

    def __init__(self, method: AnyMethod, recipe: Recipe, dataset: ImageDataset, accelerator: Accelerator) -> None:
        """Choose the images.

        Raises:
            UsageError: the task has no classes of images. DataError: the split has neither masks nor boxes.
        """
        index = dataset.index
        if index.task not in LABELLED:
            raise UsageError(f"--bias-every is for sets of labelled images, and '{index.dataset}' is for {index.task}")
        truth = resolve_truth(dataset, None)
        known = [position for position, record in enumerate(dataset.records) if record.boxes]
        chosen = np.random.default_rng(SEED).permutation(known)[:IMAGES]
        self.method, self.recipe, self.dataset, self.accelerator = method, recipe, dataset, accelerator
        self.images = np.sort(chosen)
        self.settings = {
            "images": len(chosen),
            "seed": SEED,
            "map": method.default_map(recipe),
            "truth": truth.kind,
            "truth_reason": truth.reason,
        }
        self.words = (
            f"attention bias is measured on {len(chosen)} of the {len(known):,} images of {index.split} with objects, "
            f"drawn by seed {SEED}, of map {self.settings['map']} against {truth.kind}"
        )

    def measure(self, model: nn.Module, found: Evaluation) -> LogLine:
        """What is added to the line of an evaluation of the split: means over samples, and what they are of."""
        kept = np.isin(found.ids, self.images)
        part = replace(
            found,
            ids=found.ids[kept],
            targets=found.targets[kept],
            scores={name: values[kept] for name, values in found.scores.items()},
        )
        index = self.dataset.index
        loaded = Loaded(self.method, self.recipe, model, index.classes, index.task, "")
        with untouched_random_states():
            try:
                report = measure_bias(loaded, self.dataset, part, self.accelerator)
            except DataError as error:  # a transform that cuts all objects off is not a reason to end a run
                return {"bias_of": {**self.settings, "samples": 0, "why": str(error)}}
        means = {f"{BIAS}{name}": value for name, value in report.summary().items() if value is not None}
        return {**means, "bias_of": {**self.settings, "samples": len(report.rows), "skipped": report.skipped}}


@contextmanager
def untouched_random_states() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
