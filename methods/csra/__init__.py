"""CSRA: class-specific residual attention (Zhu and Wu, ICCV 2021). What the engine calls; the rest stands beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from attnbias.data.index import Task
from attnbias.methods.csra.recipe import RECIPES, CSRARecipe, schedule
from attnbias.methods.engine.method import Batch, Method, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torchvision.transforms import v2

    from attnbias.methods.csra.model import CSRA


class ResidualAttention(Method):
    """Multi-label classification in which each class attends to its own part of the picture."""

    name = "csra"
    title = "Class-specific residual attention (CSRA)"
    paper = "Zhu, Wu: Residual Attention: A Simple but Effective Method for Multi-Label Recognition, ICCV 2021"
    recipe_type = CSRARecipe
    recipes = RECIPES
    untold = ("image_size", "normalize", "lam")
    maps: ClassVar[dict[str, str]] = {
        "score": "Score of the class at each location, negative ones as 0; mean over the heads, or --head.",
        "attention": "Softmax over locations that the class attends with; mean over the heads, or --head.",
    }

    def build_model(self, recipe: CSRARecipe, num_classes: int, task: Task) -> CSRA:
        """Build the backbone and its heads with fresh weights."""
        from attnbias.methods.csra.model import CSRA, MultiHeadClassifier
        from attnbias.methods.engine.backbones import build_backbone

        backbone = build_backbone(recipe.backbone, recipe.image_size)
        heads = MultiHeadClassifier(backbone.num_features, num_classes, recipe.head_temperatures, recipe.lam)
        return CSRA(backbone, heads)

    def loss(self, model: nn.Module, batch: Batch, recipe: CSRARecipe, task: Task) -> dict[str, Tensor]:
        """Mean binary cross-entropy over all labels; cross-entropy on single-label sets."""
        from attnbias.methods.csra.loss import classification_loss

        return {"loss": classification_loss(model(batch["image"]), batch["target"], task)}

    def param_groups(self, model: nn.Module, recipe: CSRARecipe) -> list[dict[str, Any]]:
        """The backbone, then the heads at `head_lr_scale` times its rate; weight decay on everything."""
        rates = {"backbone": recipe.lr, "classifier": recipe.lr * recipe.head_lr_scale}
        return [
            {"params": [*model.get_submodule(part).parameters()], "lr": lr, "weight_decay": recipe.weight_decay}
            for part, lr in rates.items()
        ]

    def schedule(self, recipe: CSRARecipe, steps_per_epoch: int) -> Schedule:
        """Warm-up and step decay as the published program computes them, or one cycle."""
        return schedule(recipe, steps_per_epoch)

    def transform(self, recipe: CSRARecipe, train: bool) -> v2.Compose:
        """Square resize; for training also flip, colour jitter, random resized crop, shift, as the recipe says."""
        from attnbias.data.transforms import basic

        if not train:
            return basic.eval_transform(recipe.image_size, recipe.normalize)
        return basic.train_transform(
            recipe.image_size,
            recipe.normalize,
            flip=recipe.flip,
            color_jitter=recipe.color_jitter,
            resized_crop=recipe.resized_crop,
            shift=recipe.shift,
        )

    def attention(
        self,
        model: nn.Module,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        kind: str | None = None,
        head: int | None = None,
    ) -> Tensor:
        """Score maps or attention of each class (B, K, h, w); the mean over the heads, or one `head`."""
        from attnbias.methods.csra.attention import class_maps

        return class_maps(cast("CSRA", model), images, classes, kind or "score", head)

    def gradcam_layer(self, model: nn.Module) -> nn.Module:
        """The whole backbone: its output is what the heads see."""
        return model.get_submodule("backbone")

    def measure(self, recipe: CSRARecipe, targets: NDArray[Any], scores: NDArray[Any], task: Task) -> dict[str, Any]:
        """The shared measures by the program's rules: average precision goes by the order of the samples where scores
        are equal, and unknown labels count as negative in WIDER's precision and recall."""
        from attnbias.methods.engine.evaluation.measures import multilabel_measures

        if task == "multilabel":
            return multilabel_measures(
                targets,
                scores,
                rule="mean",
                unknown_in_f1=recipe.unknown_in_f1,
                absent_in_f1=recipe.absent_in_f1,
            )
        return super().measure(recipe, targets, scores, task)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Translate the published program's parameter names."""
        from attnbias.methods.csra.convert import convert

        return convert(state)

    def fit_resolution(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample a ViT's position embedding to the model's picture size: 224 and 448 pixels are published."""
        from attnbias.methods.engine.backbones import fit_position_embedding

        return fit_position_embedding(model.get_submodule("backbone"), state, "backbone.model.pos_embed")

    def infer(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Tell backbone, heads and classes from the weights."""
        from attnbias.methods.csra.convert import infer

        return infer(state)

    def load_backbone(self, model: nn.Module, recipe: CSRARecipe, state: dict[str, Tensor], path: Path) -> None:
        """Fill the backbone from ImageNet weights of torchvision or timm, the authors' CutMix ResNet among them."""
        from attnbias.methods.engine.backbones import load_backbone

        load_backbone(model.get_submodule("backbone"), state, path)


METHOD = ResidualAttention()
