"""Retrieval, measured exactly: every image with every caption. Texts are read once, first passes made once."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbias.data.language import Captions
from attnbias.data.to_device import to_device
from attnbias.methods.absvit.vision_language.model import Text, VisionLanguageModel
from attnbias.methods.engine.types import Batch

PAIRS = 128
"""Pairs of image and caption at a time; texts are read as many at a time."""


def rank_captions(model: VisionLanguageModel, batch: Batch, captions: Captions) -> dict[str, Tensor]:
    """What an evaluation keeps of images: their fit with all M captions, and which of these are theirs, (B, M)."""
    own = batch["index"][:, None] == captions.images  # (B, M)
    return {"fit": score_pairs(model, batch["image"], captions.text_ids, captions.text_mask), "targets": own}


@torch.no_grad()
def score_pairs(model: VisionLanguageModel, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Score images (B, 3, H, W) with all captions (M, L): (B, M) float32.

    Captions go through the model in the order of their lengths and without the padding that all of a part share, which
    nothing of the model can see.
    """
    lengths = mask.sum(1)
    parts = lengths.argsort().split(PAIRS)
    device = images.device
    texts: list[Text] = []
    for part in parts:
        longest = int(lengths[part].max())
        texts.append(model.read(to_device(ids[part, :longest], device), to_device(mask[part, :longest], device)))
    columns = [to_device(part, device) for part in parts]
    surveyed = model.survey(images)
    scores = torch.empty(len(images), len(ids), device=device)
    for position in range(len(images)):
        for part, text in zip(columns, texts, strict=True):
            owners = torch.full((len(part),), position, device=device)
            scores[position, part] = model.rank(surveyed, text, owners).float()
    return scores
