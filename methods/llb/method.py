"""LLB (Kang et al., ICLR 2024): a frozen vision transformer and a branch whose objects labels alone arrange."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, RandAugment, v2

from attnbias.data.index import Task
from attnbias.data.transforms.basic import (
    RandomShift,
    ShortSideResize,
    ToNormalizedTensor,
    Transform,
    fitted_square,
    normalization,
)
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.types import Batch, Layer, Metrics
from attnbias.methods.llb import LLBDescription
from attnbias.methods.llb.attention import attention
from attnbias.methods.llb.convert import convert, fit_resolution, infer, load_backbone
from attnbias.methods.llb.loss import llb_loss
from attnbias.methods.llb.metrics import agreement, alpha_sweep, negative_log_likelihood, object_measures, program_loss
from attnbias.methods.llb.model import LLB
from attnbias.methods.llb.recipe import LLBRecipe, schedule


class LLBMethod(LLBDescription, Method[LLBRecipe, LLB]):
    """Label-focused latent-object biasing."""

    def build_model(self, recipe: LLBRecipe, num_classes: int, task: Task) -> LLB:
        return LLB(recipe, num_classes, task)

    def loss(self, model: nn.Module, batch: Batch, recipe: LLBRecipe, task: Task) -> dict[str, Tensor]:
        output = model(batch["image"], output="training")
        return llb_loss(output, batch["target"], recipe.entropy_weight, recipe.visual_weight, task)

    schedule = staticmethod(schedule)

    def transform(self, recipe: LLBRecipe, train: bool) -> Transform:
        """Resize the short side and crop the centre, in training too: no random crop, no flip; then RandAugment, or a
        shift."""
        mode = InterpolationMode(recipe.interpolation or ("bilinear" if train else "bicubic"))
        steps: list[Transform] = [*_square(recipe, mode, squash=recipe.squash and not train)]
        if train and recipe.randaugment_ops:
            # The first version's: the second draws its operations in another order, so seeds would give other images.
            steps.append(RandAugment(recipe.randaugment_ops, recipe.randaugment_magnitude))
        if train and recipe.shift:
            steps.append(RandomShift(recipe.shift))
        return v2.Compose([*steps, ToNormalizedTensor(*normalization(recipe.normalize))])

    def predict(self, model: LLB, images: Tensor, task: Task) -> dict[str, Tensor]:
        """The mixture, both branches and object usage from one pass; multi-label work mixes sigmoids class by class."""
        mixed, visual, branch, usage = model(images, output="predictions")
        scores = {"scores": mixed, "visual": visual, "branch": branch}
        return scores if usage is None else scores | {"objects": usage}

    def measure(self, recipe: LLBRecipe, targets: np.ndarray, scores: np.ndarray, task: Task) -> Metrics:
        """In single-label work also the loss of the mixture, and the figure that the program prints as its loss."""
        measures = super().measure(recipe, targets, scores, task)
        if task == "singlelabel":
            measures["nll"] = negative_log_likelihood(targets, scores)
            measures["program_loss"] = program_loss(targets, scores)
        return measures

    def measure_all(
        self, recipe: LLBRecipe, targets: np.ndarray, scores: Mapping[str, np.ndarray], task: Task
    ) -> Metrics:
        """Also the monitor at every alpha, how the branches agree (single-label), and object usage."""
        probabilities = {name: values for name, values in scores.items() if name != "objects"}
        measures = super().measure_all(recipe, targets, probabilities, task)
        monitor = self.monitor(task)
        for alpha, found in alpha_sweep(targets, scores["visual"], scores["branch"], task).items():
            measures[f"alpha_{alpha:g}/{monitor}"] = found[monitor]
        if task == "singlelabel":
            masks = agreement(targets, scores["visual"], scores["branch"])
            measures |= {f"agreement/{name}": 100 * float(mask.mean()) for name, mask in masks.items()}
        if "objects" in scores:
            measures |= {f"objects/{name}": value for name, value in object_measures(scores["objects"].mean(0)).items()}
        return measures

    def attention(
        self,
        model: LLB,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        count = model.backbone.num_classes if classes is None else classes.shape[-1]
        return attention(model, images, count, kind or next(iter(self.maps)), head)

    def explained_layer(self, model: LLB) -> Layer:
        """The visual branch's last attention input: the customary layer of a vision transformer."""
        network = model.backbone
        return Layer(network.blocks[-1].get_submodule("norm1"), prefix_tokens=network.num_prefix_tokens)

    convert = staticmethod(convert)

    fit_resolution = staticmethod(fit_resolution)

    def load_backbone(self, model: LLB, recipe: LLBRecipe, state: dict[str, Tensor], path: Path) -> None:
        logging.getLogger(__name__).warning("%s", load_backbone(model, state, path))

    infer = staticmethod(infer)


def _square(recipe: LLBRecipe, mode: InterpolationMode, *, squash: bool) -> list[v2.Transform]:
    if recipe.crop_ratio is None or recipe.backbone is not None:  # as the publisher of the weights makes images
        return fitted_square(recipe.image_size, mode.value, recipe.crop_ratio)
    side = round(recipe.image_size / recipe.crop_ratio)
    resize = v2.Resize((side, side), interpolation=mode, antialias=True) if squash else ShortSideResize(side, mode)
    return [resize, v2.CenterCrop(recipe.image_size)]


METHOD = LLBMethod()
