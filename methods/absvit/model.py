"""AbSViT: a vision transformer that looks twice, the second time steered by what it wants to see.

Baifeng Shi, Trevor Darrell, Xin Wang: "Top-Down Visual Attention from Analysis by Synthesis", CVPR 2023, arXiv
2303.13043. The first pass is a plain ViT. Its tokens are weighted by their similarity to a prior (a learned prompt, a
class, any vector) and sent down a chain of linear decoders; the second pass adds what each decoder says to the values
of its block's attention. The decoders are trained to reconstruct each block's input from its output.

Equal to the authors' program up to rounding, and cheaper: patches are embedded once for both passes, only the value
part of the projection sees the feedback, the reconstruction error is computed only when asked for, and without
gradients the decoder chain is folded into one matrix per block.

`--backbone` takes any of timm's plain vision transformers in place of the paper's sizes.

Shapes: B images, T tokens (the network's prefix tokens, as the class token, first), C channels, D blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnbias.methods.absvit.recipe import ARCHITECTURES, AbSViTRecipe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.precision import without_autocast
from attnbias.methods.engine.vision_transformers import build_vit, embedded, outline_of
from attnbias.methods.engine.vit_stem import stem_options


class Passes(NamedTuple):
    """What training needs: the logits of both passes and how well each block's input was reconstructed."""

    first: Tensor
    """(B, classes), bottom-up."""
    second: Tensor
    """(B, classes), top-down."""
    errors: Tensor
    """(D,) mean squared error of each decoder, first block first."""
    mask: Tensor
    """(B, T, 1) in [0, 1]: how much of each token is fed back."""


