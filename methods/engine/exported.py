"""What is written as a graph: a model with its inputs and outputs by name, whatever its task.

Shapes: B images, C classes, K classes that maps are of, L text positions, h x w the grid of maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from attnbias.methods.engine.abilities import FitsTexts, LabelsPixels, ReadsTexts
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import steered_maps
from attnbias.methods.engine.types import Batch

EXAMPLES = 3
"""Images that are traced: sizes 0 and 1 are special to the tracer, and 2 is often another dimension's size."""


class Exported(nn.Module):
    """A model as a graph: tensors in, tensors out, `outputs` naming them; the first are its scores."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    any_size = False
    """Whether the height and width of images are free, too."""

    def __init__(self, loaded: Loaded, kind: str) -> None:
        super().__init__()
        self.method, self.model, self.task, self.recipe = loaded.method, loaded.model, loaded.task, loaded.recipe
        self.kind = kind
        """Kind of its maps."""

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace."""
        return (self.images(),)

    def feed(self, batch: Batch) -> tuple[Tensor, ...]:
        """The inputs that a batch of a dataset is."""
        return (batch["image"],)

    def dims(self) -> dict[str, dict[int, Any]]:
        """The free dimensions of each input."""
        batch = Dim("batch")
        return {name: {0: batch} for name in self.inputs}

    def images(self) -> Tensor:
        """Black images (B, 3, H, W) of the recipe's size."""
        return torch.zeros(EXAMPLES, 3, self.recipe.image_size, self.recipe.image_size)


class Classifier(Exported):
    """A classifier and where it looks. Maps are of fixed `classes`, or of each image's `top_k` best ones."""

    inputs, outputs = ("images",), ("scores", "maps", "classes")

    def __init__(self, loaded: Loaded, kind: str, head: int | None, classes: Sequence[int], top_k: int) -> None:
        super().__init__(loaded, kind)
        self.head, self.steering = head, loaded.steering
        self.top_k = min(top_k, len(loaded.classes))
        self.fixed: Tensor | None
        self.register_buffer("fixed", torch.tensor(classes) if classes else None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> probabilities (B, C), maps (B, K, h, w), their class numbers (B, K)."""
        scores = self.method.predict(self.model, images, self.task)["scores"]
        fixed = self.fixed
        classes = scores.topk(self.top_k).indices if fixed is None else fixed.expand(images.shape[0], -1)
        if self.steering is None:
            maps = self.method.attention(self.model, images, classes, kind=self.kind, head=self.head)
        else:
            maps = steered_maps(self.method, self.model, images, classes, self.kind, self.steering)
        return scores, maps.float(), classes.contiguous()


class PixelLabeller(Exported):
    """A segmenter on images of any size, seen whole: its probabilities are its maps."""

    inputs, outputs = ("images",), ("probabilities", "labels")
    any_size = True

    def __init__(self, loaded: Loaded, kind: str) -> None:
        super().__init__(loaded, kind)
        assert isinstance(loaded.method, LabelsPixels)
        self.labels: LabelsPixels[Any, Any] = loaded.method
        self.model = loaded.method.for_any_size(loaded.model)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> probabilities (B, C, H, W), the likeliest class of each pixel (B, H, W)."""
        shares = self.labels.pixel_shares(self.model, images)
        return shares, shares.argmax(1)

    def example(self) -> tuple[Tensor, ...]:
        side = self.recipe.image_size  # sides that differ from each other, and from the table of positions
        return (torch.zeros(EXAMPLES, 3, side + side // 8, side + side // 2 + side // 8),)

    def dims(self) -> dict[str, dict[int, Any]]:
        return {"images": {0: Dim("batch"), 2: Dim.AUTO, 3: Dim.AUTO}}


class Reader(Exported):
    """A model that is asked in words: images and tokens in, scores of answers (or one, of the fit) and maps out."""

    outputs = ("scores", "maps")

    def __init__(self, loaded: Loaded, kind: str, head: int | None, length: int) -> None:
        super().__init__(loaded, kind)
        assert isinstance(loaded.method, ReadsTexts)
        assert isinstance(loaded.method, FitsTexts)
        self.reads: ReadsTexts[Any, Any] = loaded.method
        self.fits: FitsTexts[Any] = loaded.method
        self.head, self.length = head, length
        pair = ("second_images",) if loaded.task == "nlvr2" else ()
        self.inputs = ("images", *pair, "text_ids", "text_mask")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), perhaps second ones, ids and mask (B, L) -> scores (B, C), or of a caption's fit (B, 1);
        maps (B, images, h, w)."""
        named = dict(zip(self.inputs, inputs, strict=True))
        batch: Batch = {"image": named["images"], "text_ids": named["text_ids"], "text_mask": named["text_mask"]}
        if "second_images" in named:
            batch["image2"] = named["second_images"]
        if self.task == "retrieval":
            scores = self.fits.pair_fit(self.model, batch)[:, None]
        else:
            found = self.reads.text_scores(self.model, batch, self.task)
            assert found is not None
            scores = found
        maps = []
        for images in (named[name] for name in self.inputs if "images" in name):
            seen: Batch = {"image": images, "text_ids": named["text_ids"], "text_mask": named["text_mask"]}
            maps.append(self.reads.text_attention(self.model, seen, kind=self.kind, head=self.head))
        return scores.float(), torch.stack(maps, dim=1)

    def example(self) -> tuple[Tensor, ...]:
        ids = torch.full((EXAMPLES, self.length), 1)
        ids[:, :3] = torch.tensor([0, 3, 2])
        pictures = [self.images() for name in self.inputs if "images" in name]
        return (*pictures, ids, (ids != 1).long())

    def feed(self, batch: Batch) -> tuple[Tensor, ...]:
        second = (batch["image2"],) if "second_images" in self.inputs else ()
        return (batch["image"], *second, batch["text_ids"], batch["text_mask"])


def check_one_pass(loaded: Loaded) -> None:
    """Refuse evaluation that is more than one pass over an image.

    Raises:
        UsageError: windows, or several sizes.
    """
    for field, value, words in (("mode", "slide", "--mode slide"), ("aug_test", True, "--aug-test")):
        if getattr(loaded.recipe, field, None) == value:
            raise UsageError(f"{words} is more than one pass over an image, which a graph cannot hold; leave it out")
