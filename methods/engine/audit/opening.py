"""What an audit opens: the set, which is prepared on the way where it is one's own, and the models."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
import torchvision

from attnbias import __version__
from attnbias.data.index import Index
from attnbias.data.registry import DATASETS, dataset_folder, read_prepared, ready
from attnbias.data.tally import Tally
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.estimated_masks import with_estimated_masks
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, open_split_of, owner
from attnbias.methods.engine.maps import check_map, layer_name
from attnbias.methods.engine.matching import in_classes_of_datasets
from attnbias.methods.engine.prepare_data import prepare_data
from attnbias.methods.engine.published import shown
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.requests import AuditRequest, PrepareRequest, flags_of, options_of
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.types import LABELLED

WHERE = ("out", "overwrite", "junit", "markdown", "device", "gpus", "threads", "workers", "eval_batch_size")
"""Options that do not change what is found: the command on the page leaves them out."""


@dataclass(frozen=True)
class AuditedModel:
    """One of the models."""

    request: AuditRequest
    """As it is asked of this model."""
    loaded: Loaded

    @property
    def typed(self) -> tuple[str, ...]:
        """The model as it is typed: its source without secrets, and whose it is where that was said."""
        method = self.request.method
        return (shown(self.request.load_from), *(("--method", method) if method else ()))


def prepared(request: AuditRequest) -> str:
    """The set's name as recipes have it; images of one's own are prepared where they are not.

    Raises:
        UsageError, DataError: as `prepare_data`.
    """
    data, root = request.data, request.data_root
    if data in DATASETS:
        return data
    if ready(data, root):
        known = read_prepared(data, root)
        say(
            f"data: '{known.dataset}' as it was prepared from {known.source}; after changes: attnbias prepare-data "
            f"{shlex.quote(data)}",
            error=True,
        )
        return data
    if not Path(data).exists():
        return data  # whoever opens it says what is wrong
    report = prepare_data(PrepareRequest.of({"name": data, "data_root": root}))
    splits = ", ".join(f"{index.split} {len(index.records):,}" for index in report.indexes)
    say(
        f"data: prepared '{report.prepared.dataset}' in {report.folder}, as attnbias prepare-data {shlex.quote(data)} "
        f"does: {len(report.indexes[0].classes)} classes; images: {splits}",
        *(f"left out: {line}" for line in Tally(report.prepared.left_out).lines()),
        *Tally(report.prepared.remarks).lines(),
        *(f"warning: {line}" for line in report.warnings),
        error=True,
    )
    return str(dataset_folder(data, root)) if ready(data, root) else report.prepared.dataset


def asked_of(request: AuditRequest) -> list[AuditRequest]:
    """What is asked of the model, and of the one of --against."""
    asked = [request]
    if request.against is not None:
        asked.append(request.another(request.against))
    return asked


def check_models(request: AuditRequest) -> None:
    """Look for the models, and whether each can have the map that is asked for: before images are prepared for them.

    Raises:
        UsageError: whose a file is cannot be told, or it has no such map or layer. WeightsError: it cannot be read.
    """
    methods = []
    for each in asked_of(request):
        each.model_copy(update={"method": owner(each)}).refuse()
        methods.append(get_description(owner(each)))
    request.check_class_map(methods)


def subjects(
    request: AuditRequest, data: str, models: Sequence[Loaded], device: torch.device | str
) -> tuple[AuditedModel, ...]:
    """The model, and the one of --against, on the set called `data`; `models` are those that are loaded already.

    Raises:
        UsageError: whose a file is cannot be told, or it has no such map or layer. WeightsError: it cannot be read.
    """
    asked = asked_of(request)
    opened = list(models) or [_loaded(each, data, device) for each in asked]
    opened = [replace(each, recipe=override(each.recipe, {"dataset": data})) for each in opened]
    found = []
    for each, loaded in zip(asked, in_classes_of_datasets(opened, request.class_map, request.data_root), strict=True):
        if loaded.task not in LABELLED:
            raise UsageError(
                f"{loaded.source} is for {loaded.task}; an audit is of models that name classes "
                f"({' or '.join(LABELLED)}): attnbias val measures the others"
            )
        check_map(loaded.method, loaded.model, kind_of(each, loaded))
        found.append(AuditedModel(each, loaded))
    return tuple(found)


def _loaded(request: AuditRequest, data: str, device: torch.device | str) -> Loaded:
    method = owner(request)
    fields = {**request.fields, "dataset": data}
    if request.layer is not None:
        request.check_layer(get_description(method))
        fields["layer"] = request.layer
    told = request.model_copy(update={"fields": fields})
    loaded = load_asked(told, method, request.load_from, device)
    check_recipe_helps(request.recipe, [loaded])
    return loaded


def kind_of(request: AuditRequest, loaded: Loaded) -> str:
    """The kind of map."""
    return loaded.method.default_map(loaded.recipe) if request.map == "own" else request.map


def drawn(request: AuditRequest, loaded: Loaded) -> Index:
    """The images of the split that are audited.

    Raises:
        UsageError: the model knows other classes. DataError: as `open_split`.
    """
    index = open_split_of(loaded, request.split or "val", request.data_root)
    return with_estimated_masks(request, index.drawn(request.limit))


# What is said of them -------------------------------------------------------------------------------------------------


def layer_of(loaded: Loaded, kind: str, typed: str | None) -> tuple[str | None, str]:
    """The layer that a map looks at, and why that one."""
    layer = layer_name(loaded.method, loaded.model, kind)
    if layer is None:
        return None, f"'{kind}' is of no single layer"
    if typed is not None:
        return layer, "it was typed (--layer)"
    if "layer" in type(loaded.recipe).model_fields:
        return layer, "found: the last layer with a grid of features on which the answer depends"
    return layer, f"the features that the head of '{loaded.method.name}' reads"


def map_reason(request: AuditRequest, loaded: Loaded, kind: str) -> str:
    """Why this kind of map."""
    if request.map != "own":
        return "it was typed (--map)"
    is_own = kind not in loaded.method.explainers()
    return "the model's own" if is_own else "the model has no attention of its own for each class"


def weights_digest(loaded: Loaded) -> str:
    """SHA-256 of all tensors of the model: name, type, shape and bytes of each, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(loaded.model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def command_of(request: AuditRequest) -> str:
    """The command that finds the same again, without secrets."""
    method = ("--method", request.method) if request.method else ()
    words = ["attnbias", "audit", shown(request.load_from), request.data, *method]
    for name in options_of(AuditRequest, (*WHERE, "load_from", "data", "method")):
        value, field = getattr(request, name), AuditRequest.model_fields[name]
        if value == field.get_default(call_default_factory=True):
            continue
        flag = flags_of(AuditRequest, name)[0]
        if value is True:
            words.append(flag)
        else:
            for each in value if isinstance(value, list) else [value]:
                words += [flag, shown(str(each)) if name == "against" else str(each)]
    for name, value in request.fields.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


def versions(device: torch.device | str) -> dict[str, str]:
    """Of what computed it."""
    return {
        "attnbias": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "device": str(device),
    }
