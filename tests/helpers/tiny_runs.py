"""Short runs on the demo set, what lies in a folder, and the newest checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from attnbias.methods.engine.run_folder import RunFolder

TINY = ["--recipe", "demo", "--epochs", 1, "--batch-size", 20, "--image-size", 32]
CPU = ["--gpus", 0, "--threads", 1]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file (with its bytes) and folder below a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def newest(run: Path) -> Path:
    checkpoint = RunFolder(run).latest()
    assert checkpoint is not None
    return checkpoint


def weights_of(run: Path) -> Path:
    return newest(run) / "model.safetensors"
