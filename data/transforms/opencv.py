"""OpenCV's arithmetic on uint8 pixels, with NumPy alone: what the papers' programs that use it see, to the level.

Images are (H, W, 3) uint8 RGB arrays, label maps (H, W) uint8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_WHOLE = slice(None)

BLOCK = 32
"""Rows that are resized at a time, so that what one step leaves is in the cache when the next one takes it."""


# Sizes and resampling -------------------------------------------------------------------------------------------------


def rescaled(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an image that fits into `scale`, its sides' ratio kept (golden resize_sizes), a
    line of pixels at least.

    Args:
        size: (height, width).
        scale: what the longer and the shorter side may measure at most, in either order.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resize_image(
    image: Pixels, size: tuple[int, int], rows: slice = _WHOLE, columns: slice = _WHOLE, flip: bool = False
) -> Pixels:
    """Resize bilinearly without antialiasing, to the very pixels of OpenCV's INTER_LINEAR.

    Args:
        image: (H, W, 3).
        size: (height, width) of the whole result.
        rows, columns: the part of the result that is wanted.
        flip: mirror that part.
    """
    if image.shape[:2] == size:
        return image[rows, columns][:, :: -1 if flip else 1]
    top, bottom, up, down = _taps(image.shape[0], size[0], np.arange(size[0])[rows])
    left, right, near, far = _taps(image.shape[1], size[1], np.arange(size[1])[columns][:: -1 if flip else 1])
    first, last = (top[0], bottom[-1] + 1) if len(top) else (0, 0)
    source = image[first:last].reshape(last - first, 3 * image.shape[1])
    # Rows are flat, so that a tap of a pixel is one of each of its three channels.
    left, right = ((3 * taps[:, None] + np.arange(3)).ravel() for taps in (left, right))
    near, far = near.repeat(3), far.repeat(3)
    # 11-bit weights; 4 bits are dropped between the passes and 16 and 2 after them, as OpenCV does.
    wide = np.empty((last - first, len(left)), np.int32)
    for start in range(0, len(wide), BLOCK):
        block = slice(start, start + BLOCK)
        np.multiply(source[block].take(left, axis=1), near, out=wide[block])
        wide[block] += source[block].take(right, axis=1) * far
        wide[block] >>= 4
    resized = np.empty((len(top), len(left)), np.uint8)
    for start in range(0, len(resized), BLOCK):
        block = slice(start, start + BLOCK)
        mixed, below = wide[top[block] - first], wide[bottom[block] - first]
        mixed *= up[block, None]
        mixed >>= 16
        below *= down[block, None]
        below >>= 16
        mixed += below
        mixed += 2
        mixed >>= 2
        resized[block] = mixed
    return resized.reshape(len(top), len(left) // 3, 3)


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


def _nearest(length: int, size: int, positions: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.minimum((positions * _step(length, size)).astype(np.intp), length - 1)


def _taps(
    length: int, size: int, positions: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """The two source pixels of each of these positions along a side resized to `size`, and their weights in 1/2048."""
    centre = ((positions + 0.5) * _step(length, size) - 0.5).astype(np.float32)
    before = np.floor(centre).astype(np.intp)
    after = centre - before
    weights = (np.rint(share * 2048).astype(np.int32) for share in (1 - after, after))
    return np.clip(before, 0, length - 1), np.clip(before + 1, 0, length - 1), *weights


# Colours --------------------------------------------------------------------------------------------------------------


_LEVELS = np.maximum(np.arange(256), 1)
_SATURATION_OF = np.rint((255 << 12) / _LEVELS).astype(np.int32)
_HUE_OF = np.rint((180 << 12) / (6.0 * _LEVELS)).astype(np.int32)

_UNIT = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
_TURN = np.arange(180, dtype=np.float32) * np.float32(6 / 180)
_SIXTH = np.floor(_TURN).astype(np.intp)
_REST = _TURN - _SIXTH.astype(np.float32)
_MIXES = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])[_SIXTH]
"""For each hue, which of (value, p, q, t) red, green and blue take."""
_SHIFTS = np.ascontiguousarray(8 * _MIXES.T.astype(np.uint32))
"""For each channel and hue, the bit at which that level begins where the four lie in 32 bits."""


def to_hsv(image: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int32], Pixels]:
    """RGB (H, W, 3) -> H in 0..179, S and V in 0..255, each (H, W), in OpenCV's fixed-point arithmetic."""
    red, green, blue = (np.ascontiguousarray(image[..., channel]) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    saturation = (spread * _SATURATION_OF[value] + (1 << 11)) >> 12
    r, g, b, d = (plane.astype(np.int16) for plane in (red, green, blue, spread))
    sector = np.where(value == red, g - b, np.where(value == green, b - r + 2 * d, r - g + 4 * d))
    hue = (sector * _HUE_OF[spread] + (1 << 11)) >> 12
    return hue + 180 * (hue < 0), saturation, value


def from_hsv(hue: NDArray[np.integer], saturation: NDArray[np.integer], value: NDArray[np.integer]) -> Pixels:
    """H in 0..179, S and V in 0..255, each (H, W) -> RGB (H, W, 3), in OpenCV's single precision."""
    rest, strength, bright = _REST[hue], _UNIT[saturation], _UNIT[value]
    shares = (bright, bright * (1 - strength), bright * (1 - strength * rest), bright * (1 - strength * (1 - rest)))
    levels = np.zeros(hue.shape, np.uint32)
    for number, share in enumerate(shares):
        levels |= _truncated(share * np.float32(255)).astype(np.uint32) << np.uint32(8 * number)
    image = np.empty((*hue.shape, 3), np.uint8)
    for channel, shifts in enumerate(_SHIFTS):
        np.copyto(image[..., channel], levels >> shifts.take(hue), casting="unsafe")  # what lies above is cut off
    return image


def _truncated(levels: NDArray[np.float32]) -> Pixels:
    """To uint8 as OpenCV does: its vector code, 32 pixels at a time, truncates; what is left of each row is rounded."""
    rounded = levels.shape[1] // 32 * 32
    np.rint(levels[:, rounded:], out=levels[:, rounded:])
    return levels.astype(np.uint8)
