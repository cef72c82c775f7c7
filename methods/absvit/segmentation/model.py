"""AbSViT for semantic segmentation: the vision transformer's blocks as feature maps, UperNet on top.

Shi, Darrell, Wang, CVPR 2023, section 4.4. The backbone is the classification model's (methods/absvit/model.py), or a
plain ViT for comparison, on images of any size: images are padded to whole patches, the position embedding is
resized to their grid. Four maps of equal size, after each quarter of the second pass's blocks, go to UperNet's head;
the last of them also to an auxiliary head. There is no reconstruction loss here.

Shapes: B images, T tokens (the class token first, then P visual prompts), C channels, D blocks, K classes, h x w
patches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnbias.methods.absvit.convert import resize_pos_embed
from attnbias.methods.absvit.model import AbSViT
from attnbias.methods.absvit.recipe import ARCHITECTURES
from attnbias.methods.absvit.segmentation.heads import FCNHead, PoolByProducts, UPerHead
from attnbias.methods.absvit.segmentation.recipe import SegmentationRecipe


class Segmenter(nn.Module):
    """A backbone, UperNet's head on all its maps, and an auxiliary head on the last one."""

    def __init__(self, backbone: DenseViT, decode_head: UPerHead, auxiliary_head: FCNHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head

    def forward(self, images: Tensor, auxiliary: bool = False) -> Any:
        """Classify the patches of images (B, 3, H, W): logits (B, K, h, w); with `auxiliary` also those of that head.

        h and w are the image's size in patches, rounded up; `inference` brings logits to the image's size.
        """
        maps = self.backbone.feature_maps(images)
        logits = self.decode_head(maps)
        return (logits, self.auxiliary_head(maps[-1])) if auxiliary else logits


class DenseViT(VisionTransformer):
    """timm's VisionTransformer on images of any size, giving feature maps instead of classes.

    Keyword arguments are VisionTransformer's, and:

    Args:
        levels: blocks (from 0) whose outputs are the feature maps.
        prompts: visual prompt tokens (Jia et al., ECCV 2022) beside the class token; 0 = none.
        deep_prompts: every block gets prompts of its own in place of the last one's.
        prompt_dropout: dropout of the prompts.
    """

    def __init__(
        self,
        *,
        levels: Sequence[int],
        prompts: int = 0,
        deep_prompts: bool = True,
        prompt_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_classes=0, dynamic_img_size=True, dynamic_img_pad=True, **options)
        self.levels = tuple(levels)
        self.always_resized = False
        """Whether positions are resized whatever the grid: a graph for images of any size knows no branches."""
        self.prompt_embeddings = self.deep_prompt_embeddings = None
        if prompts:
            bound = math.sqrt(6 / (3 * math.prod(self.patch_embed.patch_size) + self.embed_dim))
            uniform = torch.empty(len(self.blocks), prompts, self.embed_dim).uniform_(-bound, bound)
            self.prompt_embeddings = nn.Parameter(uniform[:1])
            self.deep_prompt_embeddings = nn.Parameter(uniform[1:]) if deep_prompts else None
            self.prompt_dropout = nn.Dropout(prompt_dropout)
            self.num_prefix_tokens += prompts

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return a map (B, C, h, w) for each of `levels`, h and w being the image's size in patches, rounded up."""
        patches = self.patch_embed(images)  # (B, h, w, C)
        maps = []
        for block, x in enumerate(self.stream(patches, self.signals(patches)), start=-1):
            if block in self.levels:
                if block == len(self.blocks) - 1:  # only the last one is normalised
                    x = self.fc_norm(self.norm(x))
                maps.append(x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, patches.shape[1:3]))
        return maps

    def signals(self, patches: Tensor) -> Iterable[Tensor] | None:
        """Top-down signals of the blocks; None without a pass before this one."""
        return None

    def stream(self, patches: Tensor, feedback: Iterable[Tensor] | None = None) -> Iterator[Tensor]:
        """Yield what each block gets of embedded patches (B, h, w, C), then what the last one gives: D + 1 tensors
        (B, T, C)."""
        x = self._pos_embed(patches)
        nothing = [None] * len(self.blocks)
        signals = nothing if feedback is None else feedback
        deep = nothing if self.deep_prompt_embeddings is None else [None, *self.deep_prompt_embeddings]
        for block, prompts, topdown in zip(self.blocks, deep, signals, strict=True):
            if prompts is not None:
                x = self._prompted(x[:, :1], prompts[None], x[:, self.num_prefix_tokens :])
            yield x
            step = block if topdown is None else partial(block, topdown=topdown)
            x = checkpoint(step, x, use_reentrant=False) if self.grad_checkpointing and self.training else step(x)
        yield x

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """Put the class token before the patches (B, h, w, C), add positions, insert prompts: (B, T, C)."""
        first: Tensor | None = self.cls_token
        positions: Tensor | None = self.pos_embed
        assert first is not None
        assert positions is not None
        x = torch.cat([first.expand(patches.shape[0], -1, -1), patches.flatten(1, 2)], dim=1)
        # The program compares numbers of tokens: a grid of another shape but as many patches takes the square table.
        if self.always_resized or x.shape[1] != positions.shape[1]:
            positions = resize_pos_embed(positions, (patches.shape[1], patches.shape[2]))
        x = self.pos_drop(x + positions)
        return x if self.prompt_embeddings is None else self._prompted(x[:, :1], self.prompt_embeddings, x[:, 1:])

    def _prompted(self, first: Tensor, prompts: Tensor, patches: Tensor) -> Tensor:
        """Join the class token, prompts (1, P, C) and patch tokens."""
        return torch.cat([first, self.prompt_dropout(prompts).expand(first.shape[0], -1, -1), patches], dim=1)


