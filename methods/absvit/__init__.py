"""AbSViT: top-down attention from analysis by synthesis (Shi, Darrell, Wang, CVPR 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from attnbias.data.index import Task
from attnbias.methods.absvit.recipe import RECIPES, AbSViTRecipe, schedule
from attnbias.methods.engine.method import Batch, BatchTransform, Method, Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn


class AbSViTMethod(Method):
    """A vision transformer with a second pass, steered by a learned prompt or by what a person asks for."""

    name = "absvit"
    title = "Top-down attention from analysis by synthesis (AbSViT)"
    paper = "Shi, Darrell, Wang: Top-Down Visual Attention from Analysis by Synthesis, CVPR 2023, arXiv 2303.13043"
    recipe_type = AbSViTRecipe
    recipes = RECIPES
    untold = ("image_size", "normalize", "feedback_gain")
    maps: ClassVar[dict[str, str]] = {
        "steered": "Second pass steered by the asked class: token norms after three quarters of it, their top 30 %.",
        "prompt": "The same of the pass that classifies, steered by the learned prompt (a plain ViT: unsteered).",
        "bottom-up": "The same of the first pass.",
        "class-mask": "What the asked class lets through to the second pass: its similarity with each patch.",
        "prompt-mask": "What the learned prompt lets through, top 30 % of its range.",
        "rollout": "Attention rollout through all blocks of the pass that classifies.",
    }

    def build_model(self, recipe: AbSViTRecipe, num_classes: int, task: Task) -> nn.Module:
        """Build AbSViT, or the plain ViT of the same size where `top_down` is off."""
        from attnbias.methods.absvit.model import build

        return build(recipe, num_classes)

    def loss(self, model: nn.Module, batch: Batch, recipe: AbSViTRecipe, task: Task) -> dict[str, Tensor]:
        """Both passes' classification loss and the reconstruction error; a plain ViT's is the first alone."""
        from attnbias.methods.absvit.loss import two_pass_loss
        from attnbias.methods.engine.losses import classification_loss

        images, target = batch["image"], batch["target"]
        if not recipe.top_down:
            return {"loss": classification_loss(model(images).float(), target, task, recipe.label_smoothing)}
        passes = model(images, passes=True)
        return two_pass_loss(passes, target, task, recipe.label_smoothing, recipe.reconstruction_weight)

    def param_groups(self, model: nn.Module, recipe: AbSViTRecipe) -> list[dict[str, Any]]:
        """Vectors, biases, position embedding and class token without decay first, then matrices (the program's)."""
        from attnbias.methods.engine.training.optim import decay_groups, is_vector

        return decay_groups(model, recipe, lambda name, p: is_vector(name, p) or name in ("pos_embed", "cls_token"))

    def schedule(self, recipe: AbSViTRecipe, steps_per_epoch: int) -> Schedule:
        """The program's rate of each epoch, or a smooth one."""
        return schedule(recipe, steps_per_epoch)

    def transform(self, recipe: AbSViTRecipe, train: bool) -> Callable[[Any], Any]:
        """DeiT's pipelines, or a squeezed picture with small moves."""
        from attnbias.methods.absvit.augment import evaluation_transform, training_transform

        return training_transform(recipe) if train else evaluation_transform(recipe)

    def batch_transform(self, recipe: AbSViTRecipe, num_classes: int) -> BatchTransform | None:
        """Mixup and CutMix of timm, with draws that only the given generator decides."""
        from attnbias.methods.absvit.augment import batch_mixing, drawn_from

        mixing = batch_mixing(recipe, num_classes)
        return partial(drawn_from, mixing) if mixing else None

    def epoch_order(self, recipe: AbSViTRecipe, samples: int) -> Callable[[int], NDArray[np.int64]] | None:
        """Repeated augmentation, where the recipe has more than one view of a picture."""
        from attnbias.methods.absvit.augment import repeated_augmentation_order

        if recipe.repeats == 1:
            return None
        return partial(repeated_augmentation_order, samples, repeats=recipe.repeats, seed=recipe.seed)

    def attention(
        self,
        model: nn.Module,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Maps of a kind of `maps`; by default steered by each class, or unsteered for a plain ViT."""
        from torch import arange

        from attnbias.methods.absvit.attention import attention_maps
        from attnbias.methods.absvit.model import AbSViT

        transformer = cast("VisionTransformer", model)
        classes = arange(transformer.num_classes) if classes is None else classes
        kind = kind or ("steered" if isinstance(model, AbSViT) else "prompt")
        return attention_maps(transformer, images, classes, kind, head)

    def default_map(self, recipe: AbSViTRecipe) -> str:
        """Steered by each class; a plain ViT has no second pass to steer."""
        return "steered" if recipe.top_down else "prompt"

    def gradcam_layer(self, model: nn.Module) -> nn.Module:
        """The norm before the last block's attention: behind it, no patch token reaches the class token."""
        return model.get_submodule(f"blocks.{len(cast('VisionTransformer', model).blocks) - 1}.norm1")

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published names are timm's and ours."""
        from attnbias.methods.absvit.convert import convert

        return convert(state)

    def infer(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Tell architecture, second pass and classes from the weights."""
        from attnbias.methods.absvit.convert import infer

        return infer(state)

    def load_backbone(self, model: nn.Module, recipe: AbSViTRecipe, state: dict[str, Tensor], path: Path) -> None:
        """Start from DeiT's weights; the prompt, the decoders and a head of other classes stay fresh, and are named."""
        from attnbias.methods.absvit.convert import start_from_deit

        if fresh := start_from_deit(cast("VisionTransformer", model), state, path):
            logging.getLogger(__name__).warning("%d tensors start fresh: %s", len(fresh), ", ".join(fresh))

    def fit_resolution(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize the position embedding to the model's picture size."""
        from attnbias.methods.absvit.convert import fit_resolution

        return fit_resolution(cast("VisionTransformer", model), state)


METHOD = AbSViTMethod()
