"""AbSViT for semantic segmentation (Shi, Darrell, Wang, CVPR 2023, section 4.4): top-down attention below UperNet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from attnbias.data.index import Task
from attnbias.methods.absvit.segmentation.recipe import RECIPES, SegmentationRecipe, schedule
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Batch, Method, Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from attnbias.data.datasets import PictureDataset
    from attnbias.data.index import Index
    from attnbias.data.pictures import Decode
    from attnbias.data.transforms.segmentation import EvalTransform
    from attnbias.methods.absvit.segmentation.model import Segmenter

NO_DECAY = ("pos_embed", "cls_token", "norm")
"""Parameters whose names hold one of these have no weight decay. BatchNorm is called `bn`, so it has."""


class SegmentationMethod(Method):
    """The class of each pixel, from a vision transformer's two passes and UperNet."""

    name = "absvit-segmentation"
    title = "AbSViT for semantic segmentation, with UperNet"
    paper = "Shi, Darrell, Wang: Top-Down Visual Attention from Analysis by Synthesis, CVPR 2023, arXiv 2303.13043"
    recipe_type = SegmentationRecipe
    recipes = RECIPES
    maps: ClassVar[dict[str, str]] = {
        "class": "Probability that each patch is of the asked class.",
        "rollout": "Where the patches of the asked class draw from: attention rollout of the second pass.",
        "prompt": "Token norms after three quarters of the second pass, their top 30 % (a plain ViT: of its pass).",
        "bottom-up": "The same of the first pass.",
        "prompt-mask": "What the learned prompt lets through to the second pass, top 30 % of its range.",
    }

    def build_model(self, recipe: SegmentationRecipe, num_classes: int, task: Task) -> nn.Module:
        """Build AbSViT or a plain ViT, with UperNet's head and the auxiliary one.

        Raises:
            UsageError: the data set holds no label maps.
        """
        from attnbias.methods.absvit.segmentation.model import build

        if task != "segmentation":
            raise UsageError(
                f"'{recipe.dataset}' is a {task} set; segmentation needs label maps (voc12seg, ade20k ...)"
            )
        return build(recipe, num_classes)

    def loss(self, model: nn.Module, batch: Batch, recipe: SegmentationRecipe, task: Task) -> dict[str, Tensor]:
        """Cross-entropy of both heads over all pixels.

        Raises:
            UsageError: one picture alone: UperNet pools it to a single value a channel, which has no variance.
        """
        from attnbias.methods.absvit.segmentation.loss import segmentation_loss

        images = batch["image"]
        try:
            logits, auxiliary = model(images, auxiliary=True)
        except ValueError:  # torch's batch normalisation
            if len(images) > 1:
                raise
            raise UsageError(
                "batch normalisation needs two pictures in each process and accumulation step; raise --batch-size"
            ) from None
        weights = recipe.decode_weight, recipe.aux_weight
        return segmentation_loss(logits, auxiliary, batch["target"], weights, recipe.avg_non_ignore)

    def param_groups(self, model: nn.Module, recipe: SegmentationRecipe) -> list[dict[str, Any]]:
        """Parameters with decay, then those without, by their names (the program's rule); frozen ones in neither."""
        from attnbias.methods.engine.training.optim import decay_groups

        free, decayed = decay_groups(model, recipe, lambda name, _: any(part in name for part in NO_DECAY))
        return [decayed, free]

    def schedule(self, recipe: SegmentationRecipe, steps_per_epoch: int) -> Schedule:
        """A polynomial fall with a warm-up on top of it."""
        return schedule(recipe, steps_per_epoch)

    def transform(self, recipe: SegmentationRecipe, train: bool) -> Callable[..., Any]:
        """A picture alone, fitted into a square, for maps; `open_dataset` has the paper's pipelines."""
        from attnbias.methods.absvit.segmentation.pictures import FitSquare

        return FitSquare(recipe.image_size)

    def open_dataset(
        self,
        recipe: SegmentationRecipe,
        index: Index,
        *,
        train: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> PictureDataset:
        """Pictures with their label maps through MMSegmentation's pipelines; in evaluation each has its own size.

        Raises:
            UsageError: fast decoding, which shrinks pictures and not their label maps.
        """
        from attnbias.data.segmentation import LabelMapDataset
        from attnbias.data.transforms.segmentation import TrainTransform

        if decode == "fast":
            raise UsageError("--decode fast changes the size of pictures beside label maps; use --decode exact")
        if train:
            transform = TrainTransform(
                recipe.scale, recipe.ratio, recipe.crop, recipe.cat_max_ratio, recipe.flip, recipe.photometric
            )
            return LabelMapDataset(index, transform, seed=recipe.seed, on_bad_image=on_bad_image)
        return LabelMapDataset(index, evaluation_views(recipe), seed=recipe.seed, on_bad_image=on_bad_image)

    def predict(self, model: nn.Module, images: Tensor, task: Task) -> dict[str, Tensor]:
        """How sure the model is of each class at the patch where it is most so: `scores` (B, K)."""
        return {"scores": model(images).float().softmax(dim=1).amax(dim=(-2, -1))}

    def answer(
        self, model: nn.Module, batch: Batch, dataset: PictureDataset, recipe: SegmentationRecipe
    ) -> dict[str, Tensor]:
        """Pixels of each class in each picture at its original size: `intersect` and `predicted` (B, K), and those
        labelled so as the targets (B, K)."""
        from torch import stack

        from attnbias.methods.absvit.segmentation.inference import segment
        from attnbias.methods.absvit.segmentation.measures import count_areas

        rows = []
        for views, target in zip(batch["image"], batch["target"], strict=True):
            prediction = segment(model, views if isinstance(views, list) else [views], target.shape, recipe)
            rows.append(count_areas(prediction, target, len(dataset.index.classes)))
        intersect, predicted, labelled = (stack(areas) for areas in zip(*rows, strict=True))
        return {"intersect": intersect, "predicted": predicted, "targets": labelled}

    def measure_all(
        self, recipe: SegmentationRecipe, targets: NDArray[Any], scores: Mapping[str, NDArray[Any]], task: Task
    ) -> dict[str, Any]:
        """Intersection over union and its kin, from the pixels of the whole split."""
        from attnbias.methods.absvit.segmentation.measures import area_measures

        return area_measures(scores["intersect"], scores["predicted"], targets)

    def label_map(
        self, model: nn.Module, picture: NDArray[np.uint8], recipe: SegmentationRecipe
    ) -> NDArray[np.int64] | None:
        """The class of each pixel, as evaluation has it."""
        from attnbias.methods.absvit.segmentation.inference import segment

        device = next(model.parameters()).device
        seen = [image.to(device) for image in evaluation_views(recipe).images(picture)]
        return segment(model, seen, picture.shape[:2], recipe).cpu().numpy()

    def deciding_measure(self, task: Task) -> str:
        """Mean intersection over union."""
        return "mIoU"

    def attention(
        self,
        model: nn.Module,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Maps of a kind of `maps`; by default the probability of each class."""
        from torch import arange

        from attnbias.methods.absvit.segmentation.attention import attention_maps

        segmenter = cast("Segmenter", model)
        classes = arange(segmenter.decode_head.conv_seg.out_channels) if classes is None else classes
        return attention_maps(segmenter, images, classes, kind or "class", head)

    def gradcam_layer(self, model: nn.Module) -> nn.Module:
        """What UperNet's classifier sees."""
        return model.get_submodule("decode_head.fpn_bottleneck")

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """MMSegmentation's names are ours."""
        from attnbias.methods.absvit.segmentation.convert import convert

        return convert(state)

    def infer(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Tell architecture, second pass, prompts, heads and classes from the weights."""
        from attnbias.methods.absvit.segmentation.convert import infer

        return infer(state)

    def load_backbone(self, model: nn.Module, recipe: SegmentationRecipe, state: dict[str, Tensor], path: Path) -> None:
        """Start from an ImageNet model, the position embedding resized; what a plain ViT lacks stays fresh, and is
        named."""
        from attnbias.methods.absvit.segmentation.convert import start_from_classifier

        if fresh := start_from_classifier(cast("Segmenter", model).backbone, state, path):
            logging.getLogger(__name__).warning("%d tensors start fresh: %s", len(fresh), ", ".join(fresh))

    def fit_resolution(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize the position embedding to what the model was built for."""
        from attnbias.methods.absvit.segmentation.convert import fit_resolution

        return fit_resolution(cast("Segmenter", model), state)


def evaluation_views(recipe: SegmentationRecipe) -> EvalTransform:
    """How an evaluated picture is seen: at one size, or at several."""
    from attnbias.data.transforms.segmentation import EvalTransform

    return EvalTransform(recipe.scale, recipe.test_ratios if recipe.aug_test else (1.0,))


METHOD = SegmentationMethod()
