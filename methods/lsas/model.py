"""LSAS (Zhong et al., ICME 2023): sub-attention on the logits of an attention network, in residual networks.

Top-down like the paper: SubAttention is the method; then the attention networks that give it logits; then the residual
networks they sit in (CIFAR and ImageNet ResNets on torchvision's blocks).

Shapes: B images, C channels, H x W their size in a block; D channels, h x w the size of the last stage's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

from attnbias.methods.lsas.recipe import AttentionNetwork, LSASRecipe, residual_blocks


class SubAttention(nn.Module):
    """Turn attention logits into attention: sigmoid(v0) * sigmoid(v1) * ... * sigmoid(vn), v_i = w_i * v_{i-1} + b_i.

    The chain runs on the logits; w_i and b_i are one number a channel, so an order costs 2C parameters and next to no
    operations. Order 0 is the attention network itself. As every order multiplies by less than one, a higher order
    starts with a weaker residual branch (0.5, 0.189, 0.061 ... at v0 = 0).
    """

    def __init__(self, channels: int, order: int) -> None:
        super().__init__()
        # Published names and shapes: w, b, w2, b2 ...; four dimensions put them under the weight-decay rule of
        # convolutions.
        numbers = ["" if i == 1 else str(i) for i in range(1, order + 1)]
        self.names = [(f"w{number}", f"b{number}") for number in numbers]
        for w, b in self.names:
            self.register_parameter(w, nn.Parameter(torch.full((1, channels, 1, 1), 0.5)))
            self.register_parameter(b, nn.Parameter(torch.full((1, channels, 1, 1), -0.5)))

    def chain(self, logits: Tensor) -> Iterator[Tensor]:
        """Yield v0, v1 ... vn from v0 (B, C, H, W)."""
        yield logits
        for w, b in self.names:
            logits = torch.addcmul(getattr(self, b), getattr(self, w), logits)
            yield logits

    def forward(self, logits: Tensor) -> Tensor:
        return reduce(torch.mul, (v.sigmoid() for v in self.chain(logits)))


# Attention networks ---------------------------------------------------------------------------------------------------
# Each computes logits (B, C, 1, 1), or (B, 1, H, W) for a spatial one, and scales its input by SubAttention of them.


class Attention(nn.Module):
    """What attention networks share: scale the features by the sub-attention of the logits."""

    def __init__(self, channels: int, order: int) -> None:
        super().__init__()
        self.sub_attention = SubAttention(channels, order)

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sub_attention(self.logits(x))


def excitation(channels: int, reduction: int) -> nn.Sequential:
    """Linear, ReLU, Linear through channels / reduction hidden units (at least one)."""
    hidden = max(channels // reduction, 1)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))


class SqueezeExcite(Attention):
    """SE (Hu et al., CVPR 2018): v0 = W2 relu(W1 mean(x))."""

    def __init__(self, channels: int, order: int, reduction: int = 16) -> None:
        super().__init__(channels, order)
        self.fc = excitation(channels, reduction)

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))[:, :, None, None]  # (B, C, 1, 1)


class CBAMChannel(Attention):
    """Channel part of CBAM (Woo et al., ECCV 2018): one shared MLP on the means and on the maxima, summed."""

    def __init__(self, channels: int, order: int, reduction: int = 16) -> None:
        super().__init__(channels, order)
        self.mlp = excitation(channels, reduction)

    def logits(self, x: Tensor) -> Tensor:
        return (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]  # (B, C, 1, 1)


class CBAMSpatial(Attention):
    """Spatial part of CBAM: a 7 x 7 convolution of the channels' mean and maximum; its chain has one scalar pair."""

    def __init__(self, order: int) -> None:
        super().__init__(1, order)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))  # (B, 1, H, W)


class ECA(Attention):
    """ECA (Wang et al., CVPR 2020): a 1-D convolution over neighbouring channels of the means."""

    def __init__(self, channels: int, order: int) -> None:
        super().__init__(channels, order)
        size = int(abs((math.log2(channels) + 1) / 2))
        size += 1 - size % 2
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        return self.conv(x.mean((2, 3))[:, None]).transpose(1, 2)[..., None]  # (B, C, 1, 1)


