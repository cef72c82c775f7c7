"""AbSViT: top-down attention from analysis by synthesis (Shi, Darrell, Wang, CVPR 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, arange, nn

from attnbias.data.index import Task
from attnbias.data.transforms.basic import Transform
from attnbias.methods.absvit import AbSViTDescription
from attnbias.methods.absvit.attention import (
    CLASS_GAIN,
    attention_maps,
    patch_tokens,
    steered_maps,
    with_second_pass,
)
from attnbias.methods.absvit.augment import (
    batch_mixing,
    drawn_from,
    evaluation_transform,
    repeated_augmentation_order,
    training_transform,
)
from attnbias.methods.absvit.convert import convert, fit_resolution, infer, say_fresh, start_from_deit
from attnbias.methods.absvit.loss import drawn_classes, two_pass_loss
from attnbias.methods.absvit.model import AbSViT, build
from attnbias.methods.absvit.recipe import AbSViTRecipe, schedule
from attnbias.methods.engine.backbones import fit_weights
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.training.optim import decay_groups, is_vector
from attnbias.methods.engine.types import Batch, BatchTransform, Layer, ParamGroups

UNDECAYED = ("pos_embed", "cls_token", "reg_token")

LOOKED_AT = 64
"""Images that the mean token is of."""


class AbSViTMethod(AbSViTDescription, Method[AbSViTRecipe, VisionTransformer]):
    """A vision transformer with a second pass, steered by a learned prompt or by what a person asks for."""

    def build_model(self, recipe: AbSViTRecipe, num_classes: int, task: Task) -> VisionTransformer:
        """Build AbSViT, or the plain ViT of the same size where `top_down` is off."""
        return build(recipe, num_classes)

    def loss(self, model: nn.Module, batch: Batch, recipe: AbSViTRecipe, task: Task) -> dict[str, Tensor]:
        """Both passes' classification loss and the reconstruction error; a plain ViT's is the first alone."""
        images, target = batch["image"], batch["target"]
        if not recipe.top_down:
            return {"loss": classification_loss(model(images).float(), target, task, recipe.label_smoothing)}
        asked = drawn_classes(target, recipe.steered_share) if recipe.steered_share else None
        passes = model(images, asked, passes=True)
        return two_pass_loss(passes, target, task, recipe.label_smoothing, recipe.reconstruction_weight, asked)

    def param_groups(self, model: VisionTransformer, recipe: AbSViTRecipe) -> ParamGroups:
        """Vectors, biases, position embedding and prefix tokens without decay first, then matrices (the program's)."""
        groups = decay_groups(model, recipe, lambda name, p: is_vector(name, p) or name in UNDECAYED)
        adam = {} if recipe.optimizer == "sgd" else {"betas": recipe.betas, "eps": recipe.eps}
        return [{**group, **adam} for group in groups]

    schedule = staticmethod(schedule)

    def transform(self, recipe: AbSViTRecipe, train: bool) -> Transform:
        """DeiT's pipelines, or a squeezed image with small moves."""
        return training_transform(recipe) if train else evaluation_transform(recipe)

    def batch_transform(self, recipe: AbSViTRecipe, num_classes: int) -> BatchTransform | None:
        """Mixup and CutMix of timm, with draws that only the given generator decides."""
        mixing = batch_mixing(recipe, num_classes)
        return partial(drawn_from, mixing) if mixing else None

    def epoch_order(self, recipe: AbSViTRecipe, samples: int) -> Callable[[int], NDArray[np.int64]] | None:
        """Repeated augmentation, where the recipe has more than one view of an image."""
        if recipe.repeats == 1:
            return None
        return partial(repeated_augmentation_order, samples, repeats=recipe.repeats, seed=recipe.seed)

    def attention(
        self,
        model: VisionTransformer,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Maps of a kind of `maps`; by default steered by each class, or unsteered for a plain ViT."""
        classes = arange(model.num_classes) if classes is None else classes
        kind = kind or ("steered" if isinstance(model, AbSViT) else "prompt")
        return attention_maps(model, images, classes, kind, head)

    steered = staticmethod(steered_maps)
    tokens = staticmethod(patch_tokens)

    def check_steered(self, model: VisionTransformer) -> None:
        """Only AbSViT has a second pass."""
        with_second_pass(model)

    def default_gain(self, model: VisionTransformer) -> float:
        """The strength of the program's demo."""
        return CLASS_GAIN

    def explained_layer(self, model: VisionTransformer) -> Layer:
        """The norm before the last block's attention: behind it, no patch token reaches the class token."""
        return Layer(
            model.get_submodule(f"blocks.{len(model.blocks) - 1}.norm1"), prefix_tokens=model.num_prefix_tokens
        )

    convert = staticmethod(convert)
    infer = staticmethod(infer)

    def load_backbone(
        self, model: VisionTransformer, recipe: AbSViTRecipe, state: dict[str, Tensor], path: Path
    ) -> None:
        """Start from DeiT's weights, or those of timm's network; the prompt, the decoders and a head of other classes
        stay fresh, and are named."""
        state = state if recipe.backbone is None else fit_weights(model, model, state)
        say_fresh(start_from_deit(model, state, path))

    def look_first(
        self, model: VisionTransformer, recipe: AbSViTRecipe, images: Callable[[int], Tensor], pretrained: bool
    ) -> None:
        """Turn the prompt towards the mean token, where the recipe says so."""
        if recipe.prompt_start == "random" or not isinstance(model, AbSViT):
            return
        if not pretrained:
            raise UsageError(
                "prompt_start mean-token is the mean of what a trained ViT makes of images, and this run starts from "
                "random weights; name some with --backbone-weights, or leave it out"
            )
        shown = images(LOOKED_AT)
        mean = model.start_prompt(shown)
        logging.getLogger(__name__).warning(
            "the prompt starts towards the mean token of %d training images: %.3f of a token is fed back on average",
            len(shown),
            mean,
        )

    fit_resolution = staticmethod(fit_resolution)


METHOD = AbSViTMethod()
