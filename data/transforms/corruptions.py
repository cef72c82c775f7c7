"""Common corruptions made on the fly: the 15 types and 5 severities of ImageNet-C, for any image.

Hendrycks & Dietterich: "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019. The
published set is made of ImageNet's validation images cut to 224 x 224 and stored as JPEG; nothing here is stored.
Strengths are the published ones at 224 pixels; lengths (radii, shifts) shrink or grow with the image's shorter side.

Where the images differ from the published ones, beside the random draws and the JPEG storage:
- frost: the published photographs of frost are not shipped; ridged fractal noise in their place;
- glass_blur: all pixels take a neighbour's place at once, not by swaps one after the other;
- motion_blur, snow: a one-sided Gaussian along the line, in place of ImageMagick's;
- elastic_transform: affine and local displacement in one resampling, not in two;
- defocus_blur, gaussian blurs: kernels and borders are our own, by the same formulas.
Figures on these images stand for themselves: give them beside figures made the same way, not beside published mCE.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from attnbias.data.transforms.basic import ToNormalizedTensor, Transform, normalization

S = TypeVar("S")
Array = NDArray[np.floating]
"""An image (H, W, 3) or a layer (H, W), in [0, 1] before and about there after."""
Corruption = Callable[[Array, np.random.Generator], Array]

PUBLISHED_SIZE = 224
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(pixels: NDArray[np.uint8], corruption: str, severity: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Corrupt an image (H, W, 3) by a name of `CORRUPTIONS`, at severity 1 to 5."""
    corrupted = CORRUPTIONS[corruption][severity - 1](pixels.astype(np.float32) / 255, rng)
    return np.asarray(np.rint(np.clip(corrupted, 0, 1) * 255), dtype=np.uint8)


class Changed(ABC):
    """Another transform's images, changed at the size that the network sees.

    Wraps a method's evaluation transform: PIL image -> normalised tensor (3, H, W); or an image and its label map ->
    these as a pair, whose label map stays. Draws follow NumPy's global generator, which `ImageDataset` seeds by sample,
    so that an image is changed alike in every run.
    """

    def __init__(self, transform: Transform, normalize: str) -> None:
        self.transform = transform
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in normalization(normalize))

    @abstractmethod
    def change(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The changed image of one (H, W, 3)."""

    def __call__(self, *original: Any) -> Any:
        """Transform, change, normalise again."""
        seen = self.transform(*original)
        return self._changed(seen) if isinstance(seen, Tensor) else (self._changed(seen[0]), *seen[1:])

    def _changed(self, image: Tensor) -> Tensor:
        image = image * self.std + self.mean
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()  # (H, W, 3)
        changed = torch.from_numpy(self.change(pixels))
        return (changed.permute(2, 0, 1).float() / 255 - self.mean) / self.std


class Corrupted(Changed):
    """Images under one of `CORRUPTIONS`."""

    def __init__(self, transform: Transform, corruption: str, severity: int, normalize: str) -> None:
        super().__init__(transform, normalize)
        self.corruption, self.severity = corruption, severity

    def change(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Corrupt an image."""
        return corrupt(pixels, self.corruption, self.severity, np.random.default_rng(np.random.randint(2**31)))


def precropped_transform(image_size: int, normalize: str) -> v2.Compose:
    """The transform of the published corrupted images: they are cut already, so the centre 224 x 224 is taken as it
    is (black around smaller ones); resized only for a network of another size."""
    steps: list[Transform] = [v2.CenterCrop(PUBLISHED_SIZE)]
    if image_size != PUBLISHED_SIZE:
        steps.append(v2.Resize((image_size, image_size), interpolation=InterpolationMode.BICUBIC))
    return v2.Compose([*steps, ToNormalizedTensor(*normalization(normalize))])


# Noise ----------------------------------------------------------------------------------------------------------------


def gaussian_noise(x: Array, scale: float, rng: np.random.Generator) -> Array:
    """Add normal noise."""
    return x + scale * rng.standard_normal(x.shape, dtype=np.float32)


def shot_noise(x: Array, photons: float, rng: np.random.Generator) -> Array:
    """Count photons: Poisson noise."""
    return (rng.poisson(x * photons) / photons).astype(np.float32)


def impulse_noise(x: Array, share: float, rng: np.random.Generator) -> Array:
    """Set a share of the values to black or white."""
    draws = rng.random(x.shape)
    return np.where(draws < share / 2, 0, np.where(draws < share, 1, x)).astype(np.float32)


# Blur -----------------------------------------------------------------------------------------------------------------


def defocus_blur(x: Array, strength: tuple[float, float], rng: np.random.Generator) -> Array:
    """Blur with a disk; `strength` is its radius and the softness of its edge."""
    radius, softness = strength[0] * _scale(x), strength[1]
    reach = max(math.ceil(radius), 1)
    y, x_axis = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.pad((np.hypot(y, x_axis) <= max(radius, 1)).astype(np.float32), 2)
    disk = gaussian_blur(disk, softness)
    kernel = torch.from_numpy(disk / disk.sum())[None, None]
    pad = disk.shape[0] // 2
    channels = F.pad(_channels(x), (pad,) * 4, mode="replicate")
    return _image(F.conv2d(channels, kernel))


def glass_blur(x: Array, strength: tuple[float, float, int], rng: np.random.Generator) -> Array:
    """Look through frosted glass: blur, move pixels about locally (several times), blur."""
    sigma, reach, rounds = strength[0] * _scale(x), max(round(strength[1] * _scale(x)), 1), strength[2]
    x = gaussian_blur(x, sigma)
    height, width = x.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rounds):
        moves = rng.integers(-reach, reach + 1, (2, height, width))
        x = x[np.clip(rows + moves[0], 0, height - 1), np.clip(columns + moves[1], 0, width - 1)]
    return gaussian_blur(x, sigma)


