"""Backbones by name: networks of torchvision and timm, cut before their pooling, and two tiny ones for CPUs.

Each maps images (B, 3, H, W) to features (B, D, h, w) and tells D as `num_features`. torchvision's networks keep
their parameter names; timm's keep theirs below `model.`.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import takewhile
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.maps import token_grid
from attnbias.methods.engine.outline import names_and_shapes, undrawn
from attnbias.methods.engine.types import Fields
from attnbias.methods.engine.vit_stem import Stem, stem_of, stem_options
from attnbias.weights.files import load_strict

LOG = logging.getLogger(__name__)

ALIASES = {"vit_b16": "vit_base_patch16_224", "vit_l16": "vit_large_patch16_224"}
"""Short names of the papers -> timm's."""

TINY_VIT: Fields = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
"""The transformer beside the tiny network: for CPUs and small images; tiny_vit_conv takes images in by convolutions."""

RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""(bottleneck blocks?, blocks of each stage) -> name."""

VITS = {(768, 12, 16): "vit_b16", (1024, 24, 16): "vit_l16"}
"""(width, blocks, patch) -> name."""

POOLING_AND_AFTER = {"avgpool", "classifier", "fc", "head", "head_dist"}
"""Modules that a backbone does without, by the names that torchvision and timm give them."""

KEPT = 64
"""Networks whose builders and outlines a process remembers."""

REFUSED = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What timm's networks raise for images, and its rules for weights, that are not theirs."""

NOT_A_CHAIN = ("googlenet", "inception_v3", "maxvit_t", "vit_")
"""torchvision's networks (by the beginnings of their names) whose children cannot simply be run one after another."""


class TorchvisionFeatures(nn.Sequential):
    """A torchvision network up to its pooling, with fresh weights: a ResNet up to layer4 (stride 32)."""

    def __init__(self, name: str) -> None:
        network = torchvision.models.get_model(name, weights=None)
        children = takewhile(lambda child: child[0] not in POOLING_AND_AFTER, network.named_children())
        super().__init__(OrderedDict(children))
        if name.startswith("densenet"):  # whose own forward pass applies this one outside of its modules
            self.add_module("relu", nn.ReLU())
        self.eval()  # or the probe would move BatchNorm's statistics
        with torch.no_grad():
            self.num_features: int = self(torch.zeros(1, 3, 64, 64)).shape[1]
        self.train()


class TinyFeatures(nn.Sequential):
    """Five 3x3 convolutions, stride 8, 70 thousand parameters: what a CPU trains in minutes on 64 x 64 images."""

    num_features = 64

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for out, stride in ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1)):
            layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
        super().__init__(*layers)


class TimmFeatures(nn.Module):
    """A timm network up to its pooling; its patch tokens are laid out as a grid.

    What `forward_features` does not use (head, norm of the head, attention pool) is taken out of the network: it would
    never receive a gradient, and several processes would wait for it.

    Args:
        build: makes the network with fresh weights, as timm.create_model does; asked with `num_classes=0`.
        image_size: side of the square images that the network is built for.

    Raises:
        UsageError: the network gives no feature map for such images.
    """

    def __init__(self, build: Callable[..., Any], image_size: int) -> None:
        super().__init__()
        self._build = build
        shape = _shape_of(build, image_size)  # first: what is refused draws no weights
        self.model = build(num_classes=0)
        self.prefix_tokens, self.channels_last, self.num_features = shape.prefix, shape.channels_last, shape.width
        _take_out(self.model, shape.unreached)

    def outline(self, **options: Any) -> Any:
        """The whole network with its classifier, or with other options of its constructor, as names and shapes."""
        with names_and_shapes():
            return self._build(**options)

    def in_words(self) -> str | None:
        """How timm makes this network again; None where it is not one that timm knows by name.

        Its weights then load strictly, unless the words say what was taken out.
        """
        if (words := timm_call(self._build, 0)) is None:
            return None
        taken_out = self.outline(num_classes=0).state_dict().keys() - self.model.state_dict().keys()
        if not taken_out:
            return words
        parts = ", ".join(sorted({name.rpartition(".")[0] or name for name in taken_out}))
        return f"{words} without {parts}, which its features do not use: load_state_dict(..., strict=False)"

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to features (B, D, h, w)."""
        features: Tensor = self.model.forward_features(images)
        if features.ndim == 3:  # (B, prefix tokens + N, D)
            return token_grid(features[:, self.prefix_tokens :], tuple(images.shape[-2:]))
        return features.permute(0, 3, 1, 2) if self.channels_last else features


@dataclass(frozen=True)
class _Shape:
    """What a network's outline tells of its features."""

    prefix: int
    """Tokens before those of the patches."""
    channels_last: bool
    width: int
    unreached: frozenset[str]
    """Parameters that the features do not depend on."""