class DenseAbSViT(DenseViT, AbSViT):
    """AbSViT's two passes on images of any size; the maps are the second pass's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_parameter("prompt", self._parameters.pop("prompt"))  # the published order of the weights

    def signals(self, patches: Tensor) -> Iterable[Tensor]:
        """What the first pass says to each block of the second, (B, T, C)."""
        return self.feedback(self.weighted(self.encode(patches)))


def for_any_size(model: Segmenter) -> Segmenter:
    """A copy of a model whose operations a graph can hold for images of any size.

    An image with as many patches as the square has, in another shape, gets positions of its own shape there.
    """
    copied = copy.deepcopy(model)
    copied.backbone.always_resized = True
    for module in copied.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                assert isinstance(child.output_size, int)
                setattr(module, name, PoolByProducts(child.output_size))
    return copied


# From a recipe --------------------------------------------------------------------------------------------------------


def build(recipe: SegmentationRecipe, num_classes: int) -> Segmenter:
    """Build the backbone and both heads, as the recipe says."""
    backbone = build_backbone(recipe)
    width = backbone.embed_dim
    decode_head = UPerHead(
        [width] * len(backbone.levels),
        recipe.channels,
        num_classes,
        pool_scales=recipe.pool_scales,
        dropout=recipe.head_dropout,
    )
    return Segmenter(
        backbone, decode_head, FCNHead(width, recipe.aux_channels, num_classes, dropout=recipe.head_dropout)
    )


def build_backbone(recipe: SegmentationRecipe) -> DenseViT:
    """Build AbSViT, or the plain ViT of the same size, as the recipe says; what it freezes is frozen."""
    options = dict(ARCHITECTURES[recipe.architecture])
    quarter = options["depth"] // 4
    options |= {
        "img_size": recipe.image_size,
        "levels": range(quarter - 1, options["depth"], quarter),
        "pos_drop_rate": recipe.dropout,
        "proj_drop_rate": recipe.dropout,
        "attn_drop_rate": recipe.attention_dropout,
        "drop_path_rate": recipe.drop_path,
        "prompts": recipe.prompt_tokens if recipe.transfer == "prompt" else 0,
        "deep_prompts": recipe.deep_prompts,
        "prompt_dropout": recipe.prompt_dropout,
    }
    backbone = DenseAbSViT(**options) if recipe.top_down else DenseViT(**options)
    freeze(backbone, recipe.transfer)
    return backbone


TRAINED: dict[str, tuple[str, ...]] = {
    "end2end": ("",),
    "linear": (),
    "prompt": ("prompt",),
    "top-down": ("decoders", "prompt"),
}
"""Transfer types -> what the names of the backbone's parameters must hold to be trained."""


def freeze(backbone: DenseViT, transfer: str) -> None:
    """Leave only what the transfer type trains with gradients."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINED[transfer]))
