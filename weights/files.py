"""Weight files, read and written: the only place that opens a pickle, and the only place that writes safetensors.

Published checkpoints come as bare state dicts or wrapped in training dictionaries, with the prefixes of whatever
wrapped the model. Here they become a plain {name: tensor}; a method's convert.py then translates the names.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attnbias.weights.errors import OtherEntryError, WeightsError
from attnbias.weights.flax import read_flax
from attnbias.weights.folders import INDEX, METADATA, read_distributed, read_shards, weights_in
from attnbias.weights.limits import ScalarType, check_archive, check_names, check_plain, check_sizes, is_archive, scalar
from attnbias.weights.names import check_name

Entry = Literal["model", "ema"]

# Names that training programs give to the weights inside their dictionaries, in the order they are looked for.
ENTRIES: dict[Entry, tuple[str, ...]] = {
    "model": ("model", "state_dict", "model_state_dict", "model_state", "net"),
    "ema": ("model_ema", "state_dict_ema", "ema_state_dict", "model_state_ema", "ema", "averaged_model"),
}
DEEPEST = 3
"""Dictionaries around weights; each level more would try every name of ENTRIES anew."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DistributedDataParallel (or DataParallel), torch.compile and Lightning modules put before every name."""
AVERAGES = "n_averaged"
"""The counter that torch's AveragedModel, which wraps as DataParallel does, keeps beside the weights."""
AVERAGE = re.compile(r"(?:model_)?(?:ema|swa|averaged?)(?:_model|_net|_weights)?\.")
"""Beginnings of names: a moving average in the state dict of a Lightning module."""
NOT_OF_THE_MODEL = re.compile(r"(?:\w*_)?(?:criterion|criteria|loss|losses|metrics?)(?:_\w*)?\.")
"""Beginnings of names: the loss and the metrics, which a Lightning module keeps beside its model."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weight file, unwrapped."""

    state: dict[str, Tensor]
    """The weights that were asked for, on the CPU, without wrapper prefixes."""
    ema: dict[str, Tensor] | None
    """The moving average, where the file holds one beside the weights."""
    metadata: dict[str, str]
    """Metadata of a safetensors file, such as the recipe and the class names."""
    layout: str
    """What was found, in words for a person: "state_dict, module. stripped"."""
    extra: dict[str, object]
    """Plain values beside the weights: the epoch, the best score, the fields of `args`."""
    left_out: tuple[str, ...] = ()
    """Names of tensors that are not of the model: the weights of a loss, the state of a metric."""


# Reading --------------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path, *, trust: bool = False, entry: Entry | None = None) -> Checkpoint:
    """Read a .safetensors file or a torch checkpoint (.pth, .pth.tar, .pt, .ckpt, .torch), without running its code.

    A vision transformer's .npz of a JAX program is read under timm's names (weights/flax.py), a folder or a table of
    shards as weights/folders.py has it.
    Pickles are read with `weights_only=True`; beside tensors they may hold argparse.Namespace and NumPy scalars.
    `trust=True` lifts that: the file may then run any code. `entry` chooses the weights or their moving average; None
    takes the weights, or the average where there is nothing else.

    Raises:
        WeightsError: the file is missing, empty, truncated, no checkpoint, refused, or does not have the asked weights.
    """
    check_name(path)
    path = (path.is_dir() and weights_in(path)) or path
    if path.is_dir() and not (path / METADATA).is_file():
        raise WeightsError(f"{path} is a folder, expected a weight file")
    if not path.exists():
        raise WeightsError(f"no weight file {path}")
    content, metadata, kind = _content(path, trust)
    try:
        found: dict[Entry, _Found | None] = {
            "model": (model := _find_state(content, "model")),
            "ema": _find_state(content, "ema") or (_unwrapped(model.average) if model and model.average else None),
        }
        extra = _plain_values(content)
    except RecursionError:
        raise WeightsError(f"{path} is not a checkpoint: what it holds is nested without end") from None
    if not trust:
        for each in filter(None, found.values()):
            check_sizes(each.state, path.parent if kind == "sharded" else path)
    chosen = found[entry] if entry else found["model"] or found["ema"]
    if chosen is None:
        entry = entry or "model"
        other: Entry = "ema" if entry == "model" else "model"
        if found[other]:
            raise OtherEntryError(f"{path} holds only {other} weights, expected {entry} weights")
        raise WeightsError(f"{path} holds no state dict (top level: {_describe(content)}), expected {entry} weights")
    check_plain(chosen.state, path)
    return Checkpoint(
        state=chosen.state,
        ema=found["ema"].state if found["ema"] else None,
        metadata=metadata,
        layout=f"{kind}, {chosen.layout}" if kind else chosen.layout,
        extra=extra,
        left_out=chosen.left_out,
    )


