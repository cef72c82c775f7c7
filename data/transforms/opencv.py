"""OpenCV's arithmetic on uint8 pixels, with NumPy alone: what the papers' programs that use it see, to the level.

Pictures are (H, W, 3) uint8 RGB arrays, label maps (H, W) uint8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_WHOLE = slice(None)


# Sizes and resampling -------------------------------------------------------------------------------------------------


def rescaled(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of a picture that fits into `scale`, its sides' ratio kept (golden resize_sizes).

    Args:
        size: (height, width).
        scale: what the longer and the shorter side may measure at most, in either order.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def resize_picture(
    picture: Pixels, size: tuple[int, int], rows: slice = _WHOLE, columns: slice = _WHOLE, flip: bool = False
) -> Pixels:
    """Resize bilinearly without antialiasing, to the very pixels of OpenCV's INTER_LINEAR.

    Args:
        picture: (H, W, 3).
        size: (height, width) of the whole result.
        rows, columns: the part of the result that is wanted.
        flip: mirror that part.
    """
    if picture.shape[:2] == size:
        return picture[rows, columns][:, :: -1 if flip else 1]
    top, bottom, up, down = _taps(picture.shape[0], size[0], np.arange(size[0])[rows])
    left, right, near, far = _taps(picture.shape[1], size[1], np.arange(size[1])[columns][:: -1 if flip else 1])
    first = min(top[0], bottom[0]) if len(top) else 0
    source = picture[first : bottom[-1] + 1 if len(bottom) else 0]
    # 11-bit weights; 4 bits are dropped between the passes and 16 and 2 after them, as OpenCV does.
    wide = source[:, left] * near[:, None] + source[:, right] * far[:, None]  # (h', w, 3) int32
    wide >>= 4
    mixed = ((wide[top - first] * up[:, None, None]) >> 16) + ((wide[bottom - first] * down[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def resize_labels(
    labels: Pixels, size: tuple[int, int], rows: slice = _WHOLE, columns: slice = _WHOLE, flip: bool = False
) -> Pixels:
    """Resize a label map (H, W): pixel i of n takes the label at floor(i * length / n). Arguments as above."""
    down = _nearest(labels.shape[0], size[0], np.arange(size[0])[rows])
    across = _nearest(labels.shape[1], size[1], np.arange(size[1])[columns][:: -1 if flip else 1])
    return labels[down[:, None], across]


def _step(length: int, size: int) -> float:
    """Source pixels per pixel, divided as OpenCV does: length / size may differ in its last bit, and floor shows it."""
    return 1 / (size / length)


def _nearest(length: int, size: int, places: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.minimum((places * _step(length, size)).astype(np.intp), length - 1)


def _taps(
    length: int, size: int, places: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """The two source pixels of each of these places along a side resized to `size`, and their weights in 1/2048."""
    centre = ((places + 0.5) * _step(length, size) - 0.5).astype(np.float32)
    before = np.floor(centre).astype(np.intp)
    after = centre - before
    weights = (np.rint(share * 2048).astype(np.int32) for share in (1 - after, after))
    return np.clip(before, 0, length - 1), np.clip(before + 1, 0, length - 1), *weights


# Colours --------------------------------------------------------------------------------------------------------------


_LEVELS = np.maximum(np.arange(256), 1)
_SATURATION_OF = np.rint((255 << 12) / _LEVELS).astype(np.int32)
_HUE_OF = np.rint((180 << 12) / (6.0 * _LEVELS)).astype(np.int32)


def to_hsv(picture: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """RGB (H, W, 3) -> H in 0..179, S and V in 0..255, each (H, W), in OpenCV's fixed-point arithmetic."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), 2, 0)
    value = picture.max(axis=2).astype(np.int32)
    spread = value - picture.min(axis=2)
    saturation = (spread * _SATURATION_OF[value] + (1 << 11)) >> 12
    sector = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = (sector * _HUE_OF[spread] + (1 << 11)) >> 12
    return hue + 180 * (hue < 0), saturation, value


_MIXES = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
"""For each sixth of the colour circle, which of (value, p, q, t) red, green and blue take."""


def from_hsv(hue: NDArray[np.integer], saturation: NDArray[np.integer], value: NDArray[np.integer]) -> Pixels:
    """H in 0..179, S and V in 0..255, each (H, W) -> RGB (H, W, 3), in OpenCV's single precision."""
    turn = hue.astype(np.float32) * np.float32(6 / 180)
    sixth = np.floor(turn).astype(np.intp)
    rest = turn - sixth.astype(np.float32)
    grey, strength = (part.astype(np.float32) * np.float32(1 / 255) for part in (value, saturation))
    parts = np.stack(
        [grey, grey * (1 - strength), grey * (1 - strength * rest), grey * (1 - strength * (1 - rest))], axis=2
    )
    mixed = np.take_along_axis(parts, _MIXES[sixth % 6], axis=2) * np.float32(255)
    # OpenCV truncates in its vector code (32 pixels at a time) and rounds what is left of each row.
    rounded = mixed.shape[1] // 32 * 32
    np.rint(mixed[:, rounded:], out=mixed[:, rounded:])
    return mixed.astype(np.uint8)
