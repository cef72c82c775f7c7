"""How images are made by the methods that vary them as CSRA does: an `AugmentedRecipe` says the rest."""

from __future__ import annotations

from torchvision.transforms import v2

from attnbias.data.transforms.basic import eval_transform, train_transform
from attnbias.methods.engine.recipe import AugmentedRecipe


def augmented(recipe: AugmentedRecipe, train: bool) -> v2.Compose:
    """PIL image -> float tensor (3, H, W): square; for training also flipped, jittered, cut and shifted."""
    if not train:
        return eval_transform(recipe.image_size, recipe.normalize, recipe.interpolation, recipe.crop_ratio)
    return train_transform(
        recipe.image_size,
        recipe.normalize,
        flip=recipe.flip,
        color_jitter=recipe.color_jitter,
        resized_crop=recipe.resized_crop,
        shift=recipe.shift,
        interpolation=recipe.interpolation,
        crop_ratio=recipe.crop_ratio,
    )