@lru_cache(KEPT)
def _shape_of(build: Callable[..., Any], image_size: int) -> _Shape:
    """Shapes and the ways of gradients, without computing, drawing random numbers, or asking who builds it; a process
    builds the same network several times: to check its weights, and to fill it."""
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        with undrawn():
            outline = build(num_classes=0)
        features = outline.forward_features(torch.zeros(2, 3, image_size, image_size))
        prefix, unreached = _prefix_tokens(outline, features), _unreached(outline, features)
    channels_last = getattr(outline, "output_fmt", "NCHW") == "NHWC"
    width = features.shape[1 if features.ndim == 4 and not channels_last else -1]
    return _Shape(prefix, channels_last, width, frozenset(unreached))


def _prefix_tokens(network: nn.Module, features: object) -> int:
    """The tokens before those of the patches among features (B, N, D) of square images; 0 for a feature map."""
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise ValueError("it gives no single feature map")
    if features.ndim == 4:
        return 0
    count = features.shape[1]
    stated: int | None = getattr(network, "num_prefix_tokens", None)
    side = isqrt(count if stated is None else count - stated)
    prefix = count - side**2
    if count == 1 or prefix != (prefix if stated is None else stated):
        raise ValueError(f"its {count} token{'s are' if count > 1 else ' is'} not a grid of patches")
    return prefix


