"""What an audit costs beside the forward and backward passes that it needs: reading, maps, statistics, page.

    python tests/benchmarks/speed_audit.py [--images N] [--backbone NAME] [--faithfulness N]

Drawn photographs of many sizes at 224 pixels, a network with random weights. Both times are of one run, CPU seconds of
one thread: all of it, and what lies inside passes through the network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from torch import nn

from tests.benchmarks.harness import Figure
from tests.helpers.command_line import attnbias
from tests.helpers.drawn import IMAGES, coco_categories, draw_coco
from tests.helpers.small_model import write_model

TARGET = 1.3
SIDE = 224


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--faithfulness", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(given.images, given.backbone, given.faithfulness)
    Console().print(
        f"{found.case}: {found.value:.0f} ms an image, {found.baseline:.0f} ms of them in passes: "
        f"{found.ratio:.2f} times (at most {found.target})"
    )
    sys.exit(0 if found.holds else 1)


if __name__ == "__main__":
    main()
