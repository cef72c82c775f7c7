"""Which method a run folder or a weight file of ours is of, told without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attnbias.data.reading import StoredModel, Unfit, parse_json, shown
from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.yaml_files import read_yaml

KEY = "attnbias"
"""The metadata entry of our safetensors files."""

PLAIN = "attnbias-plain"
"""The metadata entry of plain files: another than ours, so that they are never taken for whole models."""

EXPORTED = "attnbias.json"
"""The file in a .pt2 archive that says what the model is; ONNX has it as metadata under KEY."""

LARGEST_HEADER = 100_000_000
"""In bytes, as the safetensors format has it; in other formats the first eight bytes mean something else."""


class _Header(StoredModel, extra="ignore"):
    """The JSON that a safetensors file begins with; the entries of its tensors are for its own reader."""

    metadata: dict[str, str] = Field(alias="__metadata__")


def known_method(name: object) -> str:
    """The name of a method, out of a file.

    Raises:
        Unfit: it is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise Unfit(f"{shown(name)} is not a method")
    return name


def stored_method(path: Path) -> str | None:
    """Name of the method that wrote a run folder, a checkpoint folder or a weight file; None where it does not say."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = _Header.model_validate(parse_json(file.read(size).decode()) if size <= LARGEST_HEADER else {})
            return known_method(parse_json(header.metadata[KEY])["method"])
        if (path / "recipe.yaml").is_file():
            return known_method(read_yaml(path / "recipe.yaml")["method"])
        if (path / "model.safetensors").is_file():
            return stored_method(path / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # whoever loads it says what is wrong with it
    return None


def need_onnx() -> None:
    """Refuse where the packages of ONNX are missing.

    Raises:
        UsageError: one of them is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--format onnx needs {error.name}; run: pip install 'attnbias[export]'") from None