def _unreached(network: nn.Module, features: Tensor) -> set[str]:
    """Names of the parameters that features do not depend on: those that no gradient of theirs would flow into."""
    reached, found = set[int](), set[object]()
    waiting = [features.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in found:
            continue
        found.add(step)
        if hasattr(step, "variable"):  # the end of a way: a parameter
            reached.add(id(step.variable))
        waiting += [source for source, _ in step.next_functions]
    return {name for name, parameter in network.named_parameters() if id(parameter) not in reached}


def _take_out(network: nn.Module, unreached: Set[str]) -> None:
    """Replace modules whose every parameter is unreached by nothing, and take out what is unreached in the others."""
    for name, module in list(network.named_modules()):
        own = {parameter for parameter, _ in module.named_parameters(prefix=name)}
        if name and own and own <= unreached:
            network.set_submodule(name, nn.Identity())
            unreached = unreached - own
    for name in unreached:
        owner, _, leaf = name.rpartition(".")
        network.get_submodule(owner).register_parameter(leaf, None)


Backbone = TorchvisionFeatures | TinyFeatures | TimmFeatures


def build_backbone(name: str, image_size: int) -> Backbone:
    """Build a backbone with fresh weights: tiny, tiny_vit, tiny_vit_conv, a network of torchvision, or one of timm, in
    this order.

    `image_size` matters to networks of a fixed input size (ViT, Swin) only.

    Raises:
        UsageError: the name is unknown, or the size does not suit the network.
    """
    if name == "tiny":
        return TinyFeatures()
    if is_torchvision(name):
        return TorchvisionFeatures(name)
    with sizes_that_suit(name, image_size):
        return TimmFeatures(timm_builder(name, image_size), image_size)


@lru_cache(KEPT)
def timm_builder(name: str, image_size: int) -> Callable[..., Any]:
    """What builds a tiny transformer, or a network of timm, with fresh weights; asked with its `num_classes`.

    Raises:
        UsageError: there is none of this name.
    """
    if name in ("tiny_vit", "tiny_vit_conv"):
        stem: Stem = "patches" if name == "tiny_vit" else "convolutions"
        options = {**TINY_VIT, **stem_options(stem, TINY_VIT["patch_size"], TINY_VIT["embed_dim"])}
        return partial(VisionTransformer, image_size, **options)
    known = timm_name(name)
    config = timm_config(known)
    size: Fields = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    return partial(timm.create_model, known, **size)


def timm_call(build: Callable[..., Any], num_classes: int) -> str | None:
    """The call by which timm makes a network of `timm_builder`; None where timm does not know it by name."""
    if not (isinstance(build, partial) and build.func is timm.create_model):
        return None
    options = ", ".join(f"{name}={value}" for name, value in {"num_classes": num_classes, **build.keywords}.items())
    return f"timm.create_model('{build.args[0]}', {options})"


@contextmanager
def sizes_that_suit(name: str, image_size: int) -> Iterator[None]:
    """Refuse in one line what a network cannot take.

    Raises:
        UsageError: the size does not suit the network.
    """
    try:
        yield
    except REFUSED as error:
        why = str(error) or f"{type(error).__name__} inside it"
        raise UsageError(f"backbone {name} cannot take images of {image_size} pixels: {why}") from None


def check_name(name: str) -> None:
    """Refuse a backbone that there is not, and weights that timm does not have of one that there is.

    Raises:
        UsageError: see above; the nearest name of all is offered.
    """
    if name not in ("tiny", "tiny_vit", "tiny_vit_conv") and not is_torchvision(name):
        timm_config(timm_name(name))


def timm_name(name: str) -> str:
    """timm's name of a network that is not torchvision's.

    Raises:
        UsageError: it knows none of this name; the nearest name of all is offered.
    """
    found = ALIASES.get(name, name)
    if not timm.is_model(found):
        chains = [known for known in torchvision.models.list_models(torchvision.models) if is_torchvision(known)]
        known = ["tiny", "tiny_vit", "tiny_vit_conv", *ALIASES, *chains, *timm.list_models()]
        raise UsageError(
            f"unknown backbone '{name}'{did_you_mean(name, known)}; "
            "expected tiny, tiny_vit, tiny_vit_conv, vit_b16, vit_l16, or a network of torchvision or timm, such as "
            "resnet101"
        )
    return found


def is_torchvision(name: str) -> bool:
    """Whether a backbone is torchvision's; timm has networks of the same names, as NAME.TAG."""
    return name in torchvision.models.list_models(torchvision.models) and not name.startswith(NOT_A_CHAIN)


def timm_config(name: str) -> Any:
    """What timm knows of the weights ARCHITECTURE.TAG, or of an architecture's first ones; None where it knows nothing.

    Raises:
        UsageError: there are no such weights of this architecture.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        network, _, tag = name.partition(".")
        known = [each.partition(".")[2] for each in timm.list_models(f"{network}.*", pretrained=True)]
        raise UsageError(f"timm has no weights '{tag}' of {network}; it has: {', '.join(known) or 'none'}") from None


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load published classification weights into a backbone, and log what was resampled or left out.

    Takes torchvision's and timm's names, and those of the networks' first publishers that timm translates; what depends
    on the input size, such as a position embedding, is resampled to the backbone's.

    Raises:
        WeightsError: a name is missing, is too many, or has another shape.
    """
    if isinstance(backbone, TimmFeatures):
        network, outline = backbone.model, backbone.outline()
        fitted, unused = fit_weights(network, outline, state), outline.state_dict().keys() - network.state_dict().keys()
    else:
        network, fitted, unused = backbone, state, set()
    wanted = {n: v for n, v in fitted.items() if n not in unused and n.split(".")[0] not in POOLING_AND_AFTER}
    load_strict(network, wanted, path)
    LOG.warning("backbone: %s", what_was_loaded(state, fitted, wanted))


def fit_resolution(backbone: nn.Module, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Resample what depends on the input size in a timm backbone's own weights, whose names begin with `prefix`.

    States that fit, and those of other networks, come back unchanged.
    """
    if not isinstance(backbone, TimmFeatures):
        return state
    prefix = f"{prefix}model."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not own or own.keys() != backbone.model.state_dict().keys():
        return state
    outline = backbone.outline()
    # With its head, which timm knows its own files by.
    whole = {name: torch.zeros(value.shape) for name, value in outline.state_dict().items()} | own
    fitted = fit_weights(backbone.model, outline, whole)
    return {**state, **{prefix + name: fitted[name] for name in own if name in fitted}}


def fit_weights(network: nn.Module, outline: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names and in the network's shapes, by timm's own rules for the network's family.

    `outline` is the whole network with its classifier, or its shapes. Weights that fit, and those that the family's
    rules do not know, come back unchanged.
    """
    own = network.state_dict()
    modules = [sys.modules[kind.__module__] for kind in type(outline).__mro__]
    rules = next((module.checkpoint_filter_fn for module in modules if hasattr(module, "checkpoint_filter_fn")), None)
    if rules is None or all(name in state and state[name].shape == value.shape for name, value in own.items()):
        return state
    renames = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(rules).parameters else {}
    try:
        fitted: dict[str, Tensor] = rules(dict(state), outline, **renames)
    except REFUSED:
        return state
    return fitted


def what_was_loaded(given: dict[str, Tensor], fitted: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """What became of a file's weights, in words."""
    left_out = sorted({name.rpartition(".")[0] or name for name in fitted.keys() - wanted.keys()})
    resampled = [
        f"{name} {_shape(given[name])} to {_shape(value)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    parts = [f"{len(wanted)} tensors loaded"]
    for words, names in (("resampled", resampled), ("left out", left_out)):
        if names:
            parts.append(f"{words}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}")
    return "; ".join(parts)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))


def network_of(state: dict[str, Tensor], prefix: str) -> str | None:
    """The backbone of the papers that weights below `prefix` are of: torchvision's ResNets, timm's ViTs; else None."""
    names = [name.removeprefix(prefix).split(".") for name in state if name.startswith(prefix)]
    blocks = tuple(len({name[1] for name in names if name[0] == f"layer{stage}"}) for stage in (1, 2, 3, 4))
    if resnet := RESNETS.get((f"{prefix}layer1.0.conv3.weight" in state, blocks)):
        return resnet
    positions, taken_in = state.get(f"{prefix}pos_embed"), stem_of(state, prefix)
    if positions is None or taken_in is None or taken_in[1] != "patches":
        return None
    depth = len({name[1] for name in names if name[0] == "blocks"})
    return VITS.get((positions.shape[-1], depth, taken_in[0]))


def swin_to_timm(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Rename the keys of Microsoft's Swin program below `prefix`: patch merging belongs to the next stage in timm.

    States that are already timm's, or no Swin's, come back unchanged.
    """
    merging = re.compile(rf"{re.escape(prefix)}layers\.(\d+)\.downsample\.")
    if not any((match := merging.match(name)) and match[1] == "0" for name in state):
        return state
    buffers = ("relative_position_index", "attn_mask")  # recomputed when the network is built
    return {
        merging.sub(lambda match: f"{prefix}layers.{int(match[1]) + 1}.downsample.", name): value
        for name, value in state.items()
        if not name.endswith(buffers)
    }
