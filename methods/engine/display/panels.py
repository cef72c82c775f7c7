"""Drawing what a network did to its channels: a strip, a mean and one histogram per vector, with NumPy and Pillow
alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attnbias.methods.engine.display.overlay import inferno

Panels = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Block -> what is drawn of it -> one value in [0, 1] a channel, (C,)."""

LABEL, STRIP, HISTOGRAM, HEIGHT, GAP = 230, 512, 128, 32, 6
"""Pixels: widths of a row's words, of its channels and of its histogram, the row's height, the space around it."""

BINS = 32
"""Bins of a histogram, from 0 to 1."""


def draw_panels(panels: Panels) -> Image.Image:
    """Draw a row for each vector: its name and mean, its channels in order (dark 0 to bright 1), its histogram.

    More channels than pixels are averaged; bars are scaled to the row's fullest bin.
    """
    rows = [(f"{block} {name}", values) for block, vectors in panels.items() for name, values in vectors.items()]
    width = LABEL + STRIP + HISTOGRAM + 4 * GAP
    drawn = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(13)
    for position, (name, values) in enumerate(rows):
        top = GAP + position * (HEIGHT + GAP)
        pen.text((GAP, top + HEIGHT // 4), f"{name}  mean {values.mean():.3f}", font=font, fill="black")
        drawn.paste(_strip(values), (LABEL + 2 * GAP, top))
        drawn.paste(_histogram(values), (LABEL + STRIP + 3 * GAP, top))
    return drawn


def _strip(values: NDArray[np.float32]) -> Image.Image:
    colours = inferno()[np.rint(255 * values).astype(np.uint8)][None]  # (1, C, 3)
    return Image.fromarray(colours).resize((STRIP, HEIGHT), Image.Resampling.BOX)


def _histogram(values: NDArray[np.float32]) -> Image.Image:
    counts, _ = np.histogram(values, BINS, (0, 1))
    bars = np.arange(HEIGHT, 0, -1)[:, None] <= HEIGHT * counts / counts.max()  # (HEIGHT, BINS)
    shades = np.where(bars, 60, 225).astype(np.uint8)
    return Image.fromarray(shades.repeat(HISTOGRAM // BINS, axis=1))
