"""Drawing a label map over its picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def paint(
    picture: NDArray[np.uint8], labels: NDArray[Any], palette: NDArray[np.uint8], opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Blend each pixel's class colour into a picture (H, W, 3) RGB; levels are cut off, not rounded (the program's).

    `labels` (H, W) are class numbers, `palette` (K, 3) RGB; pixels labelled 255 show the picture.
    """
    known = labels < len(palette)
    colours = np.where(known[..., None], palette[np.where(known, labels, 0)], picture)
    return (picture * (1 - opacity) + colours * opacity).astype(np.uint8)
