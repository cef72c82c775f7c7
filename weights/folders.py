"""Folders that other programs keep weights in: Accelerate's and transformers', whole or sharded, and those of
torch.distributed.checkpoint.

Each becomes what a single file would hold; weights/files.py then takes the weights out of it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from attnbias.weights.errors import WeightsError
from attnbias.weights.limits import check_sizes, check_stored_tensor, walk

METADATA = ".metadata"
"""What torch.distributed.checkpoint writes last: names, shapes and places of all tensors of a folder."""

INDEX = ".index.json"
"""The end of the name of a sharded file's table of contents."""

WHOLE = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.bin")
"""Names that Accelerate and transformers give to weights in one file."""

OF_AN_OPTIMISER = re.compile(r"optim\w*")
"""What is not read out of a distributed checkpoint: it is twice as large as the weights."""

LARGEST_TABLE = 1 << 28
"""Bytes of a table of contents."""


def weights_in(folder: Path) -> Path | None:
    """What holds the weights of a folder: a file, a table of shards, or the folder of a distributed checkpoint; None
    where there is nothing of the kind, or more than one."""
    if (folder / METADATA).is_file():
        return folder
    for names in ([folder / name for name in WHOLE], sorted(folder.glob(f"*{INDEX}"))):
        if there := [path for path in names if path.is_file()]:
            return there[0] if len(there) == 1 else None
    inner = [path.parent for path in folder.glob(f"*/{METADATA}") if not OF_AN_OPTIMISER.match(path.parent.name)]
    return inner[0] if len(inner) == 1 else None


def read_shards(index: Path, read_file: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """The tensors of a sharded file, whose table says which file holds which; `read_file` reads one of them.

    Raises:
        WeightsError: the table is damaged, names a file elsewhere, or a tensor is not where it says.
    """
    if index.stat().st_size > LARGEST_TABLE:
        raise WeightsError(f"{index} is not a table of shards: it is too large")
    try:
        places = _Shards.model_validate_json(index.read_bytes()).weight_map
    except ValidationError as error:
        raise WeightsError(f"{index} is damaged or no table of shards ({error.errors()[0]['msg']})") from None
    content: dict[str, Any] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise WeightsError(f"{index} is refused: it names {file!r}, which is not a file beside it")
        if not (index.parent / file).is_file():
            raise WeightsError(f"{index.parent / file} is missing, which {index.name} names; fetch it again")
        content |= read_file(index.parent / file)
    if missing := [name for name in places if name not in content]:
        raise WeightsError(f"{index} names {missing[0]!r}, which {places[missing[0]]} does not hold; fetch them again")
    return {name: content[name] for name in places}


class _Shards(BaseModel):
    weight_map: dict[str, str]


def read_distributed(folder: Path, *, trust: bool) -> dict[str, Any]:
    """The tensors of a distributed checkpoint, as deep in dictionaries as they were saved; no optimiser's.

    Its table is a pickle: nothing is made of it but the classes of tables.

    Raises:
        WeightsError: it is damaged, refused, or a tensor is not whole.
    """
    try:
        with (folder / METADATA).open("rb") as file:
            for _ in walk(file):
                pass  # and nothing is refused
            file.seek(0)
            metadata = _TableUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise UnpicklingError("it is not a table of tensors")
        paths = {name: _path(metadata, name) for name in metadata.state_dict_metadata}
        tables = {
            name: table
            for name, table in metadata.state_dict_metadata.items()
            if isinstance(table, TensorStorageMetadata) and not OF_AN_OPTIMISER.fullmatch(paths[name][0])
        }
        if not trust:
            with torch.device("meta"):
                check_sizes({n: torch.empty(t.size, dtype=t.properties.dtype) for n, t in tables.items()}, folder)
        content: dict[str, Any] = {}
        for name, table in tables.items():
            *outer, last = paths[name]
            inner = content
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[last] = _assembled(folder, name, table, metadata.storage_data)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle raises nearly any type
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(f"{folder / METADATA} is refused: it holds {refused[1]}, which is not a table") from None
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        raise WeightsError(f"{folder} is damaged or no distributed checkpoint ({reason}); fetch it again") from None
    return content


TABLES = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
}
"""Module -> classes of a distributed checkpoint's table."""


class _TableUnpickler(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name in TABLES["pathlib"]:
            return _nowhere
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if name in TABLES.get(module, ()):
            return super().find_class(module, name)
        raise UnpicklingError(f"GLOBAL {module}.{name}")


def _nowhere(*parts: object) -> None:
    """Stands for the path that a checkpoint was saved at: nothing is looked for there."""


def _path(metadata: Metadata, name: str) -> list[str]:
    """The keys of the dictionaries that a tensor was in, and its own."""
    return [str(part) for part in (metadata.planner_data or {}).get(name) or (name,)]


def _assembled(
    folder: Path, name: str, table: TensorStorageMetadata, places: Mapping[MetadataIndex, _StorageInfo]
) -> Tensor:
    """A tensor out of its chunks."""
    whole, filled = torch.empty(table.size, dtype=table.properties.dtype), 0
    for chunk in table.chunks:
        place = places[MetadataIndex(name, chunk.offsets)]
        if place.transform_descriptors:
            raise WeightsError(f"{folder}: {name!r} is packed ({', '.join(map(str, place.transform_descriptors))})")
        if Path(place.relative_path).name != place.relative_path:
            raise WeightsError(f"{folder} is refused: it names {place.relative_path!r}, which is not a file in it")
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            stored = file.read(place.length)
        check_stored_tensor(stored, folder)
        part = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)  # noqa: TID251 - one tensor
        target = whole
        for dimension, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
            target = target.narrow(dimension, start, length)
        if not isinstance(part, Tensor) or part.shape != target.shape:
            raise WeightsError(f"{folder}: a part of {name!r} is not the tensor that its table says; fetch it again")
        target.copy_(part)
        filled += part.numel()
    if filled != whole.numel():
        raise WeightsError(
            f"{folder}: {filled:,} of the {whole.numel():,} numbers of {name!r} are there; fetch it again"
        )
    return whole