def _content(path: Path, trust: bool) -> tuple[object, dict[str, str], str]:
    """What a file or folder holds, the metadata of a safetensors file, and a word for its kind where it has one."""
    if path.is_dir():
        return read_distributed(path, trust=trust), {}, "distributed"
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); fetch it again")
    if path.name.endswith(INDEX):
        return read_shards(path, lambda shard: _shard(shard, trust)), {}, "sharded"
    if path.suffix == ".safetensors":
        return (*_read_safetensors(path), "safetensors")
    if path.suffix == ".npz":
        return read_flax(path), {}, "npz"
    return _read_pickle(path, trust), {}, ""


def _shard(path: Path, trust: bool) -> dict[str, Tensor]:
    content, _, _ = _content(path, trust)
    if (state := _as_state(content)) is None:
        raise WeightsError(f"{path} holds no state dict (top level: {_describe(content)}), expected a shard of one")
    return state


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # damaged headers raise nearly any type, as damaged pickles do
        raise WeightsError(f"{path} is damaged or no safetensors file ({_first_line(error)}); fetch it again") from None


def _read_pickle(path: Path, trust: bool) -> object:
    try:
        if not trust:
            if is_archive(path):
                check_archive(path)
            check_names(path)
        # Damaged files make torch warn about pickle protocols before it gives up; the error below says it better.
        with _allow_list(), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=not trust)  # noqa: TID251
    except WeightsError:
        raise
    except Exception as error:  # damaged (and trusted) pickles raise nearly any type; none may pass as a traceback
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} is refused: it holds {refused[1]}, which is not weights and may run code; "
                "if you trust where it came from, add --trust-checkpoint"
            ) from None
        raise WeightsError(f"{path} is damaged or no checkpoint ({_reason(path, error)}); fetch it again") from None


class _Callback:
    """Stands for a class of a program that is not installed; it has no behaviour."""


def _allow_list() -> AbstractContextManager[None]:
    """Types without behaviour that training programs of the papers store beside their weights."""
    return torch.serialization.safe_globals(
        [
            argparse.Namespace,
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            # Lightning's files key their callbacks' states by class; the states are plain.
            (_Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
            (ScalarType, "numpy.dtype"),
        ]
    )


def is_web_page(path: Path) -> bool:
    """Whether a file is the page that a server answers a download with where it does not give the file."""
    with path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _reason(path: Path, error: Exception) -> str:
    if is_web_page(path):
        return "it is a web page: the download was answered with a form"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    said = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
    return f"{type(error).__name__}: {_printable(said[0].split('. ')[0][:160])}" if said else type(error).__name__


def _printable(name: object) -> str:
    """A name out of a file, which may hold anything, on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(name))


# Unwrapping -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A state dict in a file."""

    state: dict[str, Tensor]
    """Without wrapper prefixes."""
    layout: str
    """Where it was, in words."""
    average: dict[str, Tensor]
    """A moving average that was in it, under names of its own."""
    left_out: tuple[str, ...]


def _find_state(content: object, entry: Entry, depth: int = 0) -> _Found | None:
    """The state dict that `content` is or holds under one of the entry's names."""
    if entry == "model" and (state := _as_state(content)) is not None:
        return _unwrapped(state)
    if isinstance(content, Mapping) and depth < DEEPEST:
        for name in ENTRIES[entry]:
            if name in content and (inner := _find_state(content[name], "model", depth + 1)) is not None:
                return replace(inner, layout=inner.layout.replace("bare state dict", name))
    return None


def _as_state(content: object) -> dict[str, Tensor] | None:
    if isinstance(content, nn.Module):  # a whole model; only a trusted pickle can hold one
        content = content.state_dict()
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): value.detach() for name, value in content.items()}
    return None


def _unwrapped(state: dict[str, Tensor]) -> _Found:
    """Take the weights out of what training programs put around and beside them."""
    average = {name: value for name, value in state.items() if AVERAGE.match(name)}
    left_out = tuple(name for name in state if NOT_OF_THE_MODEL.match(name))
    if len(average) + len(left_out) == len(state):  # then these are the names of the model
        average, left_out = {}, ()
    state, stripped = _strip_wrappers({n: v for n, v in state.items() if n not in average and n not in left_out})
    average = {AVERAGE.sub("", name, count=1): value for name, value in average.items()}
    return _Found(state, f"bare state dict{stripped}", average, left_out)


