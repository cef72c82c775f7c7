"""Batches of images with texts, as each of AbSViT's vision-language tasks reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnbias.methods.absvit.vision_language.text import END


def texts(count: int, length: int = 10) -> tuple[Tensor, Tensor]:
    """Sentences of 3 to `length` tokens: ids and mask (count, length)."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 50, (count, length), generator=generator)
    lengths = torch.randint(3, length + 1, (count,), generator=generator)
    position = torch.arange(length)
    ids[:, 0] = 0
    ids[position == lengths[:, None] - 1] = END
    ids[position >= lengths[:, None]] = 1
    return ids, (position < lengths[:, None]).long()


def make_images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def samples(task: str, count: int = 4) -> dict[str, Any]:
    """A batch of a task."""
    ids, mask = texts(count)
    batch: dict[str, Any] = {"image": make_images(count), "text_ids": ids, "text_mask": mask}
    batch |= {"index": torch.arange(count), "errors": [], "target": torch.arange(count) % 2}
    if task == "vqa":
        batch["target"] = torch.rand(count, 5)
    if task == "nlvr2":
        batch["image2"] = make_images(2 * count)[count:]
    if task == "retrieval":
        false_ids, false_mask = texts(4 * count)
        batch |= {"false_image": make_images(2 * count)[count:], "target": torch.zeros(count, dtype=torch.int64)}
        batch |= {"false_text_ids": false_ids[count:].view(count, 3, -1)}
        batch |= {"false_text_mask": false_mask[count:].view(count, 3, -1)}
    return batch
