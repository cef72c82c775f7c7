"""A classifier as it is. What the engine calls; the rest stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.index import Task
from attnbias.methods.engine.augmentation import augmented
from attnbias.methods.engine.losses import classification_loss
from attnbias.methods.engine.maps import explain
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.training.optim import rate_groups
from attnbias.methods.engine.types import Batch, Layer, ParamGroups
from attnbias.methods.plain import PlainDescription
from attnbias.methods.plain.attention import feature_maps
from attnbias.methods.plain.convert import convert, fit_resolution, infer, infer_named, load_all_but_the_head
from attnbias.methods.plain.model import OwnClassifier, PlainClassifier, build_network, library_call, of_head
from attnbias.methods.plain.recipe import PlainRecipe, schedule


class Plain(PlainDescription, Method[PlainRecipe, PlainClassifier]):
    """Any classifier of timm or torchvision with its own head."""

    def build_model(self, recipe: PlainRecipe, num_classes: int, task: Task) -> PlainClassifier:
        """Build the network with fresh weights."""
        return PlainClassifier(
            build_network(recipe.backbone, num_classes, recipe.image_size), recipe.image_size, recipe.layer
        )

    def loss(self, model: nn.Module, batch: Batch, recipe: PlainRecipe, task: Task) -> dict[str, Tensor]:
        """Mean binary cross-entropy over all labels; cross-entropy on single-label sets."""
        return {"loss": classification_loss(model(batch["image"]).float(), batch["target"], task)}

    def param_groups(self, model: PlainClassifier, recipe: PlainRecipe) -> ParamGroups:
        """The network, then its head at `head_lr_scale` times its rate; weight decay on everything."""
        rates = (recipe.lr, recipe.lr * recipe.head_lr_scale)
        return rate_groups(model.network, recipe, lambda name: of_head(model.network, name), rates)

    schedule = staticmethod(schedule)

    def transform(self, recipe: PlainRecipe, train: bool) -> v2.Compose:
        """The images that the network's publisher makes; for training also flip, jitter and crop as the recipe says."""
        return augmented(recipe, train)

    def attention(
        self,
        model: PlainClassifier,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Grad-CAM of each class (B, K, h, w), or the length of the features, repeated for each class."""
        if classes is None:
            with torch.no_grad():
                classes = torch.arange(model(images[:1]).shape[1])
        if kind is None:
            return explain(self.default_map(None), model, images, classes, model.layer)
        return feature_maps(model, images)[:, None].expand(-1, classes.shape[-1], -1, -1)

    def explained_layer(self, model: PlainClassifier) -> Layer:
        """The recipe's layer, or the one that is found."""
        return model.layer

    def library_network(
        self, model: PlainClassifier, recipe: PlainRecipe, num_classes: int
    ) -> tuple[str, nn.Module] | None:
        """The whole network; None for the tiny ones, which are ours."""
        words = library_call(recipe.backbone, num_classes, recipe.image_size)
        return None if words is None else (words, model.network)

    convert = staticmethod(convert)

    def fit_resolution(self, model: PlainClassifier, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample what depends on the images' size, such as a ViT's position embedding."""
        return fit_resolution(model.network, state)

    infer = staticmethod(infer)
    infer_named = staticmethod(infer_named)

    def around(self, network: nn.Module, recipe: PlainRecipe) -> PlainClassifier:
        """A network that is built already."""
        return OwnClassifier(network, recipe.image_size, recipe.layer, recipe.backbone)

    def answer_as(self, model: PlainClassifier, members: Sequence[Sequence[int]]) -> PlainClassifier:
        """The network and its weights, with another set's classes in place of its own."""
        return model.answering_as(members)

    def load_backbone(self, model: PlainClassifier, recipe: PlainRecipe, state: dict[str, Tensor], path: Path) -> None:
        """Fill everything but the head from published weights of the same network."""
        load_all_but_the_head(model.network, state, path)


METHOD = Plain()
