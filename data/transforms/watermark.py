"""ImageNet-W: the watermark that many of ImageNet's images of cartons bear, drawn over any image.

Li et al.: "A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others", CVPR 2023; text,
place, opacity and size are those of its program, which draws with Source Han Serif SC ExtraLight. No font is shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attnbias.data.errors import DataError
from attnbias.data.transforms.basic import Transform
from attnbias.data.transforms.corruptions import Changed

TEXT = "\u6377\u5f84" * 3
"""Chinese: shortcut, three times."""
NO_CHARACTER = "\uffff"
"""Drawn as a font draws what it has not: a box, or nothing."""
LEFT, TOP = 0.01, 0.4
"""Where it begins, of the image's width and height."""
OPACITY = 0.5
SIZES = {224: 36, 384: 62, 512: 82, 518: 84}
"""Side of the image -> size of the font, both in pixels; of other sides the 6.22th part."""


class Watermarked(Changed):
    """Images under the watermark, in white.

    Raises:
        DataError: the file is missing, or holds no font with the text's characters.
    """

    def __init__(self, transform: Transform, font: Path, normalize: str) -> None:
        super().__init__(transform, normalize)
        self.font = font
        plain = self._font_of(SIZES[224])
        missing = bytes(plain.getmask(NO_CHARACTER))
        if absent := [each for each in dict.fromkeys(TEXT) if bytes(plain.getmask(each)) == missing]:
            raise DataError(
                f"font {font} has no {' and no '.join(absent)}; expected a Chinese one, as Source Han Serif"
            )

    def change(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw the watermark over an image."""
        height, width, _ = pixels.shape
        text = Image.new("RGBA", (width, height), (255, 255, 255, 0))
        font = self._font_of(SIZES.get(width, max(int(width / 6.22), 1)))
        ImageDraw.Draw(text).text((LEFT * width, TOP * height), TEXT, (255, 255, 255, round(OPACITY * 255)), font)
        return np.asarray(Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), text).convert("RGB")).copy()

    def _font_of(self, size: int) -> ImageFont.FreeTypeFont:
        try:
            return ImageFont.truetype(str(self.font), size)
        except OSError as error:
            raise DataError(f"font {self.font} cannot be read ({error}); expected a .otf or .ttf file") from None