def motion_blur(x: Array, strength: tuple[float, float], rng: np.random.Generator) -> Array:
    """Move the camera along a line within 45 degrees of the horizontal; `strength` is length and sigma."""
    return _smear(x, strength[0] * _scale(x), strength[1] * _scale(x), rng.uniform(-45, 45))


def zoom_blur(x: Array, strength: tuple[float, float], rng: np.random.Generator) -> Array:
    """Zoom while the shutter is open; `strength` is the largest zoom and the step between exposures."""
    zooms = np.arange(1, *strength)
    return (x + sum(_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# Weather --------------------------------------------------------------------------------------------------------------


def snow(x: Array, strength: tuple[float, ...], rng: np.random.Generator) -> Array:
    """Whiten the scene and let flakes fall, smeared along their way."""
    mean, spread, zoom, threshold, length, sigma, kept = strength
    layer = _zoom(rng.normal(mean, spread, x.shape[:2]).astype(np.float32), zoom)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = _smear(layer, length * _scale(x), sigma * _scale(x), rng.uniform(-135, -45))[..., None]
    grey = (x @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    whitened = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return whitened + layer + np.rot90(layer, 2)


def frost(x: Array, strength: tuple[float, float], rng: np.random.Generator) -> Array:
    """Lay ice crystals over the image; `strength` is what stays of the image and what comes of the ice."""
    ridges = 1 - np.abs(2 * _plasma(x.shape[:2], 1.2, rng) - 1)
    ice = (ridges**2)[..., None] * np.array([0.85, 0.95, 1.0], dtype=np.float32)
    return strength[0] * x + strength[1] * ice


def fog(x: Array, strength: tuple[float, float], rng: np.random.Generator) -> Array:
    """Add fractal haze; `strength` is its density and how fast its detail fades."""
    density, decay = strength
    brightest = x.max()
    return (x + density * _plasma(x.shape[:2], decay, rng)[..., None]) * brightest / (brightest + density)


def brightness(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Raise the value of HSV, hue and saturation kept."""
    value = x.max(-1, keepdims=True)
    raised = np.minimum(value + amount, 1)
    return np.where(value > 0, x * (raised / np.maximum(value, 1e-6)), raised)


# Digital --------------------------------------------------------------------------------------------------------------


def contrast(x: Array, factor: float, rng: np.random.Generator) -> Array:
    """Pull each channel towards its mean."""
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * factor + mean


def elastic_transform(x: Array, strength: tuple[float, float, float], rng: np.random.Generator) -> Array:
    """Stretch by a random affine map and by smooth local displacements; in shares of the side: size of the
    displacement, its smoothness, size of the affine map's jitter."""
    height, width = x.shape[:2]
    side = min(height, width) * 244 / 224  # the published program takes 244 for the side
    size, smoothness, jitter = (value * side for value in strength)
    centre, arm = np.array([width, height]) / 2, min(height, width) / 3
    corners = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-jitter, jitter, corners.shape)
    affine = np.linalg.solve(np.c_[moved, np.ones(3)], corners)  # (3, 2): where a place of the result comes from
    shifts = [size * gaussian_blur(rng.uniform(-1, 1, x.shape[:2]).astype(np.float32), smoothness) for _ in range(2)]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    positions = np.stack([columns + shifts[0], rows + shifts[1], np.ones_like(rows)], axis=-1) @ affine
    grid = torch.from_numpy((2 * positions + 1) / [width, height] - 1).float()[None]  # (1, H, W, 2) in [-1, 1]
    warped = F.grid_sample(
        _channels(x).transpose(0, 1), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return _image(warped.transpose(0, 1))


def pixelate(x: Array, factor: float, rng: np.random.Generator) -> Array:
    """Shrink the image and enlarge it again, with box filters."""
    image = _pillow(x)
    width, height = image.size
    small = image.resize((max(int(width * factor), 1), max(int(height * factor), 1)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


def jpeg_compression(x: Array, quality: int, rng: np.random.Generator) -> Array:
    """Store as JPEG of low quality."""
    file = io.BytesIO()
    _pillow(x).save(file, "JPEG", quality=quality)
    with Image.open(file) as stored:
        return np.asarray(stored, dtype=np.float32) / 255


def _strengths(function: Callable[[Array, S, np.random.Generator], Array], *strengths: S) -> tuple[Corruption, ...]:
    """A corruption at each of its severities."""

    def at(strength: S) -> Corruption:
        return lambda x, rng: function(x, strength, rng)

    return tuple(map(at, strengths))


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "gaussian_noise": _strengths(gaussian_noise, 0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _strengths(shot_noise, 60, 25, 12, 5, 3),
    "impulse_noise": _strengths(impulse_noise, 0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": _strengths(defocus_blur, (3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": _strengths(glass_blur, (0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": _strengths(motion_blur, (10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": _strengths(zoom_blur, (1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": _strengths(
        snow,
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": _strengths(frost, (1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": _strengths(fog, (1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": _strengths(brightness, 0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _strengths(contrast, 0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": _strengths(
        elastic_transform, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
    ),
    "pixelate": _strengths(pixelate, 0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": _strengths(jpeg_compression, 25, 18, 15, 10, 7),
}
"""Each corruption's function and its five strengths, in the paper's order: noise, blur, weather, digital."""


# Parts ----------------------------------------------------------------------------------------------------------------


def gaussian_blur(x: Array, sigma: float) -> Array:
    """Blur an image or a layer with a Gaussian, borders mirrored (as often as a wide one needs)."""
    if sigma <= 0:
        return x
    reach = max(math.ceil(4 * sigma), 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    for axis, kernel in ((0, taps.view(1, 1, -1, 1)), (1, taps.view(1, 1, 1, -1))):
        border = [(reach, reach) if position == axis else (0, 0) for position in range(x.ndim)]
        x = _image(F.conv2d(_channels(np.pad(x, border, mode="symmetric")), kernel))
    return x


def _smear(x: Array, length: float, sigma: float, angle: float) -> Array:
    """Average an image with copies of itself along a line (degrees from the horizontal), fading as half a Gaussian."""
    distances = np.arange(max(round(length), 1) + 1)
    weights = np.exp(-0.5 * (distances / max(sigma, 0.5)) ** 2).astype(np.float32)
    weights /= weights.sum()
    height, width = x.shape[:2]
    rows = np.rint(np.sin(np.radians(angle)) * distances).astype(int)
    columns = np.rint(np.cos(np.radians(angle)) * distances).astype(int)
    smeared = np.zeros_like(x)
    for weight, down, right in zip(weights, rows, columns, strict=True):
        moved = x[np.clip(np.arange(height) + down, 0, height - 1)]
        smeared += weight * moved[:, np.clip(np.arange(width) + right, 0, width - 1)]
    return smeared


def _zoom(x: Array, factor: float) -> Array:
    """Enlarge the centre by a factor, bilinearly, to the same size."""
    height, width = x.shape[:2]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    centre = _channels(x[top : top + rows, left : left + columns])
    return _image(F.interpolate(centre, (height, width), mode="bilinear", align_corners=True))


def _plasma(shape: tuple[int, ...], decay: float, rng: np.random.Generator) -> Array:
    """Fractal noise (H, W) in [0, 1] by diamonds and squares that wrap around; detail fades by decay ** 2 a level."""
    side = 2 ** math.ceil(math.log2(max(shape)))
    field = np.zeros((side, side), dtype=np.float32)
    step, amplitude = side, 1.0
    while step >= 2:
        half = step // 2

        def noise(count: int = side // step, size: float = amplitude) -> Array:
            return rng.uniform(-size, size, (count, count)).astype(np.float32)

        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, 0)
        middles = (across + np.roll(across, -1, 1)) / 4 + noise()
        field[half::step, half::step] = middles
        along = corners + np.roll(corners, -1, 1)
        field[::step, half::step] = (along + middles + np.roll(middles, 1, 0)) / 4 + noise()
        field[half::step, ::step] = (across + middles + np.roll(middles, 1, 1)) / 4 + noise()
        step, amplitude = half, amplitude / decay**2
    field = field[: shape[0], : shape[1]]
    field = field - field.min()
    return field / field.max()


def _scale(x: Array) -> float:
    return min(x.shape[:2]) / PUBLISHED_SIZE


def _channels(x: Array) -> Tensor:
    """(H, W, 3) or (H, W) -> (channels, 1, H, W)."""
    layers = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return layers[None, None] if layers.ndim == 2 else layers.permute(2, 0, 1)[:, None]


def _image(channels: Tensor) -> Array:
    """Undo `_channels`."""
    layers: Array = channels[:, 0].permute(1, 2, 0).numpy()
    return layers[..., 0] if layers.shape[-1] == 1 else layers


def _pillow(x: Array) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8))
