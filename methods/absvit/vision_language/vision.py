"""AbSViT steered by a text: the prior of the second pass is what a linear layer makes of the text's prompt.

Shapes: B images, T tokens (the class token first), C channels, E channels of the text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.absvit.model import AbSViT
from attnbias.methods.absvit.recipe import ARCHITECTURES, Architecture


class TextSteeredViT(AbSViT):
    """AbSViT without a prompt of its own and without a head.

    The program multiplies the weighted tokens by p p^T, p being the prior. That is a number for each token times p, so
    the decoders work on p alone, a single token, and each block's signal is the number times what they make of it.
    """

    def __init__(self, text_width: int, **options: Any) -> None:
        super().__init__(num_classes=0, **options)
        del self.prompt
        self.prompt_decoder = nn.Linear(text_width, self.embed_dim)
        nn.init.trunc_normal_(self.prompt_decoder.weight, std=0.02)
        nn.init.zeros_(self.prompt_decoder.bias)

    def look(self, images: Tensor, prompt: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return the final tokens (B, T, C) of images (B, 3, H, W) looked at with prompts (B, E).

        A list given as `states` receives the states of the second pass (see `AbSViT.encode`).
        """
        patches = self.patch_embed(images)
        return self.second_pass(patches, self.encode(patches), prompt, states)

    def second_pass(self, patches: Tensor, first: Tensor, prompt: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return the final tokens (B, T, C), given embedded patches, the first pass's tokens and the prompts."""
        return self.encode(patches, self.signals(first, self.prompt_decoder(prompt)), states)

    def signals(self, tokens: Tensor, prior: Tensor, gain: float | None = None) -> Iterator[Tensor]:
        """Yield each block's signal (B, T, C), first block first, for priors (B, C); `gain` in place of its own."""
        strength = self.weighted(tokens, prior, gain) @ prior[:, :, None]  # (B, T, 1)
        signal, decoded = prior[:, None], []  # (B, 1, C)
        for decoder in reversed(self.decoders):
            signal, topdown = decoder(signal)
            decoded.append(topdown)
        return (strength * topdown for topdown in reversed(decoded))


def build_vision(
    architecture: Architecture, image_size: int, *, top_down: bool, text_width: int, gain: float
) -> VisionTransformer:
    """Build the vision side: all tokens of the last block, normalised; no head."""
    options = {**ARCHITECTURES[architecture], "global_pool": "token", "img_size": image_size}
    if top_down:
        return TextSteeredViT(text_width, gain=gain, **options)
    return VisionTransformer(num_classes=0, **options)
