"""LSAS: sub-attention behind the attention logits of SENet and its kin (Zhong et al., ICME 2023)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.index import Task
from attnbias.data.transforms.basic import (
    RandomResizedCrop,
    ShortSideResize,
    ToNormalizedTensor,
    normalization,
    square_resize,
)
from attnbias.data.transforms.batched import BatchedTransform
from attnbias.data.transforms.mixing import CutMix, Cutout, Mixup
from attnbias.methods.engine.losses import binary_cross_entropy
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.training.optim import decay_groups
from attnbias.methods.engine.types import Batch, BatchTransform, Layer, LogLine, Metrics, ParamGroups
from attnbias.methods.lsas import LSASDescription
from attnbias.methods.lsas.attention import attention_maps, channel_attention
from attnbias.methods.lsas.convert import convert, infer
from attnbias.methods.lsas.log import COLUMNS, COLUMNS_TOP5, log_text
from attnbias.methods.lsas.loss import smoothed_cross_entropy, top_accuracies
from attnbias.methods.lsas.model import ResNet, build_model
from attnbias.methods.lsas.recipe import LSASRecipe, NoDecay, schedule
from attnbias.weights.files import load_start


class LSAS(LSASDescription, Method[LSASRecipe, ResNet]):
    """Lightweight sub-attention strategy."""

    def build_model(self, recipe: LSASRecipe, num_classes: int, task: Task) -> ResNet:
        """Build the residual network with attention in the recipe's stages."""
        return build_model(recipe, num_classes)

    def loss(self, model: nn.Module, batch: Batch, recipe: LSASRecipe, task: Task) -> dict[str, Tensor]:
        """Label-smoothed cross-entropy, or binary cross-entropy on multi-label sets."""
        logits, target = model(batch["image"]).float(), batch["target"]
        if task == "multilabel":
            return {"loss": binary_cross_entropy(logits, target)}
        loss = smoothed_cross_entropy(logits, target, recipe.label_smoothing)
        return {"loss": loss, **top_accuracies(logits, target)}

    def param_groups(self, model: ResNet, recipe: LSASRecipe) -> ParamGroups:
        """Without decay first, then with; one group where `no_decay` is empty (the programs' order)."""
        groups = decay_groups(model, recipe, lambda name, p: decay_rule(name, p.ndim) in recipe.no_decay)
        return [group for group in groups if group["params"]]

    schedule = staticmethod(schedule)

    def transform(self, recipe: LSASRecipe, train: bool) -> v2.Compose:
        """The programs' pipelines: [geometry, to a normalised tensor]."""
        size, steps = recipe.image_size, []
        if recipe.pipeline == "square":
            steps.append(square_resize(size))
        if recipe.pipeline == "imagenet":
            larger = size * 256 // 224
            steps += [RandomResizedCrop(size)] if train else [ShortSideResize(larger), v2.CenterCrop(size)]
        elif train:
            steps.append(v2.RandomCrop(size, padding=recipe.padding))
        if train and recipe.flip:
            steps.append(v2.RandomHorizontalFlip())
        geometry = v2.Compose(steps or [v2.Identity()])
        return v2.Compose([geometry, ToNormalizedTensor(*normalization(recipe.normalize))])

    def batched_transform(self, recipe: LSASRecipe, train: bool) -> BatchedTransform | None:
        """The native pipeline on whole batches: its images are small and of one size."""
        if recipe.pipeline != "native":
            return None
        last = ToNormalizedTensor(*normalization(recipe.normalize))
        if not train:
            return BatchedTransform(last)
        return BatchedTransform(last, recipe.seed, recipe.image_size, recipe.padding, recipe.flip)

    def batch_transform(self, recipe: LSASRecipe, num_classes: int) -> BatchTransform | None:
        """CutMix before mixup before cutout, as the program chooses where several are asked for."""
        if recipe.cutmix is not None:
            return CutMix(recipe.cutmix, num_classes, recipe.cutmix_probability)
        if recipe.mixup is not None:
            return Mixup(recipe.mixup, num_classes)
        return None if recipe.cutout is None else Cutout(recipe.cutout)

    def attention(
        self,
        model: ResNet,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Class activation maps, or Grad-CAM of a stage. There are no heads."""
        return attention_maps(model, images, classes, kind or "cam")

    def panels(self, model: ResNet, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """The channel attention of every attended block, and the factors it is the product of."""
        return {
            seen.block: {
                "attention": seen.attention,
                **{f"sigmoid(v{order})": factor for order, factor in enumerate(seen.factors)},
            }
            for seen in channel_attention(model, images)
        }

    def measure(self, recipe: LSASRecipe, targets: np.ndarray, scores: np.ndarray, task: Task) -> Metrics:
        """The task's measures; for single-label sets also the loss, which the programs log beside the accuracy."""
        measures = super().measure(recipe, targets, scores, task)
        if task == "singlelabel":
            logits, labels = torch.from_numpy(scores).double().clamp_min(1e-45).log(), torch.from_numpy(targets)
            measures["loss"] = float(smoothed_cross_entropy(logits, labels, recipe.label_smoothing))
        return measures

    def published_log(self, recipe: LSASRecipe, records: list[LogLine]) -> tuple[str, str] | None:
        """The programs' log.txt; they know single-label sets only."""
        if not all("top1" in record for record in records):
            return None
        return "log.txt", log_text(records, COLUMNS_TOP5 if recipe.network == "imagenet" else COLUMNS)

    def explained_layer(self, model: ResNet) -> Layer:
        """The last stage."""
        return Layer(model.get_submodule(model.stage_names[-1]))

    def load_backbone(self, model: ResNet, recipe: LSASRecipe, state: dict[str, Tensor], path: Path) -> None:
        """Start from torchvision's ResNet weights; attention and classifier stay fresh (ours: the paper does not)."""
        own = tuple(name for name in model.state_dict() if ".attention." in name or name.startswith("fc."))
        load_start(model, {name: value for name, value in state.items() if name not in own}, path, fresh=own)

    convert = staticmethod(convert)
    infer = staticmethod(infer)


def decay_rule(name: str, dimensions: int) -> NoDecay:
    """Which of the programs' weight-decay rules a parameter falls under: by name where it is a bias, else by its
    dimensions (one: BatchNorm, two: linear, more: convolution). Sub-attention's w and b are 4-D, hence convolutions to
    the program; here they also have a rule of their own."""
    if ".sub_attention." in name:
        return "sub_attention"
    if "bias" in name:
        return "bias"
    rules: dict[int, NoDecay] = {1: "bn", 2: "fc"}
    return rules.get(dimensions, "conv")


METHOD = LSAS()
