"""A segmentation set of one's own, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.prepare import prepare

Pixels = NDArray[np.uint8]


def prepare_shapes(source: Path, root: Path, classes: Sequence[str], image_of: Callable[[Pixels], Pixels]) -> Path:
    """Two images of different sizes, which `image_of` makes of their label maps (H, W), the second with pixels that no
    class has; prepared in `root`."""
    for k, (height, width) in enumerate(((40, 60), (56, 48))):
        labels = np.zeros((height, width), np.uint8)
        labels[5:20, 10:30] = 1 + k
        labels[30:, :8] = 255 * k
        for folder, pixels in (("images", image_of(labels)), ("labels", labels)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(source / folder / f"{k}.png")
    (source / "classes.txt").write_text("\n".join(classes))
    prepare(str(source), root=root)
    return source