class SRM(Attention):
    """SRM (Lee et al., ICCV 2019): style (mean, std) of each channel, weighed channel by channel, then BatchNorm."""

    def __init__(self, channels: int, order: int) -> None:
        super().__init__(channels, order)
        self.style = nn.Parameter(torch.zeros(channels, 2))
        self.bn = nn.BatchNorm2d(channels)

    def logits(self, x: Tensor) -> Tensor:
        # Biased variance: a 1 x 1 map has no other.
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        styles = torch.stack([mean, (variance + 1e-5).sqrt()], -1)  # (B, C, 2)
        return self.bn((styles * self.style).sum(-1)[:, :, None, None])  # (B, C, 1, 1)


def build_attention(kind: AttentionNetwork, channels: int, order: int, reduction: int) -> nn.Module:
    """Build the attention network `kind` for features of `channels` channels."""
    if kind == "se":
        return SqueezeExcite(channels, order, reduction)
    if kind == "cbam":
        return nn.Sequential(CBAMChannel(channels, order, reduction), CBAMSpatial(order))
    if kind == "eca":
        return ECA(channels, order)
    return SRM(channels, order) if kind == "srm" else nn.Identity()


# Residual networks ----------------------------------------------------------------------------------------------------


class BasicBlock(resnet.BasicBlock):
    """torchvision's basic block with attention after the last BatchNorm, before the addition."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        return self.relu(out + identity)


class Bottleneck(resnet.Bottleneck):
    """torchvision's bottleneck (stride on the 3 x 3) with attention after the last BatchNorm, before the addition."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.attention(self.bn3(self.conv3(out)))
        return self.relu(out + identity)


@dataclass(frozen=True)
class Stem:
    """First convolution of a network: its channels (stages then have 1, 2, 4 ... times as many), kernel and stride."""

    channels: int
    kernel: int
    stride: int
    pool: bool


STEMS = {"cifar": Stem(16, 3, 1, False), "small": Stem(16, 3, 2, False), "imagenet": Stem(64, 7, 2, True)}


class ResNet(nn.Module):
    """A post-activation ResNet under torchvision's names: conv1, bn1, layer1 ... layerN, fc.

    `attention(stage, channels)` builds the module that each block of a stage (from 1) carries.
    """

    def __init__(
        self,
        stem: Stem,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        num_classes: int,
        attention: Callable[[int, int], nn.Module],
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem.channels, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem.channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity()
        channels = stem.channels
        self.stage_names = tuple(f"layer{stage}" for stage in range(1, len(blocks) + 1))
        for stage, (name, count) in enumerate(zip(self.stage_names, blocks, strict=True), 1):
            planes = stem.channels * 2 ** (stage - 1)
            layer = nn.Sequential()
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                layer.append(build_block(block, channels, planes, stride))
                channels = planes * block.expansion
                layer[-1].attention = attention(stage, channels)
            self.add_module(name, layer)
        self.fc = nn.Linear(channels, num_classes)
        self.reset_parameters(zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))  # (B, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Features of the last stage (B, D, h, w); what `fc` reads after average pooling."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x

    def reset_parameters(self, zero_init_residual: bool) -> None:
        """Draw convolutions from N(0, 2 / fan_out); linear layers keep torch's default, as the programs do."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)


def build_block(block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, stride: int) -> nn.Module:
    """Build a block; a 1 x 1 convolution and BatchNorm match its shortcut where the shape changes."""
    width = planes * block.expansion
    downsample = None
    if stride != 1 or channels != width:
        downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return block(channels, planes, stride, downsample)


def build_model(recipe: LSASRecipe, num_classes: int) -> ResNet:
    """Build the network that a recipe describes, with fresh weights."""
    kind, blocks = residual_blocks(recipe.network, recipe.depth, recipe.block)

    def attention(stage: int, channels: int) -> nn.Module:
        used = recipe.attention if stage in recipe.stages else "none"
        return build_attention(used, channels, recipe.order, recipe.reduction)

    block = Bottleneck if kind == "bottleneck" else BasicBlock
    return ResNet(STEMS[recipe.network], block, blocks, num_classes, attention, recipe.zero_init_residual)
