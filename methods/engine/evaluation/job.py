"""What a person asked of `val`: one typed request, which travels to every process as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attnbias.data.pictures import Decode
from attnbias.data.reading import Json
from attnbias.data.transforms.corruptions import SEVERITIES
from attnbias.methods.engine.types import Fields, Truth
from attnbias.weights.files import Entry


@dataclass(frozen=True)
class Job:
    """What a person asked for; the options of `attnbias val` describe it."""

    method: str
    load_from: Sequence[str]
    splits: Sequence[str]
    recipe: str | None = None
    fields: Fields = field(default_factory=dict)
    entry: Entry | None = None
    trust: bool = False
    real_labels: bool = False
    """Also measure by ImageNet's reassessed labels."""
    bias: bool = False
    map: str | None = None
    """None = each model's own."""
    truth: Truth | None = None
    tau: float = 0.5
    bias_out: str | None = None
    context: str | None = None
    """The split that biased pairs are looked for in."""
    reliance: bool = False
    faithfulness: int | None = None
    """How many samples."""
    published_tests: Sequence[str] = ()
    """Of imagenet-c, imagenet-a, imagenet-r, imagenet-sketch."""
    attacks: dict[str, Json] = field(default_factory=dict)
    """Name of an attack -> the fields of its strength that differ from the program's."""
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    robustness_out: str | None = None
    store: bool = False
    csv: str | None = None
    overwrite: bool = False
    data_root: str | None = None
    workers: int = 0
    batch_size: int = 64
    on_bad_image: Literal["error", "skip"] = "error"
    decode: Decode = "exact"
    """How pictures are read that are scored; maps and their truth are always exact."""

    @property
    def root(self) -> Path | None:
        """Where prepared datasets stand, where the person said so."""
        return Path(self.data_root) if self.data_root else None
