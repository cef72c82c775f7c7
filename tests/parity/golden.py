"""Deterministic tensors that both sides of a parity check can rebuild from names alone.

A golden file stores no weights. It stores the parameter names and shapes of the published
layout, what went in, and what came out. Rebuild the weights with `state_dict`, the input
with `image_batch` or `normal`, load both, and compare what comes out.

Only NumPy is needed; wrap an array with `torch.from_numpy` to use it.
"""

from __future__ import annotations

import math
import zlib

import numpy as np


def _generator(name: str, salt: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))


def weight(name: str, shape: tuple[int, ...], dtype: str = "float32", salt: int = 0) -> np.ndarray:
    """The golden value of one parameter or buffer.

    Magnitudes keep a deep residual network finite: matrices are scaled by their fan-in, the
    1-D weights of normalisation layers sit near 0.6, variances lie in [0.5, 1.5).
    """
    if not dtype.startswith("float"):
        return np.zeros(shape, dtype=dtype)
    rng = _generator(name, salt)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, size=shape)
    elif leaf == "running_mean":
        value = 0.1 * rng.standard_normal(size=shape)
    elif len(shape) <= 1:
        value = rng.standard_normal(size=shape)
        value = 0.6 + 0.1 * value if leaf == "weight" else 0.05 * value
    else:
        fan_in = math.prod(shape[1:])
        gain = 2.0 if len(shape) == 4 else 1.0
        value = rng.standard_normal(size=shape)
        value *= math.sqrt(gain / fan_in)
    return np.asarray(value, dtype=dtype)


def state_dict(layout: dict[str, tuple[list[int], str]], salt: int = 0) -> dict[str, np.ndarray]:
    """Golden weights for a layout {name: (shape, dtype)}, such as a golden file's `layout`."""
    return {name: weight(name, tuple(shape), dtype, salt) for name, (shape, dtype) in layout.items()}


def normal(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """A float32 array of standard normal values."""
    return _generator(name, salt).standard_normal(size=shape).astype(np.float32)


def uniform(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """A float32 array of values in [0, 1)."""
    return _generator(name, salt).uniform(size=shape).astype(np.float32)


def labels(name: str, shape: tuple[int, ...], positive: float = 0.2, salt: int = 0) -> np.ndarray:
    """A float32 array of zeros and ones; a share of about `positive` are ones."""
    return (_generator(name, salt).uniform(size=shape) < positive).astype(np.float32)


def integers(name: str, shape: tuple[int, ...], high: int, salt: int = 0) -> np.ndarray:
    """An int64 array of values in [0, high)."""
    return _generator(name, salt).integers(0, high, size=shape, dtype=np.int64)


def image(name: str, height: int, width: int, salt: int = 0) -> np.ndarray:
    """A smooth uint8 RGB image of shape (height, width, 3), so resampling has something to show."""
    rng = _generator(name, salt)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(2, 9), rng.uniform(2, 9), rng.uniform(0, 2 * math.pi)
        channels.append(127.5 * (1 + np.sin(2 * math.pi * (fx * x + fy * y) + phase)))
    image = np.stack(channels, axis=-1) + rng.normal(0, 8, size=(height, width, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def image_batch(
    name: str, shape: tuple[int, int, int, int], salt: int = 0, mean: float = 0.0, std: float = 1.0
) -> np.ndarray:
    """A float32 batch (B, 3, H, W) of golden images in [0, 1], then (x - mean) / std.

    `name` holds `{i}`, which becomes the image's place in the batch.
    """
    batch, _, height, width = shape
    images = np.stack([image(name.replace("{i}", str(i)), height, width, salt) for i in range(batch)])
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return ((pixels - np.float32(mean)) / np.float32(std)).astype(np.float32)
