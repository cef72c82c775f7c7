"""Which GPU kernels compute, and how exactly. On a CPU nothing is chosen.

Everything but training steps is in float32 as it stands, unless `--amp` says otherwise: what a run logs is what `val`
finds in its checkpoint, on any device up to the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import nn

from attnbias.data.reading import Json
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.requests import TrainRequest

WORKSPACE = ":4096:8"
"""cuBLAS repeats its sums with a workspace of its own for each stream (CUDA's documentation, "Results
reproducibility")."""


def resolved_amp(amp: str, device: torch.device) -> str:
    """The precision that `auto` is on a device: bf16 where it computes in it, else fp16; on a CPU float32."""
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


NEEDS_GPU = "--amp {} needs a GPU; on the CPU use --amp bf16 or --amp no"


def check_amp(amp: str, device: torch.device) -> None:
    """Refuse a precision that there is not on this device.

    Raises:
        UsageError: see above.
    """
    if amp in ("fp16", "tf32") and device.type == "cpu":
        raise UsageError(NEEDS_GPU.format(amp))


def refusals(request: TrainRequest) -> list[str]:
    """What the recipe of a placed run asks for that its device does not have, each with what mends it."""
    recipe, several = request.recipe, (request.processes or 1) > 1
    if request.gpus != 0:
        return []
    found = []
    if recipe.amp in ("fp16", "tf32"):
        found.append(NEEDS_GPU.format(recipe.amp))
    if recipe.sync_bn and several:  # torch has no such layer for the CPU
        found.append("--sync-bn with several processes needs GPUs; on the CPU use one process, or --no-sync-bn")
    return found


def check_device(request: TrainRequest) -> None:
    """Refuse a placed run that its device cannot do.

    Raises:
        UsageError: see `refusals`.
    """
    if found := refusals(request):
        raise UsageError("; ".join(found))


def compute_exactly() -> None:
    """Have float32 computed in float32, convolutions too, where PyTorch begins with TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def in_tf32(*, allowed: bool) -> Iterator[None]:
    """The block in which products and convolutions of float32 may be in TF32: its range, and three decimal digits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if allowed:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def in_precision(amp: str, device: torch.device) -> Iterator[None]:
    """The block in which passes through a network are as a checked `--amp` says."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    # Without the cache, which would hold weights as they were before a measure changed them.
    cast = torch.autocast(device.type, dtype, enabled=amp in ("fp16", "bf16"), cache_enabled=False)
    with in_tf32(allowed=amp == "tf32"), cast:
        yield


def be_deterministic() -> None:
    """Take kernels that give the same numbers each time, where there are some; before CUDA computes anything."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=True)


@dataclass(frozen=True)
class TrainingKernels:
    """How the steps of a run compute on a GPU."""

    tf32: bool
    benchmark: bool
    """cuDNN tries its kernels on the first batch, and takes the fastest."""
    channels_last: bool

    @classmethod
    def of(cls, request: TrainRequest, device: torch.device, model: nn.Module) -> TrainingKernels:
        """What a run was asked for, or takes by itself."""
        on_gpu = device.type == "cuda"
        convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
        by_itself = on_gpu and convolutions > 1  # a transformer has one, for its patches
        return cls(
            tf32=on_gpu and request.tf32,
            benchmark=on_gpu and not request.deterministic,
            channels_last=by_itself if request.channels_last is None else request.channels_last,
        )

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """The block of a training step."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = self.benchmark or before
        try:
            with in_tf32(allowed=self.tf32):
                yield
        finally:
            torch.backends.cudnn.benchmark = before

    def content(self) -> Json:
        """For the run's environment.json."""
        return asdict(self)

    @property
    def words(self) -> str:
        """What is said of a run on a GPU."""
        products = "in TF32 (--no-tf32: exactly)" if self.tf32 else "exactly"
        kernels = "the fastest by trial" if self.benchmark else "deterministic where there are some"
        layout: Literal["channels last", "channels first"] = "channels last" if self.channels_last else "channels first"
        return f"training steps compute float32 products {products}, by cuDNN's kernels {kernels}, {layout}"
