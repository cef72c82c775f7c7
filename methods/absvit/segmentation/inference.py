"""From an image to the class of each of its pixels: whole or by windows, at one size or at several and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from attnbias.methods.absvit.segmentation.heads import resize
from attnbias.methods.absvit.segmentation.recipe import SegmentationRecipe

Flip = Literal["horizontal", "vertical"]
AXES: dict[Flip, int] = {"horizontal": -1, "vertical": -2}

Size = Sequence[int]
"""Height and width."""


def whole_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K, H, W) of images (B, 3, H, W), seen at once.

    The grid covers an image padded to whole patches, yet its logits are stretched to the image as it was (so does
    the program).
    """
    return resize(model(images).float(), images.shape[-2:])


def slide_logits(model: nn.Module, images: Tensor, crop: Size, stride: Size) -> Tensor:
    """Logits (B, K, H, W) of images (B, 3, H, W), seen through windows; where windows overlap, their mean.

    The last window of a row or column is moved back inside; an image smaller than a window is one window.
    """
    size = images.shape[-2:]
    slices = []
    for side, window, step in zip(size, crop, stride, strict=True):
        count = max(side - window + step - 1, 0) // step + 1
        slices.append([slice(max(min(k * step + window, side) - window, 0), k * step + window) for k in range(count)])
    total: Tensor | None = None
    hits = images.new_zeros(size)
    for rows, columns in product(*slices):
        logits = whole_logits(model, images[..., rows, columns])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *size)
        total[..., rows, columns] += logits
        hits[rows, columns] += 1
    assert total is not None
    return total / hits


def view_logits(
    model: nn.Module, view: Tensor, recipe: SegmentationRecipe, size: Size | None = None, seen: Size | None = None
) -> Tensor:
    """Logits (B, K, *size) of a view (B, 3, h, w) of images, by the recipe's mode.

    `size` is that of the original images, None = the view's. `seen` is the part of the view (from the upper left
    corner) that holds the image, where the rest is padding. Logits are resized twice, to the view and to the image.
    """
    if recipe.mode == "slide":
        logits = slide_logits(model, view, recipe.slide_crop, recipe.slide_stride)
    else:
        logits = whole_logits(model, view)
    if seen is not None:
        logits = logits[..., : seen[0], : seen[1]]
    return logits if size is None else resize(logits, size)


def probabilities(logits: Tensor, flip: Flip | None = None) -> Tensor:
    """Softmax over the classes of logits (B, K, H, W); those of a mirrored view are mirrored back after it."""
    shares = logits.softmax(dim=1)
    return shares if flip is None else shares.flip(AXES[flip])


def likeliest(values: Tensor) -> Tensor:
    """Class of each pixel (B, H, W) by its logits or probabilities (B, K, H, W)."""
    return values.max(dim=1).indices  # argmax takes four times as long on a CPU


@torch.no_grad()
def segment(model: nn.Module, views: Sequence[Tensor], size: Size, recipe: SegmentationRecipe) -> Tensor:
    """Class of each pixel of one image, (H, W) int64, from its views (3, h, w).

    Views of several sizes (`--aug-test`) are also looked at mirrored, and the probabilities of all are averaged.
    """
    if len(views) == 1:
        return likeliest(view_logits(model, views[0][None], recipe, size))[0]
    total: Tensor | int = 0
    for view, flip in product(views, (None, "horizontal")):
        seen = view if flip is None else view.flip(AXES["horizontal"])
        total = total + probabilities(view_logits(model, seen[None], recipe, size), "horizontal" if flip else None)
    assert isinstance(total, Tensor)
    return likeliest(total)[0]
