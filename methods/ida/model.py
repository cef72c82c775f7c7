"""Interventional dual attention: the head, and the model that puts it on a backbone.

Paper: "Causality Compensated Attention for Contextual Biased Visual Recognition", Liu, Huang, Li, Li, ICLR 2023
(OpenReview 8XqDnrmZQNF). Context is a confounder of features and label, and attention makes it worse. The remedy
approximates P(Y | do(X)) by sampling the features N times: a first attention looks, for each class, at each sample
(SCA, spatial class-aware attention); a second one weighs the samples against each other (DPA, dot-product attention).

The details follow the only public program (yu-gi-oh-leilei/IDA_2023ICLR, unofficial); README.md lists them.

Shapes: B images, C classes, D channels, h x w positions, N samples, d = D / N channels a sample, M = B * C rows of
tokens, L layers of the second attention.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.engine.errors import UsageError

TokenLayout = Literal["interleaved", "per_sample"]

FFN_WIDTH = 2048
"""Hidden width of the heavy head's feed-forward part, whatever d is (published program)."""


class IDA(nn.Module):
    """A backbone under an interventional (or a linear) classifier."""

    def __init__(self, backbone: nn.Module, head: InterventionalClassifier | LinearClassifier) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, C)."""
        return self.head(self.backbone(images))


class LinearClassifier(nn.Module):
    """The baseline that the paper compares with: average pooling, then one linear layer."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, h, w) to logits (B, C)."""
        return self.fc(features.mean((2, 3)))


class Trace(NamedTuple):
    """What the interventional classifier computed on its way, for maps and tests."""

    logits: Tensor  # (B, C)
    spatial: Tensor  # (B, N, C, h, w): where each class looks in each sample; sums to 1 over positions
    tokens: Tensor  # (B * C, N, d): what goes into the second attention
    mixed: Tensor  # (B * C, N, d): what comes out of it
    token_attention: Tensor  # (B, C, L, N, N): each layer's weights, sums to 1 over the last axis


class InterventionalClassifier(nn.Module):
    """Spatial class-aware attention over N samples of the features, then attention over the samples.

    Light: one attention layer. Heavy: two post-norm Transformer layers and an output projection.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        samples: int = 4,
        heavy: bool = True,
        beta: float = 1 / 32,
        token_layout: TokenLayout = "interleaved",
    ) -> None:
        super().__init__()
        width = dim // samples
        if width * samples != dim:
            raise UsageError(
                f"the backbone's {dim} feature channels cannot be cut into {samples} equal samples (--samples)"
            )
        self.beta = beta
        self.token_layout = token_layout
        # The published program keeps N 1x1 convolutions; one tensor lets all samples go through one product.
        self.weight = nn.Parameter(torch.empty(samples, num_classes, width))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)  # a convolution's default
        layer = TransformerLayer(width) if heavy else AttentionLayer(width)
        # Copies of one layer: as in the program, both start from the same values.
        self.layers = nn.ModuleList(deepcopy(layer) for _ in range(2 if heavy else 1))
        self.out_proj = nn.Linear(dim, dim) if heavy else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, h, w) to logits (B, C)."""
        vectors = self.class_vectors()  # (N, C, d)
        keys = self.sample(features)  # (B, N, h * w, d)
        # Softmax over positions, in float32 whatever the input: with unscaled scores this is SCA, all samples at once.
        queries = vectors.to(keys.dtype).expand(keys.shape[0], -1, -1, -1)
        attended = F.scaled_dot_product_attention(queries, keys, keys, scale=1.0)  # (B, N, C, d)
        tokens = self.tokens(attended)  # (B * C, N, d)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.classify(tokens, vectors)

    def trace(self, features: Tensor) -> Trace:
        """Compute the same as `forward`, in float32, and keep the attention of both kinds."""
        vectors = self.class_vectors()
        spatial = self.spatial_attention(features)
        tokens = entering = self.tokens(spatial.flatten(3) @ self.sample(features.float()))
        weights = []
        for layer in self.layers:
            assert isinstance(layer, AttentionLayer)
            weights.append(layer.attention(tokens))
            tokens = layer(tokens)
        return Trace(
            logits=self.classify(tokens, vectors),
            spatial=spatial,
            tokens=entering,
            mixed=tokens,
            token_attention=torch.stack(weights, 1).unflatten(0, (features.shape[0], -1)),
        )

    def spatial_attention(self, features: Tensor) -> Tensor:
        """Where each class looks in each sample of features (B, D, h, w): (B, N, C, h, w), sums to 1 over positions."""
        scores = self.class_vectors() @ self.sample(features.float()).transpose(-1, -2)  # (B, N, C, h * w)
        return scores.softmax(-1).unflatten(-1, features.shape[2:])

    def class_vectors(self) -> Tensor:
        """Each class's weights over (their length + beta): (N, C, d), float32. x / (|x| + beta) stays finite at 0."""
        weight = self.weight.float()
        return weight / (weight.norm(dim=-1, keepdim=True) + self.beta)

    def sample(self, features: Tensor) -> Tensor:
        """Cut the channels into N contiguous blocks, the "multiple sampling": (B, D, h, w) -> (B, N, h * w, d)."""
        return features.flatten(2).unflatten(1, (len(self.weight), -1)).transpose(-1, -2)

    def tokens(self, attended: Tensor) -> Tensor:
        """Lay the samples' class features (B, N, C, d) out as N tokens for each image and class: (B * C, N, d)."""
        width = attended.shape[-1]
        if self.token_layout == "per_sample":
            return attended.transpose(1, 2).reshape(-1, len(self.weight), width)
        # paper: token n is sample n; program: it views (C, d, N) as (C, N, d) without a transpose, so each token mixes
        # all samples over 1/N of their channels. We follow the program: its weights and figures need it.
        return attended.permute(0, 2, 3, 1).reshape(-1, len(self.weight), width)

    def classify(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        """Score each class's tokens (B * C, N, d) against its own vectors: (B, C)."""
        samples, classes, width = vectors.shape
        outputs = self.out_proj(tokens.reshape(-1, classes, samples * width))  # (B, C, D)
        return torch.einsum("bcd,cd->bc", outputs, vectors.transpose(0, 1).flatten(1).to(outputs.dtype))


class AttentionLayer(nn.Module):
    """Residual single-head attention over tokens, without normalisation: the light head's DPA."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (M, N, d) to tokens of the same shape."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        return tokens + self.proj(F.scaled_dot_product_attention(query, key, value))

    def attention(self, tokens: Tensor) -> Tensor:
        """Return the attention weights (M, N, N); they sum to 1 over the last axis."""
        query, key, _ = self.qkv(tokens).chunk(3, dim=-1)
        return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)


class TransformerLayer(AttentionLayer):
    """The heavy head's layer: attention, then a feed-forward part, each normalised after its residual."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, FFN_WIDTH)
        self.linear2 = nn.Linear(FFN_WIDTH, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (M, N, d) to tokens of the same shape."""
        tokens = self.norm1(super().forward(tokens))
        return self.norm2(tokens + self.linear2(self.linear1(tokens).relu()))