class AbSViT(VisionTransformer):
    """timm's VisionTransformer with a learned prior, a decoder for each block, and a second pass.

    Keyword arguments are VisionTransformer's. `gain` multiplies the weighted tokens before they are decoded
    (`feedback_aug` in the program, where it is 1; its demo multiplies by 40 to steer by a class).
    """

    def __init__(self, *, gain: float = 1.0, **options: Any) -> None:
        super().__init__(**TOP_DOWN, **options)
        self._look_twice(gain)

    @classmethod
    def over(cls, network: VisionTransformer, gain: float) -> AbSViT:
        """Let a network of timm's with `TOP_DOWN` blocks look twice: timm builds networks by name as its own class."""
        network.__class__ = cls
        model = cast(AbSViT, network)
        model._look_twice(gain)
        return model

    def _look_twice(self, gain: float) -> None:
        """Add what the second pass needs: the prior, and a decoder for each block."""
        self.gain = gain
        self.prompt = nn.Parameter(torch.randn(self.embed_dim))
        decoders = nn.ModuleList(Decoder(self.embed_dim) for _ in self.blocks)
        self.decoders = cast("Sequence[Decoder]", decoders)
        for name in ("fc_norm", "head_drop", "head"):  # the published order of the weights
            self._modules[name] = self._modules.pop(name)
        self._folded: tuple[list[tuple[int, int]], list[Tensor]] | None = None

    def forward(
        self, images: Tensor, prior: Tensor | None = None, gain: float | None = None, *, passes: bool = False
    ) -> Any:
        """Classify images (B, 3, H, W): logits (B, classes), or all of `Passes` where training asks for it.

        Args:
            images: (B, 3, H, W), normalised.
            prior: What to look for: None = the learned prompt; class ids, () or (B,) int64, -1 = the prompt again; a
                vector, (C,) or (B, C).
            gain: Strength of the feedback, in place of the model's own.
            passes: Return `Passes`; costs a second head and the reconstruction errors.
        """
        if not passes:
            return self.forward_head(self.forward_features(images, prior, gain))
        patches = self.patch_embed(images)
        first = self.encode(patches)
        states: list[Tensor] = []
        mask = self.prior_mask(first, prior)
        second = self.encode(patches, self.feedback(self._let_through(first, mask, gain)), states)
        return Passes(self.forward_head(first), self.forward_head(second), self.reconstruction_errors(states), mask)

    def forward_features(self, images: Tensor, prior: Tensor | None = None, gain: float | None = None) -> Tensor:
        """Return the final tokens of the second pass, (B, T, C)."""
        patches = self.patch_embed(images)
        return self.encode(patches, self.feedback(self.weighted(self.encode(patches), prior, gain)))

    def encode(
        self, patches: Tensor, feedback: Iterable[Tensor] | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """Run one pass over embedded patches and return its final tokens (B, T, C).

        `feedback` gives each block's signal (B, T, C). A list given as `states` receives what `stream` yields; without
        one that is let go, which saves time.
        """
        for x in self.stream(patches, feedback):
            if states is not None:
                states.append(x)
        return self.norm(x)

    def stream(self, patches: Tensor, feedback: Iterable[Tensor] | None = None) -> Iterator[Tensor]:
        """Yield what the first block gets, then what each block gives: D + 1 tensors (B, T, C)."""
        return residual_stream(self, patches, feedback)

    def class_vectors(self) -> Tensor:
        """The rows of the head, what each class is as a prior: (classes, C)."""
        assert isinstance(self.head, nn.Linear)
        return self.head.weight

    def prior_mask(self, tokens: Tensor, prior: Tensor | None = None) -> Tensor:
        """Weigh tokens (B, T, C) by their cosine with the prior, negative ones at 0: (B, T, 1) in [0, 1]."""
        if prior is None:
            prior = self.prompt
        elif not prior.is_floating_point():
            rows = self.class_vectors()[prior.clamp_min(0)]
            prior = torch.where(prior[..., None] < 0, self.prompt, rows)
        direction = F.normalize(prior, dim=-1).reshape(-1, self.embed_dim, 1)  # (1 or B, C, 1)
        return (F.normalize(tokens, dim=-1) @ direction).clamp(0, 1)

    def weighted(self, tokens: Tensor, prior: Tensor | None = None, gain: float | None = None) -> Tensor:
        """Return the tokens that the prior lets through, (B, T, C): what goes back to the top of the decoders."""
        return self._let_through(tokens, self.prior_mask(tokens, prior), gain)

    def _let_through(self, tokens: Tensor, mask: Tensor, gain: float | None) -> Tensor:
        return tokens * mask * (self.gain if gain is None else gain)

    @torch.no_grad()
    def start_prompt(self, images: Tensor) -> float:
        """Turn the prompt towards the mean token of images (B, 3, H, W), and keep its length; the mask's mean there."""
        training = self.training
        self.eval()
        tokens = self.encode(self.patch_embed(images))
        self.train(training)
        self.prompt.copy_(F.normalize(tokens.mean((0, 1)), dim=0) * self.prompt.norm())
        return float(self.prior_mask(tokens).mean())

    def feedback(self, signal: Tensor) -> Iterable[Tensor]:
        """Decode the weighted tokens (B, T, C) from the top down: each block's signal (B, T, C), first block first."""
        if not (torch.is_grad_enabled() or torch.compiler.is_exporting()):
            # Each signal is made when its block needs it, so that only one at a time is in memory.
            return (F.linear(signal, matrix) for matrix in self.folded_decoders())
        signals = []
        for decoder in reversed(self.decoders):
            signal, topdown = decoder(signal)
            signals.append(topdown)
        return signals[::-1]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # a graph cannot read versions
    def folded_decoders(self) -> list[Tensor]:
        """Multiply the chain out: one (C, C) matrix a block, from the weighted tokens to the block's signal.

        The matrices are kept until a decoder's weights move or change in place.
        """
        weights = [(decoder.linear.weight, decoder.linear2.weight) for decoder in self.decoders]
        stamp = [(w.data_ptr(), 0 if w.is_inference() else w._version) for pair in weights for w in pair]
        if self._folded is None or self._folded[0] != stamp:
            with torch.no_grad(), without_autocast(self.prompt.device):
                like, matrices = weights[0][0], []
                chain = torch.eye(self.embed_dim, dtype=like.dtype, device=like.device)
                for linear, linear2 in reversed(weights):
                    chain = linear @ chain
                    matrices.append(linear2 @ chain)
            self._folded = (stamp, matrices[::-1])
        return self._folded[1]

    def reconstruction_errors(self, states: Sequence[Tensor]) -> Tensor:
        """Compare each decoder's guess of its block's input with that input: (D,) mean squared errors.

        Only the decoders' first matrices learn from it: both ends are detached.
        """
        ends = zip(self.decoders, states[:-1], states[1:], strict=True)
        errors = [F.mse_loss(decoder.linear(after.detach()), before.detach()) for decoder, before, after in ends]
        return torch.stack(errors)


# Parts ----------------------------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """One block's step of the way down: `linear` guesses the block's input, `linear2` turns that into its signal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.linear2 = nn.Linear(width, width, bias=False)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.trunc_normal_(self.linear2.weight, std=0.02)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Return what goes further down, and the signal of this block, both shaped like the input (B, T, C)."""
        below = self.linear(signal)
        return below, self.linear2(below)


class TopDownBlock(Block):
    """A pre-norm transformer block that hands a top-down signal to its attention, past the norm."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, topdown: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, T, C) to tokens (B, T, C)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask, is_causal, topdown)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TopDownAttention(Attention):
    """Self-attention whose values also see a top-down signal."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, topdown: Tensor | None = None
    ) -> Tensor:
        """Attend over tokens x (B, T, C); `topdown` (B, T, C) is added to what the values are projected from."""
        if topdown is None:
            return super().forward(x, attn_mask, is_causal)
        batch, tokens, width = x.shape
        # The program projects x and the signal separately, each with the bias, so that the value bias counts twice.
        # One projection of the sum is the same; a signal of zeros is still not the same as no signal.
        weight, value_weight = self.qkv.weight.split((2 * width, width))
        bias, value_bias = (None, None) if self.qkv.bias is None else self.qkv.bias.split((2 * width, width))
        queries_keys = F.linear(x, weight, bias).reshape(batch, tokens, 2, self.num_heads, self.head_dim)
        q, k = queries_keys.permute(2, 0, 3, 1, 4)  # (B, heads, T, C / heads) each
        v = F.linear(x + topdown, value_weight, None if value_bias is None else 2 * value_bias)
        v = v.reshape(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask, dropout, is_causal)
        return self.proj_drop(self.proj(self.norm(x.transpose(1, 2).reshape(batch, tokens, width))))


