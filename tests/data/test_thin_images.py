"""Images that are a line of pixels: every evaluation shows their middle and never fills the memory with the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from attnbias.data.transforms.basic import ShortSideResize
from attnbias.data.transforms.opencv import rescaled
from attnbias.methods import METHODS
from attnbias.methods.engine.registry import get_method

SIZES = [(4000, 1), (1, 4000), (3000, 7)]


def steps(transform: Any) -> list[Any]:
    return [step for part in transform.transforms for step in (steps(part) if hasattr(part, "transforms") else [part])]


RECIPES = [
    (method, name)
    for method in METHODS
    for name, named in get_method(method).recipes.items()
    if named.recipe.image_size > 32  # CIFAR's images are shown whole, as they are
    and getattr(named.recipe, "pipeline", "") != "native"
]


@pytest.mark.parametrize(("method", "recipe"), RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_no_step_of_an_evaluation_makes_a_large_image(method: str, recipe: str, size: tuple[int, int]) -> None:
    found = get_method(method)
    values: Any = found.recipes[recipe].recipe
    image: Any = Image.new("RGB", size, (200, 10, 10))
    transform: Any = found.transform(values, train=False)
    for step in steps(transform) if hasattr(transform, "transforms") else [transform]:
        image = step(image)
        height, width = v2.functional.get_size(image)
        assert height * width <= 64 * values.image_size**2


@pytest.mark.parametrize("kind", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_other_images_keep_every_pixel(kind: InterpolationMode) -> None:
    for height, width in [(37, 51), (51, 37), (64, 64), (2, 64), (96, 3), (300, 400)]:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for image in (Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
            ours, plain = ShortSideResize(20, kind)(image), v2.Resize(20, interpolation=kind, antialias=True)(image)
            assert np.array_equal(np.asarray(ours), np.asarray(plain))


@pytest.mark.parametrize("size", SIZES)
def test_the_middle_of_a_thin_image_is_shown(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    middle = tuple(side // 2 + offset for side, offset in zip(size, (-1, -1), strict=True))
    image.paste((255, 0, 0), tuple(max(place - 8, 0) for place in middle) + tuple(p + 9 for p in middle))
    seen = np.asarray(v2.CenterCrop(16)(ShortSideResize(16)(image)))
    assert seen.shape == (16, 16, 3)
    assert (seen[..., 0] == 255).all()


def test_a_side_never_vanishes_where_the_longer_one_decides() -> None:
    assert rescaled((1, 4000), (512, 512)) == (1, 512)
    assert rescaled((4000, 1), (2048, 512)) == (2048, 1)
