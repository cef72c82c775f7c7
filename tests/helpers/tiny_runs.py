"""Short runs on the demo set, what lies in a folder, and the newest checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnbias.methods.engine.run_folder import RunFolder
from attnbias.methods.engine.sweep import without

TINY = ["--recipe", "demo", "--epochs", 1, "--batch-size", 20, "--image-size", 32]
CPU = ["--gpus", 0, "--threads", 1]


def instead(words: Sequence[Any], *others: Any) -> list[Any]:
    """The words of a command, with other options, of one value each, in the place of those that they name too."""
    named = [word for word in map(str, others) if word.startswith("--")]
    return [*without([*map(str, words)], *named), *others]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file (with its bytes) and folder below a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def newest(run: Path) -> Path:
    checkpoint = RunFolder(run).latest()
    assert checkpoint is not None
    return checkpoint


def weights_of(run: Path) -> Path:
    return newest(run) / "model.safetensors"