TOP_DOWN: dict[str, Any] = {"block_fn": TopDownBlock, "attn_layer": TopDownAttention}
"""timm's options for blocks that take a signal from above."""


def residual_stream(
    network: VisionTransformer, patches: Tensor, feedback: Iterable[Tensor] | None = None
) -> Iterator[Tensor]:
    """Yield what the first block gets of embedded patches, then what each block gives: D + 1 tensors (B, T, C).

    `feedback` is each block's signal (B, T, C), which only `TopDownBlock` takes.
    """
    x = embedded(network, patches)
    yield x
    for block, topdown in zip(network.blocks, repeat(None) if feedback is None else feedback, strict=False):
        step = block if topdown is None else partial(block, topdown=topdown)
        if network.grad_checkpointing and torch.is_grad_enabled():
            x = checkpoint(step, x, use_reentrant=False)
        else:
            x = step(x)
        yield x


# From a recipe --------------------------------------------------------------------------------------------------------


def build(recipe: AbSViTRecipe, num_classes: int) -> VisionTransformer:
    """Build AbSViT, or timm's plain ViT of the same size, as the recipe says.

    Raises:
        UsageError: the recipe's backbone is not one that can look twice.
    """
    drops = {
        "pos_drop_rate": recipe.dropout,
        "proj_drop_rate": recipe.dropout,
        "attn_drop_rate": recipe.attention_dropout,
        "drop_path_rate": recipe.drop_path,
    }
    if recipe.backbone is not None:
        return _build_over(recipe.backbone, recipe, num_classes, drops)
    size = ARCHITECTURES[recipe.architecture]
    stem = stem_options(recipe.stem, size["patch_size"], size["embed_dim"])
    options = {**size, **stem, "img_size": recipe.image_size, "num_classes": num_classes, **drops}
    return AbSViT(gain=recipe.feedback_gain, **options) if recipe.top_down else VisionTransformer(**options)


def _build_over(name: str, recipe: AbSViTRecipe, num_classes: int, drops: dict[str, float]) -> VisionTransformer:
    outline = outline_of(name)
    kinds = (type(outline), type(outline.blocks[0]), type(outline.blocks[0].attn))
    if kinds != (VisionTransformer, Block, Attention):
        raise UsageError(
            f"backbone {name} is {', '.join(kind.__name__ for kind in kinds)}: AbSViT feeds back into the values of "
            "timm's plain VisionTransformer, as DeiT's and DeiT-3's, DINOv2's, CLIP's and SigLIP's are"
        )
    blocks = TOP_DOWN if recipe.top_down else {}
    network = cast(VisionTransformer, build_vit(name, recipe.image_size, num_classes, **blocks, **drops))
    return AbSViT.over(network, recipe.feedback_gain) if recipe.top_down else network
