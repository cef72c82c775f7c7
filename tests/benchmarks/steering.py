"""Does asking AbSViT for a digit move its maps to that digit? Paired, on scenes with several digits.

`python tests/benchmarks/steering.py RUN...` takes runs of the demonstration's recipes. In each image, the share of a
map inside digit A's box is compared between the map that was asked for A and those asked for the other digits present:
where something is salient cancels out, what steering does remains. Two kinds of prior are compared: the head's rows
(the program's) and vectors made from tokens of 800 other scenes with known boxes (as `attnbias priors` makes them).

Scenes have even backgrounds and are drawn in memory: training writers for the vectors, other writers for the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.data.sets.demo import PRESETS, TRAIN_DIGITS, Placed, Settings, plan, render
from attnbias.methods.absvit.attention import feature_norms, top_of_range
from attnbias.methods.absvit.method import METHOD
from attnbias.methods.absvit.model import AbSViT
from attnbias.methods.absvit.recipe import AbSViTRecipe
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.make_priors import VectorSums
from attnbias.methods.engine.statistics import Ratio, interval

Boxes = NDArray[np.float32]
"""(10, H, W): the box of each digit as ones; zeros for an absent one."""
BATCH = 50
SIZE = Settings().size
"""Pixels of a scene, as the set has them; the model's transform makes of them what it was trained on."""


def scenes(
    count: int, pool: NDArray[np.int64], recipe: AbSViTRecipe, preset: str, seed: int, least: int
) -> Iterator[tuple[Tensor, Boxes]]:
    """Draw images (3, H, W) with at least so many digits."""
    rng, transform = np.random.default_rng(seed), METHOD.transform(recipe, train=False)
    while count:
        scene = plan("unbiased", PRESETS[preset], False, rng)
        if len(scene.digits) >= least:
            image, placed = render(scene, pool, PRESETS[preset], SIZE, rng)
            yield transform(Image.fromarray(image)), boxes_of(placed)
            count -= 1


def boxes_of(placed: Sequence[Placed]) -> Boxes:
    """Where each digit's box is."""
    boxes = np.zeros((10, SIZE, SIZE), np.float32)
    for each in placed:
        rows, columns = np.flatnonzero(each.mask.any(1)), np.flatnonzero(each.mask.any(0))
        boxes[each.digit, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    return boxes


def batches(drawn: Iterator[tuple[Tensor, Boxes]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Stack images (B, 3, H, W) and boxes (B, 10, H, W)."""
    found = list(drawn)
    for start in range(0, len(found), BATCH):
        images, boxes = zip(*found[start : start + BATCH], strict=True)
        yield torch.stack(images), torch.from_numpy(np.stack(boxes))


def learnt_vectors(model: AbSViT, drawn: Iterator[tuple[Tensor, Boxes]]) -> Tensor:
    """Priors (10, C) from the tokens inside the digits' boxes."""
    sums = VectorSums(10)
    for images, boxes in batches(drawn):
        owners, digits = (boxes.amax((2, 3)) > 0).nonzero(as_tuple=True)
        sums.add(METHOD.tokens(model, images)[owners], boxes[owners, digits], digits)
    return sums.vectors()


def maps_of(model: AbSViT, images: Tensor, priors: Tensor, gains: Sequence[float]) -> dict[str, Tensor]:
    """Maps (B, N) of each kind, steered by a prior for each image (B, C)."""
    patches = model.patch_embed(images)
    tokens = model.encode(patches)
    found = {"mask": model.prior_mask(tokens, priors)[:, model.num_prefix_tokens :, 0]}
    for gain in gains:
        feedback = model.feedback(model.weighted(tokens, priors, gain))
        found[f"steered, gain {gain:g}"] = top_of_range(feature_norms(model, patches, feedback))
    return found


def shares(maps: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each map (B, N) inside each digit's box (B, 10, H, W): (B, 10). A dark map has the boxes' areas."""
    energy = F.interpolate(maps.unflatten(1, grid)[:, None], size=boxes.shape[-2:], mode="bilinear")
    total = energy.sum((2, 3))  # (B, 1)
    return torch.where(total > 1e-9, (energy * boxes).sum((2, 3)) / total.clamp_min(1e-9), boxes.mean((2, 3)))


@torch.no_grad()
def measure(run: str, preset: str, originals: int, gains: Sequence[float]) -> None:
    """Print a line for each prior and map: share inside the box when asked for its digit, and for another."""
    loaded = load_run("absvit", run, {})
    model, recipe = cast(AbSViT, loaded.model.eval()), cast(AbSViTRecipe, loaded.recipe)
    writers = np.arange(TRAIN_DIGITS), np.arange(TRAIN_DIGITS, 1797)
    vectors = learnt_vectors(model, scenes(800, writers[0], recipe, preset, seed=1, least=1))
    priors = {"head": cast(nn.Linear, model.head).weight, "objects": vectors}
    held: dict[tuple[str, str], list[Tensor]] = {}
    present: list[Tensor] = []
    for images, boxes in batches(scenes(originals, writers[1], recipe, preset, seed=2, least=2)):
        there = boxes.amax((2, 3)) > 0  # (B, 10)
        present.append(there)
        place, digit = there.nonzero(as_tuple=True)
        for prior, rows in priors.items():
            for kind, maps in maps_of(model, images[place], rows[digit], gains).items():
                inside = torch.zeros(len(images), 10, 10)  # (B, asked, box)
                inside[place, digit] = shares(maps, boxes[place], model.patch_embed.grid_size)
                held.setdefault((prior, kind), []).append(inside)
    there = torch.cat(present)
    others = there[:, :, None] & ~torch.eye(10, dtype=torch.bool)
    print(f"{run}: {int(there.sum())} digits in {originals} images; share of the map inside a digit's box, per cent")
    for (prior, kind), parts in held.items():
        inside = torch.cat(parts)
        own = inside.diagonal(dim1=1, dim2=2)
        other = (inside * others).sum(1) / others.sum(1).clamp_min(1)
        place, digit = there.nonzero(as_tuple=True)
        gap = (own - other)[place, digit].double().numpy()
        edges = interval(Ratio.mean(gap), place.numpy())
        assert edges, "one image has no interval"
        low, high = edges
        print(
            f"  {prior:8s} {kind:20s} asked {100 * own[place, digit].mean():5.1f}"
            f"  other asked {100 * other[place, digit].mean():5.1f}"
            f"  gain {100 * gap.mean():+5.2f} [{100 * low:+.2f}, {100 * high:+.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", nargs="+", help="run folder or weights of AbSViT")
    parser.add_argument("--preset", default="easy", choices=PRESETS)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--gain", type=float, nargs="*", default=[1.0, 40.0], help="strengths of the feedback")
    arguments = parser.parse_args()
    for each in arguments.run:
        measure(each, arguments.preset, arguments.images, arguments.gain)
