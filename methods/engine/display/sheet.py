"""One sheet a photograph: its maps by model and class, ready for a paper or a README. With Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

CELL, HEAD, WORDS, GAP = 224, 22, 260, 8
"""Pixels of a sheet: an image's longer side, the row of names above, the column of words, the space around each."""
LETTERS = 38
"""Letters in a line of that column."""


def draw_sheet(
    image: Image.Image,
    columns: Sequence[str],
    rows: Sequence[str],
    overlays: Sequence[Sequence[Image.Image]],
    words: Sequence[Sequence[str]],
) -> Image.Image:
    """Draw one row per class or question: the image, each column's overlay, its name, and what the models say to it.

    Args:
        columns: names above the overlays.
        overlays: for each row, one a column, all of the image's proportions.
        words: for each row, lines of what is known of the class and of what the models say.
    """
    scale = CELL / max(image.size)
    cell = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    width = (1 + len(columns)) * (cell[0] + GAP) + GAP + WORDS
    lines = [
        [part for words_of in (name, "", *said) for part in wrap(words_of, LETTERS) or [""]]
        for name, said in zip(rows, words, strict=True)
    ]
    heights = [max(cell[1], 16 * len(each)) for each in lines]
    sheet = Image.new("RGB", (width, HEAD + sum(heights) + GAP * len(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for position, name in enumerate(("image", *columns)):
        pen.text((GAP + position * (cell[0] + GAP), 3), name, font=font, fill="black")
    top = HEAD
    for row, each, height in zip(overlays, lines, heights, strict=True):
        for position, drawn in enumerate((image, *row)):
            sheet.paste(drawn.resize(cell, Image.Resampling.BICUBIC), (GAP + position * (cell[0] + GAP), top))
        pen.multiline_text((width - WORDS, top), "\n".join(each), font=font, fill="black", spacing=3)
        top += height + GAP
    return sheet
