"""RISE (Petsiuk et al., BMVC 2018): what of an image a class's score needs, from answers to masked images alone.

It looks into no layer, so that it takes any network; it costs MASKS passes an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKS = 1000
CELLS = 7
"""Along each side of a mask before it is made smooth."""
SHOWN = 0.5
"""Share of the cells that are shown."""
SEED = 0
CHUNK = 50


def masks(count: int, height: int, width: int) -> Iterator[Tensor]:
    """Chunks (CHUNK, H, W) of `count` random masks within 0..1, the same ones every time.

    Each is a random choice of cells, enlarged bilinearly and cut out at a random place.
    """
    generator = torch.Generator().manual_seed(SEED)
    down, across = ceil(height / CELLS), ceil(width / CELLS)
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        cells = (torch.rand((size, 1, CELLS, CELLS), generator=generator) < SHOWN).float()
        wide = F.interpolate(cells, size=((CELLS + 1) * down, (CELLS + 1) * across), mode="bilinear")[:, 0]
        tops = torch.randint(down, (size,), generator=generator).tolist()
        lefts = torch.randint(across, (size,), generator=generator).tolist()
        cut = zip(wide, tops, lefts, strict=True)
        yield torch.stack([each[top : top + height, left : left + width] for each, top, left in cut])


@torch.no_grad()
def rise(model: nn.Module, images: Tensor, classes: Tensor, count: int = MASKS) -> Tensor:
    """Mean score of each class while a pixel is shown, less the least of its image: (B, K, H, W), non-negative.

    `classes` is (K,) or (B, K) int64. The score is the logit, which the other explainers explain too, where the paper
    takes the probability; what is hidden is 0 after normalisation.
    """
    height, width = images.shape[-2:]
    wanted = classes.to(images.device).expand(len(images), -1)  # (B, K)
    sums = torch.zeros((*wanted.shape, height * width), dtype=torch.float64, device=images.device)
    shown = torch.zeros(height * width, dtype=torch.float64, device=images.device)
    for chunk in masks(count, height, width):
        planes = chunk.to(images.device)
        rows = planes.flatten(1).double()
        shown += rows.sum(0)
        for number, image in enumerate(images):
            logits = model(image * planes[:, None]).double()
            logits = logits.flatten(2).mean(2) if logits.ndim == 4 else logits
            sums[number] += logits[:, wanted[number]].T @ rows
    means = sums / shown.clamp_min(1e-9)
    return (means - means.amin(-1, keepdim=True)).float().unflatten(-1, (height, width))
