"""The plain pipelines that the papers share: square resize, flip, colour jitter, random resized crop, normalisation.

Everything is torchvision v2 on PIL images. Pillow's resize is antialiased; on uint8 tensors, which all of it takes
too, a resize differs by up to 1/255 from what the papers' programs saw. A pipeline also moves tv_tensors boxes given
beside an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from attnbias.data.to_device import to_device

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    # LSAS's program uses these (CIFAR-10) figures for CIFAR-100 too.
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def normalization(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return (mean, std) per RGB channel, on pixels in [0, 1], of a recipe's `normalize` value."""
    return NORMALIZATIONS[name]


def square_resize(image_size: int, interpolation: str = "bilinear") -> v2.Transform:
    """Squeeze the whole image into a square by Pillow's antialiased filter; the aspect ratio is not kept."""
    return v2.Resize((image_size, image_size), interpolation=InterpolationMode(interpolation), antialias=True)


Transform = Callable[..., Any]
"""PIL image -> float tensor (3, H, W); with boxes or label maps beside it, the same of those."""

Params = dict[str, Any]
"""What a step of torchvision's draws once for all of its inputs."""


class ShortSideResize(v2.Resize):
    """Resize the shorter side to `size`, keeping the sides' ratio; antialiased. A crop of the centre comes next.

    Of an image more than `THIN` times as long as it is wide only the middle is taken: a line of 4000 pixels, resized
    whole, would fill a gigabyte to show its central square.
    """

    THIN = 32

    def __init__(self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        super().__init__(size, interpolation=interpolation, antialias=True)

    def make_params(self, flat_inputs: list[object]) -> Params:
        """Height and width of the middle that is taken, None where that is the whole."""
        sides = v2.functional.get_size(flat_inputs[0])
        longest = self.THIN * min(sides)
        return {"middle": [min(side, longest) for side in sides] if max(sides) > longest else None}

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Transform the image, or what is given beside it."""
        if params["middle"] is not None:
            inpt = self._call_kernel(v2.functional.center_crop, inpt, params["middle"])
        return super().transform(inpt, params)


class RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's, of a tensor twice as fast: the part is copied first, its channels side by side.

    As a view of the image it would be resized channel by channel, to the same pixels, and left with channels apart.
    """

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Transform the image, or what is given beside it."""
        if v2.functional.is_pure_tensor(inpt):
            part = v2.functional.crop(inpt, **params)
            inpt = part.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            params = params | {"top": 0, "left": 0}
        resized: Tensor = super().transform(inpt, params)
        return resized


class ToBytes(v2.Transform):
    """PIL image or uint8 tensor -> uint8 tensor (3, H, W); of an image, its channels lie side by side. Boxes pass."""

    _transformed_types = (Image.Image, v2.functional.is_pure_tensor)

    def transform(self, inpt: Image.Image | Tensor, params: Params) -> Tensor:
        return inpt if isinstance(inpt, Tensor) else torch.from_numpy(np.array(inpt)).permute(2, 0, 1)


class ToNormalizedTensor(ToBytes):
    """PIL image or uint8 tensor -> float32 tensor (3, H, W): pixels / 255, then (x - mean) / std. Boxes pass.

    One step instead of v2's four (ToImage, ToDtype, Normalize, ToPureTensor), with the same values: on small images
    their dispatch costs more than decoding the JPEG.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self._constants = self._on(torch.device("cpu"))

    def transform(self, inpt: Image.Image | Tensor, params: Params) -> Tensor:
        return self.normalize(super().transform(inpt, params))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Bytes (..., 3, H, W) -> float32 on their device, contiguous: of a batch, bit for bit those of its images.

        255 is a tensor there, as the others are: of a plain number CUDA would multiply by the rounded 1 / 255.
        """
        if self._constants[0].device != pixels.device:
            self._constants = self._on(pixels.device)
        normalized = torch.empty(pixels.shape, device=pixels.device)
        # On a CPU image by image, each of which stays in the cache; a GPU takes all at once.
        whole = pixels.ndim == 3 or pixels.device.type != "cpu"
        for source, place in [(pixels, normalized)] if whole else zip(pixels, normalized, strict=True):
            white, mean, std = self._constants
            place.copy_(source).div_(white).sub_(mean).div_(std)
        return normalized

    def _on(self, device: torch.device) -> list[Tensor]:
        """White (), and the mean and std of each channel (3, 1, 1)."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return [to_device(value, device) for value in (torch.tensor(255.0), mean, std)]


def last_normalization(transform: Transform) -> ToNormalizedTensor | None:
    """The last step of a pipeline where it normalises; others end with noise, or a border of the mean colour."""
    if isinstance(transform, v2.Compose | transforms.Compose) and isinstance(
        transform.transforms[-1], ToNormalizedTensor
    ):
        return transform.transforms[-1]
    return None


def without_normalization(transform: v2.Compose | transforms.Compose) -> v2.Compose:
    """A pipeline whose last step normalises, but that gives bytes: uint8 (3, H, W)."""
    return v2.Compose([*transform.transforms[:-1], ToBytes()])


class RandomShift(v2.Transform):
    """Move the image by up to `pixels` each way, drawn evenly; what comes into view is black."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def make_params(self, flat_inputs: list[object]) -> Params:
        dy, dx = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"top": dy, "left": dx, "height": height, "width": width}

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        return self._call_kernel(v2.functional.crop, inpt, **params)


def fitted_square(
    image_size: int, interpolation: str = "bilinear", crop_ratio: float | None = None
) -> list[v2.Transform]:
    """Make an image square: squeezed, or the centre of it, `crop_ratio` = the crop's side over the resized short side.

    The short side becomes the whole part of image_size / crop_ratio, as in timm.
    """
    if crop_ratio is None:
        return [square_resize(image_size, interpolation)]
    short = ShortSideResize(int(image_size / crop_ratio + 1e-6), InterpolationMode(interpolation))
    return [short, v2.CenterCrop(image_size)]


def eval_transform(
    image_size: int, normalize: str, interpolation: str = "bilinear", crop_ratio: float | None = None
) -> v2.Compose:
    """The evaluation pipeline of CSRA and IDA: the papers' squeeze the whole image into a square."""
    square = fitted_square(image_size, interpolation, crop_ratio)
    return v2.Compose([*square, ToNormalizedTensor(*normalization(normalize))])


def train_transform(
    image_size: int,
    normalize: str,
    *,
    flip: bool = True,
    color_jitter: bool = False,
    resized_crop: bool = True,
    shift: int = 0,
    interpolation: str = "bilinear",
    crop_ratio: float | None = None,
) -> v2.Compose:
    """CSRA's training pipeline, always in this order: flip, colour jitter, random resized crop, square resize.

    CSRA's defaults for VOC and COCO are flip and resized crop; for WIDER-Attribute only flip (section 4.4 of its
    description; golden prep_train_params).

    Args:
        flip: mirror with probability 0.5.
        color_jitter: brightness, contrast and saturation by a factor in [0.5, 1.5]; no hue.
        resized_crop: a part of 70 to 100 % of the area, aspect 3/4 to 4/3.
        shift: move the resized image by up to this many pixels each way (ours, for the demo).
        interpolation: of every resize.
        crop_ratio: as in evaluation, where no random part is taken; None squeezes the whole image.
    """
    steps: list[Transform] = []
    if flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if color_jitter:
        steps.append(v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5))
    if resized_crop:
        mode = InterpolationMode(interpolation)
        size = (image_size, image_size)
        steps.append(RandomResizedCrop(size, scale=(0.7, 1.0), interpolation=mode, antialias=True))
    steps += fitted_square(image_size, interpolation, None if resized_crop else crop_ratio)
    if shift:
        steps.append(RandomShift(shift))
    return v2.Compose([*steps, ToNormalizedTensor(*normalization(normalize))])
