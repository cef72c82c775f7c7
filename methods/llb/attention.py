"""Where LLB looks: the class tokens' attention in both branches, and which latent object fires on which patch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.maps import attention_weights
from attnbias.methods.engine.vision_transformers import steps
from attnbias.methods.llb.model import LLB


@torch.no_grad()
def attention(model: LLB, images: Tensor, count: int, kind: str, head: int | None) -> Tensor:
    """Maps (B, count, h, w), float32. All kinds look alike for every class: one map, repeated `count` times.

    "branch", "visual": softmax weights from the class token to the patches in the last block of either branch, the
    mean over heads or one `head`; of a backbone without class token, the mean over its patches' weights. "objects":
    each patch's share of object number `head`, or of its strongest object.

    Raises:
        UsageError: `head` is out of range, or the model has the legacy SWAG axis, which leaves no patches to map.
    """
    if kind == "objects":
        shares = _shares(model, images)  # (B, P, O)
        maps = shares.amax(-1) if head is None else shares[..., _checked(head, shares.shape[-1], "object")]
    else:
        weights = _visual_weights(model, images) if kind == "visual" else _branch_weights(model, images)
        maps = weights.mean(1) if head is None else weights[:, _checked(head, weights.shape[1], "head")]
    return _on_grid(model, maps)[:, None].expand(-1, count, -1, -1)


def _visual_weights(model: LLB, images: Tensor) -> Tensor:
    """What the backbone's last block takes from each patch, (B, heads, P)."""
    network = model.backbone
    before = model.tokens(images, len(network.blocks) - 1)
    to_patches = attention_weights(steps(network)[-1], before)[..., network.num_prefix_tokens :]  # (B, heads, S, P)
    return to_patches.mean(2) if network.cls_token is None else to_patches[:, :, 0]


def _branch_weights(model: LLB, images: Tensor) -> Tensor:
    """What the branch's token takes from each patch in its last block, (B, heads, P)."""
    start = model.branch.embed(model.branch.assign(model.tokens(images, model.tapped_block)).tokens)
    before = model.branch.structure(start, len(model.branch.blocks) - 2)
    return attention_weights(model.branch.blocks[-1], before)[:, :, 0, 1:]


class ObjectMaps(NamedTuple):
    """Which object fires where; each (B, h, w) on the patch grid."""

    strongest: Tensor
    """The strongest object of each patch, int64."""
    share: Tensor
    """Its share, in (0, 1]."""
    entropy: Tensor
    """Entropy (natural logarithm) of the patch's assignment: 0 = one object, log O = all alike."""


@torch.no_grad()
def object_maps(model: LLB, images: Tensor) -> ObjectMaps:
    """Map images (B, 3, H, W) to objects."""
    shares = _shares(model, images)
    best = shares.max(-1)
    entropy = -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum(-1)
    return ObjectMaps(*(_on_grid(model, value) for value in (best.indices, best.values, entropy)))


class ObjectSurvey(NamedTuple):
    """How a set of images uses the objects."""

    usage: Tensor
    """Share of all patches that each object takes, (O,), summing to one."""
    images: Tensor
    """Ids of the images that each object fills most, (O, count), best first."""
    filled: Tensor
    """Which share of those images it fills, (O, count)."""


@torch.no_grad()
def survey_objects(model: LLB, batches: Iterable[tuple[Tensor, Tensor]], count: int = 9) -> ObjectSurvey:
    """Go over images once, in batches of images (B, 3, H, W) and ids (B,), and note who uses which object.

    Raises:
        UsageError: there are no images.
    """
    objects = len(model.branch.objects.embeddings)
    usage = torch.zeros(objects, dtype=torch.float64)
    filled, image_ids = torch.empty(objects, 0), torch.empty(objects, 0, dtype=torch.int64)
    seen = 0
    for images, ids in batches:
        shares = _shares(model, images).mean(1).cpu()  # (B, P, O) -> (B, O)
        usage += shares.double().sum(0)
        seen += len(images)
        filled = torch.cat([filled, shares.T], dim=1)  # (O, count + B)
        image_ids = torch.cat([image_ids, ids.cpu().expand(objects, -1)], dim=1)
        filled, best = filled.topk(min(count, filled.shape[1]), dim=1)
        image_ids = image_ids.gather(1, best)
    if not seen:
        raise UsageError("no images to survey objects over")
    return ObjectSurvey((usage / seen).float(), image_ids, filled)


def _shares(model: LLB, images: Tensor) -> Tensor:
    if model.branch.axis == 0:
        raise UsageError("a model with legacy_swag_axis assigns whole batches, not patches: it has no object maps")
    return model.branch.assign(model.tokens(images, model.tapped_block)).shares


def _on_grid(model: LLB, patches: Tensor) -> Tensor:
    return patches.unflatten(-1, model.backbone.patch_embed.grid_size)  # (B, P) -> (B, h, w)


def _checked(number: int, count: int, what: str) -> int:
    if not 0 <= number < count:
        raise UsageError(f"{what} {number} does not exist: there are {count}, numbered from 0")
    return number
