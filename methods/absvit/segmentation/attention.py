"""Where a segmenter looks: at each class, through its prior, and where the pixels of a class draw from.

Shapes: B images, K classes, N patches, T tokens (the class token and visual prompts first), C channels, h x w the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnbias.methods.absvit.attention import check_head, joint_attention, late_norms, top_of_range
from attnbias.methods.absvit.segmentation.model import DenseAbSViT, DenseViT, Segmenter
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import of_classes


@torch.no_grad()
def attention_maps(model: Segmenter, images: Tensor, classes: Tensor, kind: str, head: int | None = None) -> Tensor:
    """Compute maps (B, K, h, w) of one kind of the method's `maps`.

    `classes` is (K,) or (B, K) int64. Only `class` and `rollout` differ between classes. `head` is for rollout.

    Raises:
        UsageError: a kind that needs the second pass of a plain ViT, or a head that does not exist.
    """
    backbone = model.backbone
    check_head(backbone, kind, head)
    classes = classes.to(images.device).expand(images.shape[0], -1)  # (B, K)
    patches = backbone.patch_embed(images)  # (B, h, w, C)
    match kind:
        case "class":
            return class_shares(model, images, classes)
        case "rollout":
            drawn = rollout(backbone, patches, head)  # (B, N, N)
            shares = class_shares(model, images, classes).flatten(2)
            values = shares @ drawn / shares.sum(-1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        case "prompt":
            values = top_of_range(feature_norms(backbone, patches, second=True))[:, None]
        case "bottom-up":
            values = top_of_range(feature_norms(backbone, patches, second=False))[:, None]
        case _ if not isinstance(backbone, DenseAbSViT):
            raise UsageError(f"--map {kind} needs the second pass; a plain ViT has class, rollout, prompt, bottom-up")
        case _:
            mask = backbone.prior_mask(backbone.encode(patches))[:, backbone.num_prefix_tokens :, 0]
            values = top_of_range(mask)[:, None]
    return values.float().expand(-1, classes.shape[1], -1).unflatten(-1, patches.shape[1:3])


def class_shares(model: Segmenter, images: Tensor, classes: Tensor) -> Tensor:
    """Probability (B, K, h, w) float32 that each patch is of each asked class (B, K)."""
    return of_classes(model(images).float().softmax(dim=1), classes)


def feature_norms(backbone: DenseViT, patches: Tensor, second: bool) -> Tensor:
    """L2 norm over channels of each patch token (B, N), as the last quarter of the blocks receives it (see AbSViT)."""
    return late_norms(backbone, backbone.stream(patches, backbone.signals(patches) if second else None))


def rollout(backbone: DenseViT, patches: Tensor, head: int | None = None) -> Tensor:
    """Attention rollout (Abnar & Zuidema, ACL 2020): how much of patch j reaches the end of patch i, (B, N, N).

    Where every block has prompts of its own, what earlier ones took in ends there.
    """
    prefix = backbone.num_prefix_tokens
    prompts = slice(1, prefix) if backbone.deep_prompt_embeddings is not None else None
    joint = joint_attention(backbone, backbone.stream(patches, backbone.signals(patches)), head, prompts)
    return joint[:, prefix:, prefix:]
