"""The fusion of METER (Dou et al., CVPR 2022): two streams of post-norm layers that look at each other, and poolers.

Module names are those of the published weights (BERT's).

Shapes: B pairs, T tokens of this stream, S tokens of the other one, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12
"""BERT's default, which the program's fusion layers keep; its text encoder and its ViT have other values."""


class Output(nn.Module):
    """Project, drop, add what went in, normalise: the end of each sub-layer."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map x (B, T, width_in) and the residual (B, T, D) to (B, T, D)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    """Attention over the own stream or over the other one, with the end of a sub-layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = Output(width, width, dropout)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        """Let x (B, T, D) look at `seen` (B, S, D); `mask` (B, 1, 1, S) is True where a token may be seen."""
        q = self._split(self.self["query"](x))
        k, v = (self._split(self.self[name](seen)) for name in ("key", "value"))
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, mask, dropout)  # (B, heads, T, D / heads)
        return self.output(found.transpose(1, 2).flatten(2), x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FusionLayer(nn.Module):
    """One layer of one stream: look at oneself, look at the other stream, think."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.crossattention = Attention(width, heads, dropout)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, mlp * width)})
        self.output = Output(mlp * width, width, dropout)

    def forward(self, x: Tensor, other: Tensor, own_mask: Tensor | None, other_mask: Tensor | None) -> Tensor:
        """Map x (B, T, D) to (B, T, D), given the other stream's tokens (B, S, D)."""
        x = self.attention(x, x, own_mask)
        x = self.crossattention(x, other, other_mask)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Pooler(nn.Module):
    """The first token of a stream, through one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, D) to (B, D)."""
        return torch.tanh(self.dense(x[:, 0]))
