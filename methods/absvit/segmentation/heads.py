"""What turns a backbone's feature maps into classes of pixels: UperNet's head and the auxiliary convolutional head.

UperNet: Xiao et al., ECCV 2018, arXiv 1807.10221; its pyramid pooling: Zhao et al., CVPR 2017, arXiv 1612.01105; the
auxiliary head is of the kind of Long et al., CVPR 2015. Modules are called as in MMSegmentation 0.x, whose files we
read.

Shapes: B images, C channels, K classes, h x w the size of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) to size = (height, width): bilinear, align_corners=False; none where it has that size.

    The same weights as always resizing: bilinear interpolation to one's own size changes nothing.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


class PoolByProducts(nn.Module):
    """Adaptive average pooling to `bins` x `bins`, written as two products, which take maps of any size in a graph."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to (B, C, bins, bins)."""
        return self._shares(x, -2) @ x @ self._shares(x, -1).transpose(0, 1)

    def _shares(self, x: Tensor, side: int) -> Tensor:
        """The share (bins, h or w) of each row or column in each bin's mean; bins may overlap, as torch's do."""
        count, bins = x.shape[side], torch.arange(self.bins, device=x.device)[:, None]
        places = torch.arange(count, device=x.device)
        first, end = bins * count // self.bins, ((bins + 1) * count + self.bins - 1) // self.bins
        inside = ((places >= first) & (places < end)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)


class ConvBNReLU(nn.Module):
    """A convolution without bias that keeps the map's size, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = kernel_size // 2 * dilation
        self.conv = nn.Conv2d(channels_in, channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, h, w) to (B, C, h, w)."""
        return F.relu(self.bn(self.conv(x)))


class _Head(nn.Module):
    """The end of both heads: whole channels are dropped in training, then each pixel is classified."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.dropout = nn.Dropout2d(dropout)
        assert self.conv_seg.bias is not None
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def classify(self, x: Tensor) -> Tensor:
        """Map features (B, C, h, w) to logits (B, K, h, w)."""
        return self.conv_seg(self.dropout(x))


class UPerHead(_Head):
    """UperNet's head: pyramid pooling of the last map, and a feature pyramid over all of them.

    Args:
        channels_in: channels of the maps, the finest first.
        channels: channels of everything inside.
        classes: K.
        pool_scales: sides of the grids that the last map is pooled to.
        dropout: share of the channels that are dropped before the classifier.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int,
        classes: int,
        *,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(channels, classes, dropout)
        *lower, last = channels_in
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvBNReLU(last, channels)) for scale in pool_scales
        )
        self.bottleneck = ConvBNReLU(last + len(pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvBNReLU(width, channels) for width in lower)
        self.fpn_convs = nn.ModuleList(ConvBNReLU(channels, channels, 3) for _ in lower)
        self.fpn_bottleneck = ConvBNReLU(len(channels_in) * channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map feature maps, the finest first, to logits (B, K, h, w) at the size of the first."""
        *lower, last = maps
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, lower, strict=True)] + [self.pooled(last)]
        for below, above in reversed(list(pairwise(range(len(levels))))):
            levels[below] = levels[below] + resize(levels[above], levels[below].shape[-2:])
        levels[:-1] = [conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)]
        size = levels[0].shape[-2:]
        return self.classify(self.fpn_bottleneck(torch.cat([resize(x, size) for x in levels], dim=1)))

    def pooled(self, x: Tensor) -> Tensor:
        """Pyramid pooling (B, C, h, w) -> (B, channels, h, w): what the image holds in parts of every size."""
        parts = [resize(pool(x), x.shape[-2:]) for pool in self.psp_modules]
        return self.bottleneck(torch.cat([x, *parts], dim=1))


class FCNHead(_Head):
    """Convolutions on one map and a classifier: the auxiliary head, whose loss reaches the backbone directly.

    Args:
        channels_in: channels of the map.
        channels: channels of the convolutions.
        classes: K.
        convs: number of convolutions.
        kernel_size, dilation: of the convolutions.
        concat_input: one more convolution sees the input beside their result.
        dropout: share of the channels that are dropped before the classifier.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        classes: int,
        *,
        convs: int = 1,
        kernel_size: int = 3,
        dilation: int = 1,
        concat_input: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(channels, classes, dropout)
        widths = [channels_in] + [channels] * convs
        self.convs = nn.Sequential(*(ConvBNReLU(*pair, kernel_size, dilation) for pair in pairwise(widths)))
        self.conv_cat = ConvBNReLU(channels_in + channels, channels, kernel_size) if concat_input else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to logits (B, K, h, w)."""
        features = self.convs(x)
        if self.conv_cat is not None:
            features = self.conv_cat(torch.cat([x, features], dim=1))
        return self.classify(features)
