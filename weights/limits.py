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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Literal, NamedTuple

import numpy as np
import torch
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


LARGEST_TUPLE = 1_000_000
"""Values of a tuple, those of its tuples with them: a few bytes can put a tuple twice into the next, 40 times over."""


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


class _Part(NamedTuple):
    """What is known, before it is made, of a value that a pickle would put on its stack."""

    name: str = ""
    """Of a class or a function, as "module name"."""
    text: str | None = None
    items: tuple[_Part, ...] = ()
    """Of a tuple."""
    size: int = 1
    """Values of a tuple, those of its tuples with them."""


def _check_pickle(file: IO[bytes], path: Path) -> None:
    for operation, argument, taken in walk(file):
        if operation == "GLOBAL" and not ALLOWED.fullmatch(str(argument)):
            raise UnpicklingError(f"GLOBAL {'.'.join(str(argument).split(' '))}")
        if operation in ("REDUCE", "NEWOBJ"):
            _check_call(taken[0].name, taken[1])


def _check_call(name: str, arguments: _Part) -> None:
    """Refuse a call that makes something of any size out of a number, or out of what calls made before it."""
    if name.endswith("Storage"):
        raise UnpicklingError("memory that is filled from no file")
    texts = [part.text for part in arguments.items]
    if name == "_codecs encode" and (texts[1:] != ["latin1"] or texts[0] is None):
        raise UnpicklingError("bytes that are not made of a text, letter by letter")
    makers = [part.name.startswith("torch._utils _rebuild") for part in arguments.items[:1]]
    if name == "torch._tensor _rebuild_from_type_v2" and makers != [True]:  # it calls its first argument
        raise UnpicklingError("a tensor that is not made as one")


def walk(file: IO[bytes]) -> Iterator[tuple[str, object, Sequence[_Part]]]:
    """The operations of a pickle, none of which is carried out: name, argument, and what each takes from the stack.

    Raises:
        UnpicklingError: a tuple holds itself many times over, so that using it as a key never ends, or there are more
        places for values than values. ValueError, IndexError, KeyError: it is damaged.
    """
    mark, stack, memo = _Part("mark"), list[_Part](), dict[int, _Part]()
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        taken = _taken(stack, operation, mark)
        yield operation.name, argument, taken
        made = _Part(text=argument if isinstance(argument, str) else None)
        if operation.name == "GLOBAL":
            made = _Part(name=str(argument))
        elif operation.name.startswith("TUPLE"):
            made = _Part(items=tuple(taken), size=1 + sum(part.size for part in taken))
        elif operation.name == "DUP":
            made = taken[0]
        elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
            made = memo[int(str(argument))]
        elif operation.name == "MEMOIZE":
            made = memo[len(memo)] = taken[0]
        elif operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if (place := int(str(argument))) > count:  # Python's own unpickler makes room for all places before it
                raise UnpicklingError("a place for a value that is out of order")
            memo[place] = stack[-1]
        if made.size > LARGEST_TUPLE:
            raise UnpicklingError(f"a tuple of more than {LARGEST_TUPLE:,} values")
        stack += [mark if each is pickletools.markobject else made for each in operation.stack_after]


def _taken(stack: list[_Part], operation: pickletools.OpcodeInfo, mark: _Part) -> list[_Part]:
    """Take off the stack what an operation takes: so many values, and those above a mark where it takes one."""
    before, above = operation.stack_before, list[_Part]()
    if pickletools.markobject in before:
        position = next(position for position in reversed(range(len(stack))) if stack[position] is mark)
        above = stack[position + 1 :]
        del stack[position:]
        before = before[: before.index(pickletools.markobject)]
    first = len(stack) - len(before)
    if first < 0:
        raise UnpicklingError("an operation takes what is not there")
    below = stack[first:]
    del stack[first:]
    return below + above


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


def check_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not plain numbers, one after the other: a model would take a part of what they say.

    Raises:
        WeightsError: a tensor is sparse, quantised or complex.
    """
    for name, value in state.items():
        if value.is_quantized:
            kind = "quantised"
        elif value.is_complex():
            kind = "complex"
        elif value.layout is not torch.strided:
            kind = "sparse"
        else:
            continue
        raise WeightsError(f"{path} is refused: its {name!r} is a {kind} tensor, expected plain numbers")


class ScalarType:
    """Stands for numpy.dtype in a pickle: the type of one number, and nothing larger."""

    def __init__(self, code: str, *flags: object) -> None:
        if not (isinstance(code, str) and re.fullmatch("[fiu][1248]|b1", code)):
            raise UnpicklingError(f"a NumPy type that is not a number: {str(code)[:40]}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[int, Literal["<", ">", "|", "="], object]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def scalar(kind: ScalarType, content: bytes) -> object:
    """Stands for NumPy's scalar constructor: one number out of its bytes."""
    if not (isinstance(kind, ScalarType) and len(content) == kind.dtype.itemsize):
        raise UnpicklingError("a NumPy scalar that is not a number")
    return np.frombuffer(content, kind.dtype)[0]
