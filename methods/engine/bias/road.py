"""ROAD: remove pixels so that a model cannot tell which.

Rong et al.: A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022.

A pixel that is set to zero still says where it was. Here each that is removed becomes the weighted mean of its eight
neighbours, those that are removed too among them: one linear system an image; a little noise is added.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels, that are removed."""

NOISE = 0.01
"""Standard deviation, in units of the normalised image."""

NEIGHBOURS = {
    (down, across): 1 / 6 if 0 in (down, across) else 1 / 12
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if (down, across) != (0, 0)
}
"""The eight around a pixel -> their weights."""


def imputed(image: Tensor, missing: NDArray[np.bool_], seed: int) -> Tensor:
    """An image (3, H, W) whose `missing` pixels (H, W), not all of them, are made up from the others."""
    count = int(missing.sum())
    if not count:
        return image
    rows, columns = np.nonzero(missing)
    number = np.full(missing.shape, -1)
    number[rows, columns] = np.arange(count)
    pixels = image.double().cpu().numpy()
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    known, whole = np.zeros((count, len(pixels))), np.zeros(count)
    for (down, across), weight in NEIGHBOURS.items():
        y, x = rows + down, columns + across
        here = np.flatnonzero((y >= 0) & (y < missing.shape[0]) & (x >= 0) & (x < missing.shape[1]))
        y, x = y[here], x[here]
        whole[here] += weight
        gone = number[y, x] >= 0
        entries.append((here[gone], number[y[gone], x[gone]], np.full(gone.sum(), -weight)))
        known[here[~gone]] += weight * pixels[:, y[~gone], x[~gone]].T
    entries.append((np.arange(count), np.arange(count), whole))
    along, across_, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    made_up = spsolve(csc_matrix((values, (along, across_)), (count, count)), known).reshape(count, -1)
    made_up = made_up + np.random.default_rng(seed).normal(0, NOISE, made_up.shape)
    pixels[:, rows, columns] = made_up.T
    return torch.from_numpy(pixels).to(image)


def ranks(saliency: Tensor) -> Tensor:
    """Each pixel's place (H, W) in the order of a map (H, W), the highest first; equal ones keep reading order."""
    order = saliency.flatten().argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view(saliency.shape)


def road(image: Tensor, saliency: Tensor, score: Callable[[Tensor], Tensor], seed: int) -> float:
    """By how much more a class's score falls where the highest pixels of its map (H, W) are removed, than where the
    lowest are: half the difference, mean over SHARES (0: as a random map; as ROADCombined of pytorch-grad-cam).

    `score` takes images (B, 3, H, W) and gives the class's probabilities (B,).
    """
    place = ranks(saliency).cpu().numpy()
    removed = [round(share * place.size) for share in SHARES]
    highest = [imputed(image, place < count, seed) for count in removed]
    lowest = [imputed(image, place >= place.size - count, seed) for count in removed]
    scores = score(torch.stack([*highest, *lowest])).double()
    return float((scores[len(removed) :] - scores[: len(removed)]).mean() / 2)
