"""Vision transformers as JAX programs publish them: .npz arrays under Flax's names -> tensors under timm's."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnbias.weights.errors import WeightsError
from attnbias.weights.limits import check_archive

PREFIXES = ("opt/target/", "params/")
"""What stands before every name where the optimiser's state was saved around the weights."""

PLAIN = {
    "cls": "cls_token",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "embedding/bias": "patch_embed.proj.bias",
    "head/bias": "head.bias",
}
BLOCK = {
    "LayerNorm_0/scale": "norm1.weight",
    "LayerNorm_0/bias": "norm1.bias",
    "LayerNorm_2/scale": "norm2.weight",
    "LayerNorm_2/bias": "norm2.bias",
    "MultiHeadDotProductAttention_1/out/bias": "attn.proj.bias",
    "MlpBlock_3/Dense_0/bias": "mlp.fc1.bias",
    "MlpBlock_3/Dense_1/bias": "mlp.fc2.bias",
}
ATTENTION = "MultiHeadDotProductAttention_1"


def read_flax(path: Path) -> dict[str, Tensor]:
    """Read a .npz file; arrays of objects, which are pickles, are refused by NumPy.

    Names that are not a vision transformer's stay as they are, to be reported by whoever loads them.

    Raises:
        WeightsError: it is damaged, or holds something else than arrays of numbers.
    """
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            arrays = {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
        prefix = next((p for p in PREFIXES if arrays and all(name.startswith(p) for name in arrays)), "")
        return to_timm({name.removeprefix(prefix): value for name, value in arrays.items()})
    except WeightsError:
        raise
    except Exception as error:  # damaged archives raise nearly any type, and turned arrays may have any shape
        first = (str(error).splitlines() or [""])[0][:160]
        raise WeightsError(f"{path} is damaged or no .npz file of arrays ({first}); fetch it again") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """One array; NumPy's own reader makes room for whatever the header claims before it looks for the numbers."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "biufc" or min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} is not an array of numbers")
        numbers = np.frombuffer(bytearray(file.read()), dtype)
    return torch.from_numpy(numbers.reshape(shape, order="F" if fortran else "C"))


def to_timm(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and turn: Flax's dense kernels are (in, out), its convolutions (h, w, in, out), its attention keeps heads
    apart, (D, heads, d) into them and (heads, d, D) out of them."""
    state: dict[str, Tensor] = {}
    queries: dict[str, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        block = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", name)
        inner = block[2] if block else ""
        prefix = f"blocks.{block[1]}." if block else ""
        if name in PLAIN:
            state[PLAIN[name]] = value
        elif name == "embedding/kernel":
            state["patch_embed.proj.weight"] = value.permute(3, 2, 0, 1)  # (P, P, 3, D) -> (D, 3, P, P)
        elif name == "head/kernel":
            state["head.weight"] = value.T
        elif inner in BLOCK:
            state[prefix + BLOCK[inner]] = value
        elif dense := re.fullmatch(r"MlpBlock_3/Dense_([01])/kernel", inner):
            state[f"{prefix}mlp.fc{int(dense[1]) + 1}.weight"] = value.T
        elif inner == f"{ATTENTION}/out/kernel":
            state[f"{prefix}attn.proj.weight"] = value.flatten(0, 1).T  # (heads, d, D) -> (D, heads * d)
        elif part := re.fullmatch(rf"{ATTENTION}/(query|key|value)/(kernel|bias)", inner):
            kind = "weight" if part[2] == "kernel" else "bias"
            turned = value.flatten(1).T if kind == "weight" else value.flatten()  # (D, heads, d) -> (heads * d, D)
            queries.setdefault(f"{prefix}attn.qkv.{kind}", {})[part[1]] = turned
        else:
            state[name] = value
    for name, parts in queries.items():
        if parts.keys() == {"query", "key", "value"}:
            state[name] = torch.cat([parts[part] for part in ("query", "key", "value")])
    return state
