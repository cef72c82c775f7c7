"""The DeiT recipe's augmentation on timm's parts: transforms, mixing of batches, repeated augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import auto_augment
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.mixup import Mixup, mixup_target
from timm.data.transforms import MaybeToTensor
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from attnbias.data.transforms.basic import (
    Params,
    ToNormalizedTensor,
    Transform,
    eval_transform,
    fitted_square,
    normalization,
    train_transform,
)
from attnbias.methods.absvit.attention import squeezed
from attnbias.methods.absvit.recipe import AbSViTRecipe
from attnbias.methods.engine.errors import UsageError

SMALL = 32
"""Images up to this side are cropped with a border in training and not resized in evaluation (CIFAR)."""


def training_transform(recipe: AbSViTRecipe) -> Transform:
    """PIL image -> augmented tensor (3, H, W). Draws from python's, NumPy's and torch's global generators."""
    if recipe.pipeline == "shift":
        return train_transform(recipe.image_size, recipe.normalize, flip=False, resized_crop=False, shift=recipe.shift)
    mean, std = normalization(recipe.normalize)
    chain = create_transform(
        recipe.image_size,
        is_training=True,
        scale=(recipe.crop_area, 1.0),
        hflip=recipe.flip,
        color_jitter=0.0 if recipe.rand_augment else recipe.color_jitter,  # no effect beside a policy, as in timm
        auto_augment=recipe.rand_augment,
        interpolation=recipe.interpolation,
        mean=mean,
        std=std,
        re_prob=recipe.random_erasing,
        re_mode=recipe.erasing_mode,
        re_count=recipe.erasing_count,
    )
    steps: list[object] = chain.transforms
    first = next(number for number, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    steps[first : first + 2] = [ToNormalizedTensor(mean, std)]  # timm's two steps to the same bits, in fewer passes
    if recipe.image_size <= SMALL:
        steps[0] = v2.RandomCrop(recipe.image_size, padding=4)
    for operation in _drawn_operations(steps):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = posterize
    return chain


def _drawn_operations(steps: list[object]) -> Iterator[auto_augment.AugmentOp]:
    """The operations that timm's policies draw from: of RandAugment and AugMix in `ops`, of AutoAugment in `policy`."""
    for step in steps:
        yield from getattr(step, "ops", ())
        for pair in getattr(step, "policy", ()):
            yield from pair


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm's, under its name: keep `bits` bits a channel. The strongest keeps none: black, which Pillow 13 refuses."""
    if bits == 0:
        return image.point(lambda level: 0)
    return ImageOps.posterize(image, bits)


def evaluation_transform(recipe: AbSViTRecipe) -> v2.Compose:
    """Shorter side to 256/224 of the input size (bicubic), centre crop, normalise, or as pretrained weights want it;
    boxes move along."""
    size = recipe.image_size
    if recipe.pipeline == "shift":
        return eval_transform(size, recipe.normalize)
    geometry: list[Transform] = []
    if recipe.resize == "squeeze":
        return v2.Compose([ToNormalizedTensor(*normalization(recipe.normalize)), Squeeze(size)])
    if size > SMALL:
        geometry = [*fitted_square(size, recipe.interpolation, recipe.crop_ratio)]
    return v2.Compose([*geometry, ToNormalizedTensor(*normalization(recipe.normalize))])


class Squeeze(v2.Transform):
    """Normalised image (3, H, W) -> (3, size, size), as the program's demo makes it; boxes move along."""

    _transformed_types = (Tensor, tv_tensors.BoundingBoxes)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Resize the image, or its boxes."""
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return v2.functional.resize(inpt, [self.size, self.size])
        return squeezed(inpt, self.size)


class BatchMixing(Mixup):
    """timm's Mixup, for odd batches (but in mode `pair`) and for multi-label targets with unknown labels too.

    The partner of an image is the one at the mirrored position of the batch. Draws come from NumPy's global generator.
    """

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (B, 3, H, W) in place and turn targets (B,) or (B, C) into smoothed mixed rows (B, C).

        Raises:
            UsageError: an odd batch, in mode `pair`.
        """
        if self.mode == "pair" and len(images) % 2:
            raise UsageError(f"--mixup-mode pair mixes two images at a time, and a batch has {len(images)}")
        mix = {"batch": self._mix_batch, "pair": self._mix_pair, "elem": self._mix_elem}[self.mode]
        share = mix(images)
        if targets.ndim == 1:
            return images, mixup_target(targets, self.num_classes, share, self.label_smoothing)
        unknown = (targets < 0) | (targets < 0).flip(0)
        mixed = mixup_target(targets, self.num_classes, share, self.label_smoothing, multi_label=True)
        return images, mixed.masked_fill(unknown, -1)


def batch_mixing(recipe: AbSViTRecipe, num_classes: int) -> BatchMixing | None:
    """Build the recipe's mixing, or None where both mixup and CutMix are off."""
    if not (recipe.mixup or recipe.cutmix or recipe.cutmix_range):
        return None
    return BatchMixing(
        cutmix_minmax=recipe.cutmix_range,
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_probability,
        switch_prob=recipe.switch_probability,
        mode=recipe.mixup_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def drawn_from(
    mixing: BatchMixing, images: Tensor, targets: Tensor, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix with draws that only `generator` decides: timm draws from NumPy's global generator, which is put back."""
    state = np.random.get_state()
    np.random.seed(generator.integers(2**32))
    try:
        return mixing(images, targets)
    finally:
        np.random.set_state(state)


def repeated_augmentation_order(samples: int, epoch: int, repeats: int = 3, seed: int = 0) -> NDArray[np.int64]:
    """Indices of one epoch under repeated augmentation: about `samples` views of about samples / repeats images.

    Each image comes `repeats` times in a row, so that its views meet in one global batch; the length is a multiple
    of 256, or `samples` for smaller sets (where the program has no steps at all). Seed 0 gives the program's order.
    """
    sampler = RepeatAugSampler(range(samples), num_replicas=1, rank=0, num_repeats=repeats)
    sampler.set_epoch((epoch + 1_000_003 * seed) % 2**64)  # torch takes no larger seed
    return np.fromiter(sampler, dtype=np.int64, count=len(sampler))
