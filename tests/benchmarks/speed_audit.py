"""What an audit costs beside the forward and backward passes that it needs: reading, maps, statistics, page.

Drawn photographs of many sizes at 224 pixels, a network with random weights. Both times are of one run, CPU seconds of
one thread: all of it, and what lies inside passes through the network, which is the baseline. Of more
images, the tests of the map weigh less, and so do the start and the page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from harness import Figure
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.command_line import attnbias
from tests.helpers.drawn import IMAGES, coco_categories, draw_coco
from tests.helpers.small_model import write_model

TARGET = 1.3
SIDE = 224
BACKBONES = ("resnet18", "resnet50")
FAITHFULNESS = 16


class Passes:
    """CPU seconds inside passes through a network."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    def enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._start = time.process_time()
        self._depth += 1

    def leave(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.process_time() - self._start

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count forward passes of every module, outermost only, and gradients."""
        handles = [
            nn.modules.module.register_module_forward_pre_hook(self.enter),
            nn.modules.module.register_module_forward_hook(self.leave),
        ]
        grad = torch.autograd.grad

        def counted(*given: Any, **how: Any) -> Any:
            self.enter()
            try:
                return grad(*given, **how)
            finally:
                self.leave()

        torch.autograd.grad = counted
        try:
            yield
        finally:
            torch.autograd.grad = grad
            for handle in handles:
                handle.remove()


def measured(images: int, backbone: str, faithfulness: int) -> Figure:
    """Audit once, and hold all of its time against that of its passes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, root = draw_coco(folder / "source"), folder / "data"
        attnbias("prepare-data", "coco", "--source", source, "--data-root", root, expect=0)
        names = tuple(category["name"] for category in coco_categories())
        model = write_model(folder / "m.safetensors", "plain", names, backbone=backbone, image_size=SIDE)
        asked = ["audit", model, "coco", "--split", "train", "--limit", images, "--faithfulness", faithfulness]
        passes, start = Passes(), time.process_time()
        with passes.watched():
            attnbias(*asked, "--data-root", root, "--gpus", 0, "--threads", 1, "--out", folder / "audit", expect=0)
        spent = time.process_time() - start
    case = f"audit of {images} images, {backbone} at {SIDE} pixels, by its passes"
    return Figure(
        case,
        1e3 * spent / images,
        "ms",
        baseline=1e3 * passes.seconds / images,
        ratio=spent / passes.seconds,
        target=TARGET,
    )


def audit(rounds: int) -> Iterator[Figure]:
    """Once of each network: a run holds its baseline, and takes minutes."""
    for backbone in BACKBONES:
        yield measured(IMAGES, backbone, FAITHFULNESS)
