"""The weights that a run starts from: a whole model's or its backbone's, what became of them, and what stays new."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import timm
from torch import nn

from attnbias.data.fingerprint import class_difference
from attnbias.data.index import Task
from attnbias.data.sets.imagenet import readable
from attnbias.methods.engine.abilities import LoadsParts, PicksClasses
from attnbias.methods.engine.load import fitted, head_names, info_in, left_out, open_weights, read_published
from attnbias.methods.engine.method import AnyMethod
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.published import shown, verification
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored import stored_method
from attnbias.methods.engine.transformer_maps import SelfAttention
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import Checkpoint, load_strict, match_state

SHOWN = 5
"""Parts of a model that are named as new."""


def initial_weights(
    method: AnyMethod,
    model: nn.Module,
    recipe: Recipe,
    *,
    load_from: str | None,
    backbone_weights: str | None,
    reset_head: bool,
    trust: bool,
    classes: tuple[str, ...],
    task: Task,
) -> tuple[str, list[str]]:
    """Fill a fresh model before training: a whole model's weights (`load_from`) or its backbone's.

    `reset_head` keeps fresh weights where a shape depends on the number of classes, also where the file's has the same
    number; nothing else may differ. Returns what was loaded, in words, and warnings, such as that a head which fits was
    trained on others than these `classes`.
    """
    before, parts = _versions(model), set[str]()
    if load_from is not None:
        path, checkpoint = open_weights(load_from, trust=trust)
        stored = info_in(path, checkpoint.metadata, method)
        state = checkpoint.state if stored else read_published(method, checkpoint.state, path)[0]
        state = fitted(method, model, state)
        own, head = model.state_dict(), set[str]()
        if not reset_head:
            state = method.fit_classes(state, recipe) if isinstance(method, PicksClasses) else state
            if misshapen := match_state(own, state).misshapen:
                hint = "for another number of classes add --reset-head"
                raise WeightsError(f"{path} does not fit the model: {', '.join(misshapen[:10])}; {hint}")
        else:
            head = head_names(method, own, recipe, len(classes), task)
            state = {name: value for name, value in state.items() if name not in head}
        load_strict(model, state, path, fresh=head)
        kept = stored is not None and not reset_head and len(stored.classes) == len(classes)
        difference = class_difference(readable(stored.classes), readable(classes)) if stored and kept else ""
        other = [f"warning: the head of {path} was trained on other classes: {difference}"] if difference else []
        return _filled("model", load_from, path, model, before), left_out(path, checkpoint) + other
    if isinstance(method, LoadsParts):
        method.load_parts(model, recipe)
        parts = _written(model, before)
    if backbone_weights is not None:
        path, checkpoint = open_weights(backbone_weights, trust=trust)
        untold = _check_heads(model, checkpoint, path, backbone_weights)
        before = _versions(model)
        method.load_backbone(model, recipe, checkpoint.state, path)
        return _filled("backbone", backbone_weights, path, model, before, parts), untold + left_out(path, checkpoint)
    return "", []


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Where each tensor of a model lies and how often it was written to: equal numbers alone would not tell whether a
    file brought them."""
    return {name: (value.data_ptr(), value._version) for name, value in model.state_dict().items()}


def _written(model: nn.Module, before: dict[str, tuple[int, int]]) -> set[str]:
    """The tensors that were written to since `before`."""
    return {name for name, version in _versions(model).items() if version != before[name]}


def _filled(
    part: str,
    source: str,
    path: Path,
    model: nn.Module,
    before: dict[str, tuple[int, int]],
    others: Set[str] = frozenset(),
) -> str:
    """What was loaded since `before`, from where, whether that was verified, and which parts of the model are new:
    neither in that nor in the `others`, which were loaded before."""
    loaded = _written(model, before)
    holds = {place for name in loaded | others for place in _places(name)}
    parameters = [name for name, _ in model.named_parameters()]
    fresh = [name for name in parameters if name not in loaded | others]
    new = list(dict.fromkeys(next(place for place in _places(name) if place not in holds) for name in fresh))
    more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
    checked = verification(path)
    return (
        f"{part}: {shown(source)}, {len(loaded & {*parameters})} tensors{f', {checked}' if checked else ''}; "
        f"new: {', '.join(new[:SHOWN]) or 'nothing'}{more}"
    )


def _places(name: str) -> list[str]:
    """A tensor's name after those of the modules that it is in, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _check_heads(model: nn.Module, checkpoint: Checkpoint, path: Path, source: str) -> list[str]:
    """Refuse weights of a network with another number of attention heads, which shapes do not tell; returns a line
    where nothing tells it.

    Raises:
        WeightsError: the numbers differ.
    """
    own = _heads(model)
    if own is None or not any(".attn." in name or "attention" in name for name in checkpoint.state):
        return []
    given, why = _stated_heads(checkpoint, path, source)
    if given is None:
        return [f"the file does not tell how many attention heads its network has; taken as {own}, the recipe's"]
    if given != own:
        raise WeightsError(
            f"{path} is of a network with {given} attention heads{why}, and the recipe's has {own}: the shapes agree, "
            f"but the weights would mean something else; choose a network with {given} heads"
        )
    return []


def _stated_heads(checkpoint: Checkpoint, path: Path, source: str) -> tuple[int | None, str]:
    """The attention heads of a file's network, and where that stands: in what we wrote into it, or in the name of one
    of timm's networks that the file, its repository on the hub or its published weights bear."""
    if (owner := stored_method(path)) is not None:
        method = get_method(owner)
        if (stored := info_in(path, checkpoint.metadata, method)) is not None:
            with names_and_shapes():
                return _heads(method.build_model(stored.recipe, len(stored.classes), stored.task)), ""
    for name in (*reversed(source.split("/")), path.stem):
        if timm.is_model(known := re.split(r"[.-]", name)[0]):
            with names_and_shapes():
                return _heads(timm.create_model(known)), f", {known} by its name"
    return None, ""


def _heads(model: nn.Module) -> int | None:
    """The heads of a model's first block of self-attention; None where it has none."""
    blocks = (part for part in model.modules() if isinstance(part, SelfAttention))
    return next((block.num_heads for block in blocks), None)
