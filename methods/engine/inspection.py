"""Look into a weight file: what it holds, whose it is, how it fits; and write it again as ours, or plain."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnbias.data.reading import Json
from attnbias.methods.engine.abilities import IsWhole
from attnbias.methods.engine.backbones import TimmFeatures, TorchvisionFeatures
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import (
    Described,
    Loaded,
    check_recipe_helps,
    describe,
    load_asked,
    owner,
    owners,
    preprocessing,
    weights_metadata,
)
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.output_files import WEIGHTS, check_targets, requested
from attnbias.methods.engine.published import in_cache, locate
from attnbias.methods.engine.requests import ConvertRequest, InspectRequest
from attnbias.methods.engine.stored import PLAIN
from attnbias.weights.files import StateMatch, match_state, read_checkpoint, write_weights
from attnbias.weights.manifest import PUBLISHED, Published


@dataclass(frozen=True)
class Fit:
    """How weights fit the model of one method."""

    described: Described
    matched: int
    """Names that the model and the file share, with equal shapes."""
    match: StateMatch


@dataclass(frozen=True)
class Inspection:
    """What a weight file holds."""

    path: Path
    layout: str
    tensors: int
    parameters: int
    has_average: bool
    extra: dict[str, object]
    """Plain values beside the weights, such as the epoch."""
    left_out: tuple[str, ...]
    """Tensors that are not of the model, such as the weights of a loss."""
    fits: tuple[Fit, ...]
    """The methods that it can belong to, the best fit first."""
    published: tuple[str, ...]
    """Names of the manifest whose file this is: by its digest; where none is published, by its place."""

    def content(self) -> Json:
        """All of it as plain values, for JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "has_average": self.has_average,
            "left_out": self.left_out,
            "extra": json.loads(json.dumps(self.extra, default=str)),
            "published": self.published,
            "methods": [
                {
                    "method": fit.described.method.name,
                    "task": fit.described.task,
                    "matched": fit.matched,
                    "missing": fit.match.missing,
                    "unexpected": fit.match.unexpected,
                    "misshapen": fit.match.misshapen,
                    "classes": fit.described.classes,
                    "recipe": fit.described.recipe.model_dump(mode="json"),
                }
                for fit in self.fits
            ],
        }


def inspect_weights(request: InspectRequest) -> Inspection:
    """Read a weight file and hold it against the models of every method that it can belong to, or of the one asked for.

    Raises:
        UsageError: something is told of weights that may be of several methods.
        WeightsError: they are missing, damaged or refused, or not of the method that was named.
    """
    trust = request.trust_checkpoint
    told = request.method or request.recipe or request.fields
    names = [owner(request)] if told else owners(request.load_from, trust=trust)
    fits = sorted((_fit(request, name) for name in names), key=lambda fit: not fit.match)
    file = fits[0].described.path if fits else locate(request.load_from)
    checkpoint = read_checkpoint(file, trust=trust)
    return Inspection(
        path=file,
        layout=checkpoint.layout,
        tensors=len(checkpoint.state),
        parameters=sum(value.numel() for value in checkpoint.state.values() if value.is_floating_point()),
        has_average=checkpoint.ema is not None,
        extra=checkpoint.extra,
        left_out=checkpoint.left_out,
        fits=tuple(fits),
        published=tuple(name for name, entry in PUBLISHED.items() if _is_file_of(entry, file)),
    )


def _is_file_of(entry: Published, file: Path) -> bool:
    """Whether a file is a published one, and not only called like it."""
    if entry.file != file.name or entry.digest is None:
        return in_cache(entry) == file
    with file.open("rb") as content:
        return hashlib.file_digest(content, entry.algorithm or "sha256").hexdigest().startswith(entry.digest)


def _fit(request: InspectRequest, name: str) -> Fit:
    described = describe(
        name,
        request.load_from,
        request.fields,
        recipe_name=request.recipe,
        trust=request.trust_checkpoint,
        data_root=request.data_root,
    )
    check_recipe_helps(request.recipe, [described])
    with names_and_shapes():
        model = described.method.build_model(described.recipe, len(described.classes), described.task)
    state, own = described.method.fit_resolution(model, described.state), model.state_dict()
    match = match_state(own, state)
    return Fit(described, len(own.keys() & state.keys()) - len(match.misshapen), match)


@dataclass(frozen=True)
class Converted:
    """What was written."""

    file: Path
    loaded: Loaded
    """The model that was read."""
    words: str
    """What the file holds."""


def convert_weights(request: ConvertRequest) -> Converted:
    """Write weights as our safetensors, which load with no flags; or, `to_plain`, the part that is timm's or
    torchvision's under their names.

    Raises:
        UsageError: no part of the model is theirs, a field contradicts the weights, or a file is not to be replaced.
        WeightsError: missing, damaged, of another method, or not fitting.
    """
    to = request.to
    check_targets(requested((to, WEIGHTS)), request.reads, request.overwrite)
    loaded = load_asked(request, owner(request), request.load_from)
    check_recipe_helps(request.recipe, [loaded])
    if request.to_plain:
        words, state = plain_network(loaded)
        metadata = {
            "architecture": words,
            "classes": loaded.classes,
            "preprocessing": preprocessing(loaded.method, loaded.recipe),
        }
        write_weights(to, state, {PLAIN: json.dumps(metadata)})
        return Converted(to, loaded, words)
    ours = weights_metadata(loaded.method, loaded.recipe, loaded.classes, loaded.task)
    write_weights(to, loaded.model.state_dict(), ours)
    return Converted(to, loaded, f"{loaded.method.name}, {len(loaded.classes)} classes")


def plain_network(loaded: Loaded) -> tuple[str, dict[str, Tensor]]:
    """The part of a model whose architecture is timm's or torchvision's: words for it, and its weights by their names.

    Raises:
        UsageError: there is none, as in a network whose every block was changed.
    """
    if isinstance(loaded.method, IsWhole):
        whole = loaded.method.library_network(loaded.model, loaded.recipe, len(loaded.classes))
        if whole is not None:
            return whole[0], whole[1].state_dict()
    for module in loaded.model.modules():
        if isinstance(module, TimmFeatures) and (words := module.in_words()) is not None:
            return words, module.model.state_dict()
        if type(module) is VisionTransformer:
            return _vit_words(module), module.state_dict()
        if isinstance(module, TorchvisionFeatures):
            name = getattr(loaded.recipe, "backbone", "")
            return f"torchvision.models.get_model('{name}') without its classifier", module.state_dict()
    raise UsageError(
        f"no part of this '{loaded.method.name}' model is timm's or torchvision's: its blocks are its own; "
        "leave --to-plain out"
    )


def _vit_words(network: nn.Module) -> str:
    vit: Any = network
    size, patch = vit.patch_embed.img_size[0], vit.patch_embed.feat_ratio()
    taken_in = f"patch_size={patch}"
    if not isinstance(vit.patch_embed, PatchEmbed):
        taken_in = f"**attnbias.methods.engine.vit_stem.stem_options('convolutions', {patch}, {vit.embed_dim})"
    return (
        f"timm.models.vision_transformer.VisionTransformer(img_size={size}, {taken_in}, "
        f"embed_dim={vit.embed_dim}, depth={len(vit.blocks)}, num_heads={vit.blocks[0].attn.num_heads}, "
        f"num_classes={vit.num_classes}, global_pool='{vit.global_pool}')"
    )
