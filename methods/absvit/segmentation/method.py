"""AbSViT for semantic segmentation (Shi, Darrell, Wang, CVPR 2023, section 4.4): top-down attention below UperNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, arange, nn, stack

from attnbias.data.datasets import ImageDataset
from attnbias.data.images import Decode
from attnbias.data.index import Index, Task
from attnbias.data.segmentation import LabelMapDataset
from attnbias.data.transforms.basic import Transform
from attnbias.data.transforms.segmentation import EvalTransform, TrainTransform
from attnbias.methods.absvit.convert import say_fresh
from attnbias.methods.absvit.segmentation import SegmentationDescription
from attnbias.methods.absvit.segmentation.attention import attention_maps
from attnbias.methods.absvit.segmentation.convert import fit_resolution, infer, start_from_classifier
from attnbias.methods.absvit.segmentation.images import FitSquare
from attnbias.methods.absvit.segmentation.inference import segment, view_logits, whole_logits
from attnbias.methods.absvit.segmentation.loss import pixel_loss, segmentation_loss
from attnbias.methods.absvit.segmentation.metrics import area_measures, count_areas
from attnbias.methods.absvit.segmentation.model import Segmenter, build, for_any_size
from attnbias.methods.absvit.segmentation.recipe import SegmentationRecipe, schedule
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.training.optim import decay_groups
from attnbias.methods.engine.types import Batch, Layer, Metrics, ParamGroups

NO_DECAY = ("pos_embed", "cls_token", "norm")
"""Parameters whose names hold one of these have no weight decay. BatchNorm is called `bn`, so it has."""


class SegmentationMethod(SegmentationDescription, Method[SegmentationRecipe, Segmenter]):
    """The class of each pixel, from a vision transformer's two passes and UperNet."""

    def build_model(self, recipe: SegmentationRecipe, num_classes: int, task: Task) -> Segmenter:
        """Build AbSViT or a plain ViT, with UperNet's head and the auxiliary one.

        Raises:
            UsageError: the data set holds no label maps.
        """
        if task != "segmentation":
            raise UsageError(
                f"'{recipe.dataset}' is a {task} set; segmentation needs label maps (voc12seg, ade20k ...)"
            )
        return build(recipe, num_classes)

    def loss(self, model: nn.Module, batch: Batch, recipe: SegmentationRecipe, task: Task) -> dict[str, Tensor]:
        """Cross-entropy of both heads over all pixels.

        Raises:
            UsageError: one image alone: UperNet pools it to a single value per channel, which has no variance.
        """
        images = batch["image"]
        try:
            logits, auxiliary = model(images, auxiliary=True)
        except ValueError:  # torch's batch normalisation
            if len(images) > 1:
                raise
            raise UsageError(
                "batch normalisation needs two images in each process and accumulation step; raise --batch-size"
            ) from None
        weights = recipe.decode_weight, recipe.aux_weight
        return segmentation_loss(logits, auxiliary, batch["target"], weights, recipe.avg_non_ignore)

    def param_groups(self, model: Segmenter, recipe: SegmentationRecipe) -> ParamGroups:
        """Parameters with decay, then those without, by their names (the program's rule); frozen ones in neither."""
        free, decayed = decay_groups(model, recipe, lambda name, _: any(part in name for part in NO_DECAY))
        return [decayed, free]

    schedule = staticmethod(schedule)

    def transform(self, recipe: SegmentationRecipe, train: bool) -> Transform:
        """An image alone, fitted into a square, for maps; `open_dataset` has the paper's pipelines."""
        return FitSquare(recipe.image_size)

    def open_dataset(
        self,
        recipe: SegmentationRecipe,
        index: Index,
        *,
        train: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        decode: Decode = "exact",
    ) -> ImageDataset:
        """Images with their label maps through MMSegmentation's pipelines; in evaluation each has its own size.

        Raises:
            UsageError: fast decoding, which shrinks images and not their label maps.
        """
        if decode == "fast":
            raise UsageError("--decode fast changes the size of images beside label maps; use --decode exact")
        if train:
            transform = TrainTransform(
                recipe.scale, recipe.ratio, recipe.crop, recipe.cat_max_ratio, recipe.flip, recipe.photometric
            )
            return LabelMapDataset(index, transform, seed=recipe.seed, on_bad_image=on_bad_image)
        return LabelMapDataset(index, evaluation_views(recipe), seed=recipe.seed, on_bad_image=on_bad_image)

    def predict(self, model: Segmenter, images: Tensor, task: Task) -> dict[str, Tensor]:
        """How sure the model is of each class at the patch where it is most so: `scores` (B, K)."""
        return {"scores": model(images).float().softmax(dim=1).amax(dim=(-2, -1))}

    def answer(
        self, model: Segmenter, batch: Batch, dataset: ImageDataset, recipe: SegmentationRecipe
    ) -> dict[str, Tensor]:
        """Pixels of each class in each image at its original size: `intersect` and `predicted` (B, K), and those
        labelled so as the targets (B, K)."""
        rows = []
        for views, target in zip(batch["image"], batch["target"], strict=True):
            prediction = segment(model, views if isinstance(views, list) else [views], target.shape, recipe)
            rows.append(count_areas(prediction, target, len(dataset.index.classes)))
        intersect, predicted, labelled = (stack(areas) for areas in zip(*rows, strict=True))
        return {"intersect": intersect, "predicted": predicted, "targets": labelled}

    def measure_all(
        self, recipe: SegmentationRecipe, targets: np.ndarray, scores: Mapping[str, np.ndarray], task: Task
    ) -> Metrics:
        """Intersection over union and its kin, from the pixels of the whole split."""
        return area_measures(scores["intersect"], scores["predicted"], targets)

    def label_map(self, model: Segmenter, original: NDArray[np.uint8], recipe: SegmentationRecipe) -> NDArray[np.int64]:
        """The class of each pixel, as evaluation has it."""
        device = next(model.parameters()).device
        seen = [view.to(device) for view in evaluation_views(recipe).images(original)]
        return segment(model, seen, original.shape[:2], recipe).cpu().numpy()

    def evaluation_steps(self, recipe: SegmentationRecipe) -> list[str]:
        """Sizes, mirror images and windows."""
        (long, short), ratios = recipe.scale, ", ".join(f"{ratio:g}" for ratio in recipe.test_ratios)
        steps = [f"resized to fit {long} x {short}"]
        if recipe.aug_test:
            steps.append(f"at {ratios} of that, also mirrored (aug_test)")
        if recipe.mode == "slide":
            (rows, columns), (down, across) = recipe.slide_crop, recipe.slide_stride
            steps.append(f"windows of {rows} x {columns}, {down} down and {across} across (slide)")
        return steps

    def seen_whole(self, recipe: SegmentationRecipe) -> Callable[[Image.Image], Tensor]:
        """The evaluation's own view, at one size."""
        views = EvalTransform(recipe.scale, (1.0,))
        return lambda image: views.images(np.asarray(image))[0]

    def pixel_shares(self, model: Segmenter, images: Tensor) -> Tensor:
        """The softmax of the logits, which are stretched to the images."""
        return whole_logits(model, images).softmax(dim=1)

    def pixel_loss(self, model: Segmenter, image: Tensor, *, target: Tensor, recipe: SegmentationRecipe) -> Tensor:
        """Of UperNet's head, by the recipe's mode, at the label map's size."""
        logits = view_logits(model, image[None], recipe, target.shape)
        loss, _ = pixel_loss(logits, target[None].clone(), avg_non_ignore=True)
        return loss

    def check_seen_once(self, recipe: SegmentationRecipe) -> None:
        """Refuse `aug_test`."""
        if recipe.aug_test:
            raise UsageError("corruptions and attacks change the image as it is seen at one size; leave --aug-test out")

    def for_any_size(self, model: Segmenter) -> Segmenter:
        """Pooling as products, and positions that are always resized (see `model.for_any_size`)."""
        return for_any_size(model)

    def attention(
        self,
        model: Segmenter,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Maps of a kind of `maps`; by default the probability of each class."""
        classes = arange(model.decode_head.conv_seg.out_channels) if classes is None else classes
        return attention_maps(model, images, classes, kind or "class", head)

    def explained_layer(self, model: Segmenter) -> Layer:
        """What UperNet's classifier sees."""
        return Layer(model.get_submodule("decode_head.fpn_bottleneck"))

    infer = staticmethod(infer)

    def load_backbone(self, model: Segmenter, recipe: SegmentationRecipe, state: dict[str, Tensor], path: Path) -> None:
        """Start from an ImageNet model, the position embedding resized; what a plain ViT does not have stays fresh, and
        is named."""
        say_fresh(start_from_classifier(model.backbone, state, path))

    fit_resolution = staticmethod(fit_resolution)


def evaluation_views(recipe: SegmentationRecipe) -> EvalTransform:
    """How an evaluated image is seen: at one size, or at several."""
    return EvalTransform(recipe.scale, recipe.test_ratios if recipe.aug_test else (1.0,))


METHOD = SegmentationMethod()