def _strip_wrappers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Strip wrapper prefixes, repeatedly, as long as every name has them."""
    stripped = ""
    weights = {name: value for name, value in state.items() if name.split(".")[-1] != AVERAGES}
    if 0 < len(weights) < len(state):
        state, stripped = weights, f"{AVERAGES} "
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        stripped += prefix
    return state, f", {stripped} stripped" if stripped else ""


def _plain_values(content: object) -> dict[str, object]:
    values = dict(content) if isinstance(content, Mapping) else {}
    if isinstance(values.get("args"), argparse.Namespace):
        values["args"] = _plain_values(vars(values["args"]))
    scalars = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    return {name: v for name, v in scalars.items() if _is_plain(v) or (name == "args" and isinstance(v, dict))}


def _is_plain(value: object) -> bool:
    """Whether a value is a number or a text, or a flat list of them: lists in lists can grow without end when shown."""
    if isinstance(value, list | tuple):
        return not any(isinstance(each, list | tuple) for each in value) and all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def _describe(content: object) -> str:
    return ", ".join(map(_printable, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__


# Writing --------------------------------------------------------------------------------------------------------------


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: a temporary file beside it, flushed to the disk, then renamed.

    Tensors that share memory are written once for each name, so that every reader finds every name.

    Raises:
        WeightsError: it cannot be written (a full disk, no permission); an older file at `path` is left as it was.
    """
    check_name(path)
    # A view is saved as its own copy: safetensors refuses two names over one memory, and slices of a larger one.
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    size = sum(value.nbytes for value in tensors.values())
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; save_file makes a file of its own that nobody else may read
        save_file(tensors, part, metadata=dict(metadata))
        part.chmod(mode)
        flush_to_disk(part)
        part.replace(path)
        flush_to_disk(path.parent)
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise WeightsError(f"cannot write {path} ({size:,} bytes, {free:,} free): {_first_line(error)}") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not only in the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Fitting --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateMatch:
    """How a file's weights fit a model: names that are missing, names too many, shapes that differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """Each with both shapes, or kinds of numbers: "head.weight (file 20x768, model 80x768)"."""

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        groups = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(map(_printable, names[:10]))}{' ...' if len(names) > 10 else ''}"
            for kind, names in groups.items()
            if names
        )


def match_state(model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor]) -> StateMatch:
    """Compare names and shapes; a StateMatch is true when all fit.

    Numbers are converted to the model's precision, but neither complex nor real ones to a narrower kind, as where whole
    numbers are expected; nor whole ones to real ones, which somebody has rounded.

    Batch normalisation's counter `num_batches_tracked` may be missing, as in files from before PyTorch 0.4.1: loading
    sets it to zero, and it only matters where momentum is None.
    """
    absent = [name for name in model_state if name not in file_state]
    return StateMatch(
        missing=tuple(name for name in absent if not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in file_state if name not in model_state),
        misshapen=tuple(
            f"{name} (file {_shape(value)}, model {_shape(model_state[name])})"
            if value.shape != model_state[name].shape
            else f"{name} (file {_kind(value)}, model {_kind(model_state[name])})"
            for name, value in file_state.items()
            if name in model_state and not _fits(value, model_state[name])
        ),
    )


def load_strict(model: nn.Module, state: Mapping[str, Tensor], path: Path, fresh: Collection[str] = ()) -> None:
    """Load every weight, or none; those called `fresh`, which the file does not have, stay as they are.

    Raises:
        WeightsError: a name is missing, is too many, or has another shape; all kinds are listed in one message. Or
            numbers are NaN or infinite: whatever such a model answers is not an answer.
    """
    own = {name: value for name, value in model.state_dict().items() if name not in fresh}
    match = match_state(own, state)
    if not match:
        raise WeightsError(f"{path} does not fit the model: {match}")
    made = dict(model.named_buffers(remove_duplicate=False))
    if broken := [name for name, value in state.items() if not _is_finite(value, made.get(name))]:
        names = ", ".join(map(_printable, broken[:5])) + (" ..." if len(broken) > 5 else "")
        raise WeightsError(
            f"{path} holds numbers that are NaN or infinite, in {len(broken)} of {len(state)} tensors: {names}; the "
            "training that wrote it went astray: take an earlier checkpoint"
        )
    model.load_state_dict(dict(state), strict=not fresh)


def load_start(model: nn.Module, state: dict[str, Tensor], path: Path, fresh: tuple[str, ...]) -> list[str]:
    """Load published weights as a start, and return the names that stay fresh.

    These are those that begin with one of `fresh` and are missing in the file.

    Raises:
        WeightsError: as `load_strict`, for all other names.
    """
    kept = [name for name in model.state_dict() if name.startswith(fresh) and name not in state]
    load_strict(model, state, path, fresh=kept)
    return kept


def _is_finite(value: Tensor, made: Tensor | None) -> bool:
    """Whether all numbers are finite, but for those that a buffer is made with, as masks of attention."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    finite = torch.isfinite(value.float() if value.itemsize == 1 else value)  # torch knows none of float8
    if made is not None:
        finite |= ~torch.isfinite(made.to(value.device))
    return bool(finite.all())


def _fits(value: Tensor, own: Tensor) -> bool:
    """Whether a weight has the model's shape and numbers that can become its own; whole ones are no real ones."""
    dense = value.layout == own.layout and value.is_quantized == own.is_quantized
    alike = torch.can_cast(value.dtype, own.dtype) and own.is_floating_point() <= value.is_floating_point()
    return dense and value.shape == own.shape and alike


def _kind(value: Tensor) -> str:
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{value.dtype}{layout}".replace("torch.", "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"
