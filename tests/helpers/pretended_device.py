"""A GPU that is not there: tensors "on the device" hold their numbers on the CPU, exactly, and carry another device.

What a GPU refuses is refused (tensors of two devices in one operator), and what it has to finish its work for is
counted with the line that asked: values that are read, rows where a mask is true, copies that are not queued. PyTorch
knows the device by a name for backends of one's own, once in a process and for good; so all of it happens in a process
of its own (`in_a_process`).
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from tests.helpers.forked import FORKS

NAME = "gpu"
CPU = torch.device("cpu")
LIMIT = 300
"""Seconds that a process has."""

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal, aten.unique_dim}
"""Operators whose result, or its shape, depends on values."""
COPIES = {aten.copy_, aten._to_copy, aten._copy_from, aten._copy_from_and_resize}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
"""Operators that take places from the CPU, and wait where these are a mask."""
STRICT = {aten.mm, aten.addmm, aten.bmm, aten.gather, aten.index_select, aten.embedding}
"""Operators that do not even take a number from the CPU."""

Waits = Counter[str]
"""What waited, and where: "copy to the device at engine/maps.py:155"."""


class Mismatch(RuntimeError):
    """Tensors of two devices met in one operator."""


class _Backend:
    """What torch and Accelerate ask of a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device: Any) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    def empty_cache(self) -> None: ...

    def manual_seed_all(self, seed: int) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class OnDevice(torch.Tensor):
    """A tensor that says that it is on the device; `raw` has its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        _device.waits[f"tolist at {_place()}"] += 1
        return self.raw.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        copy = OnDevice(self.raw.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copy._is_param = True
        memo[id(self)] = copy
        return copy

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _device.run(operator, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Device(TorchDispatchMode):
    """Runs every operator, on the CPU, and says what a GPU would have said."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Waits = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(operator, args, kwargs or {})

    def run(self, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        packet, asked = operator.overloadpacket, kwargs.get("device")
        values, shape = tree_flatten((args, kwargs))
        mine = [value for value in values if isinstance(value, OnDevice)]
        here = asked is not None and asked.type == NAME
        if not mine and not here:
            return operator(*args, **kwargs)
        if packet in COPIES:
            self._count_copy(packet, args, kwargs, bool(mine))
        elif bad := _of_the_cpu(packet, args, values, here=here, mine=bool(mine)):
            shapes = [tuple(value.shape) for value in bad]
            raise Mismatch(f"{operator}: {shapes} are on the CPU, the rest is not, at {_place()}")
        places = args[1] if packet in INDEXED else ()
        masked = any(place is not None and place.dtype in (torch.bool, torch.uint8) for place in places)
        if masked or packet in READS:
            self.waits[f"{packet} at {_place()}"] += 1
        if packet is aten._fused_sdp_choice:
            return 0  # the plain formula
        raw = [value.raw if isinstance(value, OnDevice) else value for value in values]
        raw_args, raw_kwargs = tree_unflatten(raw, shape)
        if asked is not None:
            raw_kwargs["device"] = CPU
            raw_kwargs.pop("pin_memory", None)
        result = operator(*raw_args, **raw_kwargs)
        if packet is aten._to_copy and asked is not None and not here:
            return result  # to the host
        # What is written in place stays the tensor that it was.
        known = {id(inside): value for inside, value in zip(raw, values, strict=True) if isinstance(value, OnDevice)}
        return tree_map_only(Tensor, lambda made: known[id(made)] if id(made) in known else OnDevice(made), result)

    def _count_copy(self, packet: Any, args: Any, kwargs: dict[str, Any], mine: bool) -> None:
        queued = kwargs.get("non_blocking", args[2] if packet is aten.copy_ and len(args) > 2 else False)
        if packet is aten.copy_:
            to, crosses = isinstance(args[0], OnDevice), isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice)
        else:
            to = "device" in kwargs and kwargs["device"] is not None and kwargs["device"].type == NAME
            crosses = kwargs.get("device") is not None and to != mine
        if crosses and not queued:
            self.waits[f"copy to the {'device' if to else 'host'} at {_place()}"] += 1


def _of_the_cpu(packet: Any, args: Any, values: list[Any], *, here: bool, mine: bool) -> list[Tensor]:
    """Tensors that an operator on the device cannot take: numbers without dimension pass, and places."""
    theirs = [value for value in values if isinstance(value, Tensor) and not isinstance(value, OnDevice)]
    bad = [value for value in theirs if value.dim() > 0 or packet in STRICT]
    if packet in INDEXED and isinstance(args[0], OnDevice):
        bad = [value for value in bad if not any(value is place for place in args[1])]
    return bad if mine or here else []


class _Functions(TorchFunctionMode):
    """torch.tensor(..., device=...) goes past the operators: a copy from the CPU in its place, as on a GPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return function(*args, **{**kwargs, "device": CPU}).to(kwargs["device"])
        return function(*args, **kwargs)


_device = _Device()


def _place() -> str:
    """File and line of the project, or of the test, that asked."""
    for frame in reversed(traceback.extract_stack()):
        name = frame.filename
        if name != __file__ and not any(part in name for part in ("/site-packages/", "/lib/python", "<")):
            return f"{'/'.join(Path(name).parts[-3:])}:{frame.lineno}"
    return "?"


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """The block in which there is the device, which is returned; in a process of `in_a_process`."""
    with _Functions(), _device:
        yield torch.device(NAME, 0)


@contextlib.contextmanager
def counted() -> Iterator[Waits]:
    """What waits within the block, which is full at its end."""
    before, waits = Counter(_device.waits), Waits()
    yield waits
    waits.update(_device.waits - before)


def in_a_process(task: Callable[..., Any], *arguments: Any) -> Any:
    """`task(*arguments)` in a process where the device can be; what fails there fails here."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=_enter, args=(theirs, task, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT):
            raise AssertionError(f"{task.__name__} has not ended after {LIMIT} seconds")
        error, result = ours.recv()
    finally:
        process.kill()
        process.join()
    if error:
        raise AssertionError(error)
    return result


def _enter(answers: Connection, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    try:
        answers.send(("", task(*arguments)))
    except BaseException:
        answers.send((traceback.format_exc(), None))
