"""Class-specific residual attention: a multi-label classifier in which every class attends to its own locations.

Zhu and Wu: Residual Attention: A Simple but Effective Method for Multi-Label Recognition, ICCV 2021, arXiv 2108.02456.
Written from the paper's equations and from figures of the published program, which computes on score maps what the
paper writes on features (equal by linearity).

    score      s[c, n] = <w_c, x_n> / ||w_c||          at each of the N locations of the feature map
    average    g[c]    = mean over n of s[c, n]
    attended   a[c]    = sum over n of s[c, n] * softmax over n of (T * s[c, n]);  T = 99: the maximum over n
    logit      y[c]    = sum over heads of (g[c] + lam * a[c]);  each head has its own weights and temperature T

Shapes: B images, M heads, C classes, d feature channels, N = h * w locations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.methods.csra.recipe import MAX
from attnbias.methods.engine.precision import without_autocast


class CSRA(nn.Module):
    """A backbone that gives feature maps (B, d, h, w), and the heads on top."""

    def __init__(self, backbone: nn.Module, classifier: MultiHeadClassifier) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, C), float32."""
        return self.classifier(self.backbone(images))


class MultiHeadClassifier(nn.Module):
    """All heads in one 1x1 convolution.

    Args:
        width: channels d of the feature map.
        temperatures: one for each head, ascending; 99 is the maximum.
        lam: weight of the attended score; at 0 this is average pooling with a normalised classifier.
        normalized: whether rows are divided by their length (the paper's ablation has them as they are).
    """

    soft_temperatures: Tensor

    def __init__(
        self, width: int, num_classes: int, temperatures: Sequence[float], lam: float, *, normalized: bool = True
    ) -> None:
        super().__init__()
        if sorted(temperatures) != list(temperatures):
            raise ValueError(f"temperatures must ascend, got {tuple(temperatures)}")
        self.temperatures = tuple(temperatures)
        self.lam = lam
        self.normalized = normalized
        self.num_soft = sum(t != MAX for t in temperatures)
        soft = torch.tensor(self.temperatures[: self.num_soft]).view(-1, 1, 1)  # (soft heads, 1, 1)
        self.register_buffer("soft_temperatures", soft, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(self.temperatures), num_classes, width))  # (M, C, d)
        nn.init.uniform_(self.weight, -1 / sqrt(width), 1 / sqrt(width))  # PyTorch's default of a 1x1 convolution

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, d, h, w) -> logits (B, C)."""
        scores = self.scores(features)
        return (scores.mean(-1) + self.lam * self.attended(scores)).sum(1)  # (B, M, C) -> (B, C)

    def scores(self, features: Tensor) -> Tensor:
        """Class score maps (B, M, C, N) of a feature map (B, d, h, w), float32 also under autocast.

        Only the classifier rows are normalised, not the features: these are not cosines.
        """
        heads, classes, width = self.weight.shape
        with without_autocast(features.device):
            rows = F.normalize(self.weight, dim=-1) if self.normalized else self.weight
            rows = rows.view(heads * classes, width, 1, 1)
            return F.conv2d(features.to(rows.dtype), rows).flatten(2).unflatten(1, (heads, classes))

    def attended(self, scores: Tensor) -> Tensor:
        """Attended score (B, M, C) of score maps (B, M, C, N)."""
        soft, hard = scores[:, : self.num_soft], scores[:, self.num_soft :]
        attended = (soft * self._softmax(soft)).sum(-1)
        # max() with its index, not amax(): at ties the gradient goes to one location, as in the published program.
        return torch.cat([attended, hard.max(-1).values], dim=1)

    def attention(self, scores: Tensor) -> Tensor:
        """Attention weights (B, M, C, N), each map summing to 1; one location of weight 1 where the maximum rules."""
        soft, hard = scores[:, : self.num_soft], scores[:, self.num_soft :]
        highest = F.one_hot(hard.argmax(-1), hard.shape[-1]).to(hard.dtype)
        return torch.cat([self._softmax(soft), highest], dim=1)

    def _softmax(self, soft: Tensor) -> Tensor:
        return torch.softmax(self.soft_temperatures * soft, dim=-1)
