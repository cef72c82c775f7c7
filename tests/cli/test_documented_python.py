"""The Python of the pages runs as it is printed, on models with random weights. README's own: test_python.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attnbias
from tests.helpers.small_model import write_model
from tests.test_documentation import PAGES, REPO, blocks


def for_absvit() -> dict[str, Any]:
    """A run as its path says, a photograph, a batch and vectors."""
    write_model(Path("absvit.safetensors"), "absvit")
    return {
        "attnbias": attnbias,
        "torch": torch,
        "images": torch.zeros(2, 3, 64, 64),
        "vectors": torch.ones(2, 128),
    }


def for_llb() -> dict[str, Any]:
    """A model, a batch, and batches with the images' ids."""
    loaded = attnbias.load(write_model(Path("llb.safetensors"), "llb"), device="cpu").loaded
    images = torch.zeros(2, 3, loaded.recipe.image_size, loaded.recipe.image_size)
    return {"model": loaded.model, "images": images, "batches": [(images, torch.arange(2))]}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "methods/absvit/README.md": for_absvit,
    "methods/llb/README.md": for_llb,
}
"""Page -> what its block takes as given."""


@pytest.mark.parametrize("page", GIVEN)
def test_the_python_of_a_page_runs(page: str, here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    names = GIVEN[page]()
    for block in blocks(REPO / page, "python"):
        exec(compile(block.replace("runs/absvit/demo", "absvit.safetensors"), page, "exec"), names)


def test_no_page_has_python_that_nothing_runs() -> None:
    with_python = {str(page.relative_to(REPO)) for page in PAGES if [*blocks(page, "python")]}
    assert with_python == {"README.md", *GIVEN}
