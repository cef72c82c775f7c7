"""Which method a run folder or a weight file of ours is of, told without torch."""

from __future__ import annotations

from pathlib import Path

from attnbias.data.reading import parse_json
from attnbias.methods.engine.yaml_files import read_yaml

KEY = "attnbias"
"""The metadata entry of our safetensors files."""

LARGEST_HEADER = 100_000_000
"""In bytes, as the safetensors format has it; in other formats the first eight bytes mean something else."""


def stored_method(path: Path) -> str | None:
    """Name of the method that wrote a run folder, a checkpoint folder or a weight file; None where it does not say."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = parse_json(file.read(size).decode()) if size <= LARGEST_HEADER else {}
            return str(parse_json(header["__metadata__"][KEY])["method"])
        if (path / "recipe.yaml").is_file():
            return str(read_yaml(path / "recipe.yaml")["method"])
        if (path / "model.safetensors").is_file():
            return stored_method(path / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # whoever loads it says what is wrong with it
    return None
