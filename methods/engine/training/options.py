"""How a training run is carried out: folders, processes, saving. What changes the numbers is a recipe's field."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from attnbias.methods.engine.errors import UsageError


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes what is computed (up to the rounding of other kernels)."""

    out: Path
    data_root: Path | None = None
    cpu: bool = False
    workers: int = 0
    accumulation: int = 1
    resume: str | None = None
    """`auto` (newest complete checkpoint of `out`, or a fresh start) or a checkpoint folder."""
    overwrite: bool = False
    load_from: str | None = None
    backbone_weights: str | None = None
    reset_head: bool = False
    trust_checkpoint: bool = False
    eval_splits: tuple[str, ...] = ("val",)
    eval_every: int = 1
    eval_batch_size: int = 64
    save_steps: int | None = None
    keep: int = 2
    log_every: int = 50
    trackers: tuple[str, ...] = ()
    compile: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    deterministic: bool = False
    threads: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if self.resume is not None and self.overwrite:
            raise UsageError("--resume continues a run and --overwrite deletes it; leave one of them out")

    def to_json(self) -> str:
        """Serialise, so that spawned processes get the same options."""
        return json.dumps({**asdict(self), "out": str(self.out), "data_root": self.data_root and str(self.data_root)})

    @classmethod
    def from_json(cls, text: str) -> Options:
        """Undo `to_json`."""
        values = json.loads(text)
        for name in ("eval_splits", "trackers"):
            values[name] = tuple(values[name])
        values["out"] = Path(values["out"])
        values["data_root"] = Path(values["data_root"]) if values["data_root"] else None
        return cls(**values)
