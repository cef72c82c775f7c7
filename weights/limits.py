"""What a weight file of a stranger may claim: no more numbers than it has bytes for, and only names of weights.

A few bytes can ask for gigabytes: packed zeros, a shape with strides of 0, a NumPy type of two billion letters. The
claims are read, and refused, before anything is made.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
from torch import Tensor

from attnbias.weights.errors import WeightsError

LARGEST_EXPANSION = 20
"""How much larger than its file an archive's content may be; weights do not pack well."""

LARGEST_SHARING = 4
"""How many times the file's bytes the tensors may hold together: names may share a memory, as tied weights do."""

HARMLESS = 1 << 30
"""Bytes that any file's tensors may claim: memory that every machine has."""

ALLOWED = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)"
    r"|torch (Size|device|\w+Storage|b?float\d+\w*|u?int\d+|bool|complex\d+|strided|contiguous_format)"
    r"|torch\.storage (Typed|Untyped|_Typed|_Untyped)?Storage"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|sparse_tensor|qtensor)"
    r"|torch\.nn\.parameter Parameter|torch\._tensor _rebuild_from_type_v2"
    r"|torch per_(tensor|channel)_\w+|torch\.serialization _get_layout"
    r"|argparse Namespace|numpy dtype|numpy\.(core|_core)\.multiarray scalar|_codecs encode"
    r"|(__builtin__|builtins) (set|complex)"
    r"|pytorch_lightning\.callbacks\.model_checkpoint ModelCheckpoint"
)
"""What a pickle may name, as "module name". PyTorch's own list holds more, such as bytearray, which makes any size."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, as torch.save has written since PyTorch 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Refuse an archive that would unpack to many times its size.

    Raises:
        WeightsError: it would. zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > LARGEST_EXPANSION * path.stat().st_size:
        raise WeightsError(
            f"{path} is refused: its {path.stat().st_size:,} bytes would unpack to {unpacked:,}, which weights never do"
        )


def check_stored_tensor(content: bytes, path: Path) -> None:
    """Refuse the bytes of a tensor in a larger file, as `check_archive` and `check_names` refuse a file.

    Raises:
        WeightsError: they would unpack to many times their size. Any other error: they are damaged, or name anything
        but weights.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_EXPANSION * len(content):
            raise WeightsError(f"{path} is refused: a tensor in it would unpack to many times its size")
        for member in archive.namelist():
            if member.endswith("data.pkl"):
                with archive.open(member) as file:
                    _check_pickle(file, path)


def check_names(path: Path) -> None:
    """Refuse a pickle that names anything but weights and plain values.

    Raises:
        WeightsError: it does; the name is said. Any other error: it is damaged.
    """
    if is_archive(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    with archive.open(member) as file:
                        _check_pickle(file, path)
    else:
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                _check_pickle(file, path)


LEGACY_PICKLES = 5
"""How a file from before PyTorch 1.6 begins: magic number, protocol, system, content, keys; then come the numbers."""


def _check_pickle(file: IO[bytes], path: Path) -> None:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and not ALLOWED.fullmatch(str(argument)):
            raise UnpicklingError(f"GLOBAL {'.'.join(str(argument).split(' '))}")


def check_sizes(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim more numbers than their file, or the files of their folder, can hold.

    Raises:
        WeightsError: they do, by their shapes, by strides of 0, or by an empty side of a huge shape.
    """
    claimed = {name: math.prod(max(side, 1) for side in t.shape) * t.element_size() for name, t in state.items()}
    files = (file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if sum(claimed.values()) > max(LARGEST_SHARING * size, HARMLESS):
        name = max(claimed, key=claimed.__getitem__)
        shape = "x".join(map(str, state[name].shape))
        raise WeightsError(
            f"{path} is refused: {size:,} bytes cannot hold the {sum(claimed.values()):,} that its tensors claim "
            f"({name!r}: {shape})"
        )


class ScalarType:
    """Stands for numpy.dtype in a pickle: the type of one number, and nothing larger."""

    def __init__(self, code: str, *flags: object) -> None:
        if not (isinstance(code, str) and re.fullmatch("[fiu][1248]|b1", code)):
            raise UnpicklingError(f"a NumPy type that is not a number: {str(code)[:40]}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def scalar(kind: ScalarType, content: bytes) -> object:
    """Stands for NumPy's scalar constructor: one number out of its bytes."""
    if not (isinstance(kind, ScalarType) and len(content) == kind.dtype.itemsize):
        raise UnpicklingError("a NumPy scalar that is not a number")
    return np.frombuffer(content, kind.dtype)[0]
