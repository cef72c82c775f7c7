"""Which method a run folder or a weight file of ours is of, told without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attnbias.data.reading import Json, StoredModel, Unfit, parse_json, shown
from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import parse
from attnbias.methods.engine.registry import get_description
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


def stored_dataset(path: Path) -> str | None:
    """Name of the dataset that a weight file of ours, a checkpoint or a run folder was trained on, of what they say at
    their beginning; None where they do not say."""
    from attnbias.methods.engine.run_folder import RunFolder

    try:
        folder = (RunFolder(path).newest() if (path / "checkpoints").is_dir() else None) or path
        said = _said(folder if folder.is_file() else folder / "model.safetensors")
        return parse(get_description(known_method(said["method"])).recipe_type, said["recipe"]).dataset
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        return None  # whoever loads it says what is wrong with it


def stored_method(path: Path) -> str | None:
    """Name of the method that wrote a run folder, a checkpoint folder or a weight file; None where it does not say."""
    try:
        if path.is_file():
            return known_method(_said(path)["method"])
        if (path / "recipe.yaml").is_file():
            return known_method(read_yaml(path / "recipe.yaml")["method"])
        if (path / "model.safetensors").is_file():
            return stored_method(path / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # whoever loads it says what is wrong with it
    return None


def _said(file: Path) -> Json:
    """What a weight file of ours says of itself, at its beginning; not checked."""
    if not file.is_file():
        raise FileNotFoundError(file)  # a pipe would be waited for
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = _Header.model_validate(parse_json(opened.read(size).decode()) if size <= LARGEST_HEADER else {})
    said: Json = parse_json(header.metadata[KEY])
    return said


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
