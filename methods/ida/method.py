"""IDA: interventional dual attention (Liu et al., ICLR 2023). What the engine calls; the rest stands beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.index import Task
from attnbias.data.transforms import basic
from attnbias.data.transforms.cutout import RandomCutout
from attnbias.data.transforms.multiscale_crop import MARGIN, MultiScaleCrop
from attnbias.data.transforms.randaugment import RandAugmentPolicy
from attnbias.methods.engine.backbones import build_backbone, fit_resolution, load_backbone
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.metrics import multilabel_measures
from attnbias.methods.engine.training.optim import decay_groups, is_vector, rate_groups
from attnbias.methods.engine.types import Batch, Layer, LogLine, Metrics, ParamGroups
from attnbias.methods.ida import IDADescription
from attnbias.methods.ida.attention import spatial_attention, token_attention
from attnbias.methods.ida.convert import coco_to_voc, convert, infer
from attnbias.methods.ida.loss import classification_loss
from attnbias.methods.ida.model import IDA, InterventionalClassifier, LinearClassifier
from attnbias.methods.ida.recipe import IDARecipe, schedule, should_stop


class InterventionalDualAttention(IDADescription, Method[IDARecipe, IDA]):
    """Multi-label classification whose attention is sampled several times, against the confounding context."""

    def build_model(self, recipe: IDARecipe, num_classes: int, task: Task) -> IDA:
        """Build the backbone and its classifier with fresh weights."""
        backbone = build_backbone(recipe.backbone, recipe.image_size)
        if recipe.classifier == "linear":
            return IDA(backbone, LinearClassifier(backbone.num_features, num_classes))
        head = InterventionalClassifier(
            backbone.num_features,
            num_classes,
            samples=recipe.samples,
            heavy=recipe.heavy,
            beta=recipe.beta,
            token_layout=recipe.token_layout,
        )
        return IDA(backbone, head)

    def loss(self, model: nn.Module, batch: Batch, recipe: IDARecipe, task: Task) -> dict[str, Tensor]:
        """Binary cross-entropy or the asymmetric loss; cross-entropy on single-label sets."""
        return {"loss": classification_loss(model(batch["image"]), batch["target"], recipe, task)}

    def param_groups(self, model: IDA, recipe: IDARecipe) -> ParamGroups:
        """Two groups in the program's order (without decay first; the backbone first), or one."""
        if recipe.param_groups == "single":
            return super().param_groups(model, recipe)
        if recipe.param_groups == "no_decay_1d":
            return decay_groups(model, recipe, is_vector)
        # torch's OneCycleLR sets one highest rate for all groups: in the program the factor is lost.
        lr = recipe.lr if recipe.legacy_shared_lr else recipe.lr * recipe.backbone_lr_factor
        return rate_groups(model, recipe, lambda name: not name.startswith("backbone."), (lr, recipe.lr))

    schedule = staticmethod(schedule)

    def transform(self, recipe: IDARecipe, train: bool) -> v2.Compose:
        """Square resize for evaluation. For training also cutout and RandAugment (no flip), or crop and flip."""
        size, filter, crop = recipe.image_size, recipe.interpolation, recipe.crop_ratio
        if not train:
            return basic.eval_transform(size, recipe.normalize, filter, crop)
        if recipe.augmentation == "shift":
            return basic.train_transform(
                size,
                recipe.normalize,
                flip=False,
                resized_crop=False,
                shift=recipe.shift,
                interpolation=filter,
                crop_ratio=crop,
            )
        if recipe.augmentation == "multiscale_crop":
            steps = [basic.square_resize(size + MARGIN, filter), MultiScaleCrop(size), v2.RandomHorizontalFlip()]
        else:
            cutout = [RandomCutout(round(recipe.cutout * size))] if recipe.cutout else []
            steps = [*basic.fitted_square(size, filter, crop), *cutout, RandAugmentPolicy()]
        return v2.Compose([*steps, basic.ToNormalizedTensor(*basic.normalization(recipe.normalize))])

    def should_stop(self, recipe: IDARecipe, history: list[LogLine]) -> bool:
        """The program's rule, where the recipe sets a patience."""
        return recipe.patience is not None and should_stop(history, recipe.patience)

    def attention(
        self,
        model: IDA,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """The first attention, where each map sums to 1, or the second: (B, K, N, N), each row sums to 1.

        `head` picks a sample of the first (None averages them) or a layer of the second (None is the last).
        """
        if kind == "tokens":
            return token_attention(model, images, classes, head)
        return spatial_attention(model, images, classes, head)

    def explained_layer(self, model: IDA) -> Layer:
        """The whole backbone: its output is what the classifier sees."""
        return Layer(model.backbone)

    def measure(self, recipe: IDARecipe, targets: np.ndarray, scores: np.ndarray, task: Task) -> Metrics:
        """The shared measures; average precision by the program's rule (all-point interpolation)."""
        if task == "multilabel":
            return multilabel_measures(targets, scores, rule="interpolated")
        return super().measure(recipe, targets, scores, task)

    convert = staticmethod(convert)
    infer = staticmethod(infer)

    def fit_classes(self, state: dict[str, Tensor], recipe: IDARecipe) -> dict[str, Tensor]:
        """Start VOC from a model of COCO: its 80 classes hold VOC's 20."""
        return coco_to_voc(state) if recipe.dataset == "voc07" else state

    def fit_resolution(self, model: IDA, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample what depends on the image size in a timm backbone, such as Swin's relative positions."""
        return fit_resolution(model.backbone, state, "backbone.")

    def load_backbone(self, model: IDA, recipe: IDARecipe, state: dict[str, Tensor], path: Path) -> None:
        """Fill the backbone from ImageNet weights of torchvision, timm or Microsoft's Swin release."""
        load_backbone(model.get_submodule("backbone"), state, path)


METHOD = InterventionalDualAttention()
