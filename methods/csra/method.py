"""CSRA: class-specific residual attention (Zhu and Wu, ICCV 2021). What the engine calls; the rest stands beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.index import Task
from attnbias.methods.csra import CSRADescription
from attnbias.methods.csra.attention import class_maps
from attnbias.methods.csra.convert import convert, infer
from attnbias.methods.csra.model import CSRA, MultiHeadClassifier
from attnbias.methods.csra.recipe import CSRARecipe, schedule
from attnbias.methods.engine.augmentation import augmented
from attnbias.methods.engine.backbones import build_backbone, fit_resolution, load_backbone
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.metrics import multilabel_measures
from attnbias.methods.engine.training.optim import rate_groups
from attnbias.methods.engine.types import Batch, Layer, Metrics, ParamGroups


class ResidualAttention(CSRADescription, Method[CSRARecipe, CSRA]):
    """Multi-label classification in which each class attends to its own part of the image."""

    def build_model(self, recipe: CSRARecipe, num_classes: int, task: Task) -> CSRA:
        """Build the backbone and its heads with fresh weights."""
        backbone = build_backbone(recipe.backbone, recipe.image_size)
        heads = MultiHeadClassifier(
            backbone.num_features, num_classes, recipe.head_temperatures, recipe.lam, normalized=recipe.normalized
        )
        return CSRA(backbone, heads)

    def loss(self, model: nn.Module, batch: Batch, recipe: CSRARecipe, task: Task) -> dict[str, Tensor]:
        """Mean binary cross-entropy over all labels; cross-entropy on single-label sets."""
        return {"loss": classification_loss(model(batch["image"]), batch["target"], task)}

    def param_groups(self, model: CSRA, recipe: CSRARecipe) -> ParamGroups:
        """The backbone, then the heads at `head_lr_scale` times its rate; weight decay on everything."""
        rates = (recipe.lr, recipe.lr * recipe.head_lr_scale)
        return rate_groups(model, recipe, lambda name: name.startswith("classifier."), rates)

    schedule = staticmethod(schedule)

    def transform(self, recipe: CSRARecipe, train: bool) -> v2.Compose:
        """Square resize; for training also flip, colour jitter, random resized crop, shift, as the recipe says."""
        return augmented(recipe, train)

    def attention(
        self,
        model: CSRA,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Score maps or attention of each class (B, K, h, w); the mean over the heads, or one `head`."""
        return class_maps(model, images, classes, kind or "score", head)

    def explained_layer(self, model: CSRA) -> Layer:
        """The whole backbone: its output is what the heads see."""
        return Layer(model.backbone)

    def measure(self, recipe: CSRARecipe, targets: np.ndarray, scores: np.ndarray, task: Task) -> Metrics:
        """The shared measures by the program's rules: average precision goes by the order of the samples where scores
        are equal, and unknown labels count as negative in WIDER's precision and recall."""
        if task == "multilabel":
            return multilabel_measures(
                targets,
                scores,
                rule="mean",
                unknown_in_f1=recipe.unknown_in_f1,
                absent_in_f1=recipe.absent_in_f1,
            )
        return super().measure(recipe, targets, scores, task)

    convert = staticmethod(convert)

    def fit_resolution(self, model: CSRA, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample a ViT's position embedding to the model's image size: 224 and 448 pixels are published."""
        return fit_resolution(model.backbone, state, "backbone.")

    infer = staticmethod(infer)

    def load_backbone(self, model: CSRA, recipe: CSRARecipe, state: dict[str, Tensor], path: Path) -> None:
        """Fill the backbone from ImageNet weights of torchvision or timm, the authors' CutMix ResNet among them."""
        load_backbone(model.get_submodule("backbone"), state, path)


METHOD = ResidualAttention()
