"""The files of priors: vectors that a second pass can look for, each with a name. Read and written without torch.

A prior file (.npz) holds `names` (K,), `vectors` (K, C) float32 in the space of a model's tokens, and `about`, JSON
that says what they are of and which weights they were made with. Any such file will do: vectors may be averaged, or
come from elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attnbias.data.arrays import read_arrays
from attnbias.data.atomic import replacing_bytes
from attnbias.data.errors import DataError
from attnbias.data.reading import StoredModel, Unfit, parse_json, read_bytes, reading
from attnbias.methods.engine.errors import UsageError, did_you_mean

ENDING = ".npz"
MEND = "make it with: attnbias priors RUN"
LARGEST = 1 << 30
"""Bytes of the largest prior file: 100,000 vectors of 2,048 numbers."""


class About(StoredModel):
    """Where vectors come from."""

    of: Literal["objects", "images", "texts", "vectors"] = "vectors"
    """Mean tokens of objects or of whole images, texts as a model reads them, or a person's own."""
    weights: str = ""
    """The weights whose tokens they are, in words."""
    fingerprint: str = ""
    """CRC-32 of these weights."""
    dataset: str = ""
    split: str = ""
    samples: dict[str, int] = Field(default_factory=dict)
    """How many objects or images each vector is the mean of."""


@dataclass(frozen=True, eq=False)
class Priors:
    """Vectors that a second pass can look for, each with a name."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32] = field(repr=False)
    """(K, C)."""
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        if wrong := _wrong(self.names, self.vectors):
            raise UsageError(f"these are not priors: {wrong}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, names: str | Sequence[str]) -> Priors:
        """Those of one or several names.

        Raises:
            UsageError: there is none of a name; the nearest is offered.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self.names:
                raise UsageError(f"no prior of '{name}'{did_you_mean(name, self.names)}")
        return replace(self, names=tuple(wanted), vectors=self.vectors[[self.names.index(name) for name in wanted]])

    @property
    def words(self) -> str:
        """What they are of."""
        source = f" of {self.about.dataset}/{self.about.split}" if self.about.dataset else ""
        return f"{len(self.names)} {self.about.of}{source}"

    def save(self, path: str | Path) -> Path:
        """Write them as a file that every `--prior` takes.

        Raises:
            UsageError: the name does not end in .npz.
        """
        file = Path(path)
        if file.suffix != ENDING:
            raise UsageError(f"{file}: expected a name that ends in {ENDING}")
        content = io.BytesIO()
        about = np.array(self.about.model_dump_json())
        np.savez(content, names=np.array(self.names), vectors=self.vectors, about=about)
        with replacing_bytes(file) as to:
            to.write(content.getvalue())
        return file


def read_priors(path: Path) -> Priors:
    """Read a file that `attnbias priors` wrote, or one of its layout; `about` may be missing.

    Raises:
        DataError: it is missing, damaged, or holds something else.
    """
    try:
        with reading(path, MEND):
            names, vectors, about = _arrays(read_bytes(path, LARGEST))
            if names.dtype.kind != "U" or vectors.dtype.kind != "f":
                raise Unfit("its names are not texts, or its vectors not floats")
            with np.errstate(over="ignore"):  # too large a number becomes infinity, which is refused
                found = tuple(names.reshape(-1).tolist()), vectors.astype(np.float32)
            if wrong := _wrong(*found):
                raise Unfit(wrong)
            return Priors(*found, About.model_validate(parse_json(about)))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"prior file {path} is missing; {MEND}") from None


def _arrays(content: bytes) -> tuple[NDArray[np.generic], NDArray[np.generic], str]:
    """Names, vectors and the JSON about them.

    Raises:
        Unfit: the file has others, or is damaged.
    """
    stored = read_arrays(io.BytesIO(content), LARGEST)
    if not {"names", "vectors"} <= {*stored}:
        raise Unfit("it has no arrays 'names' and 'vectors'")
    return stored["names"], stored["vectors"], str(stored["about"]) if "about" in stored else "{}"


def _wrong(names: Sequence[str], vectors: NDArray[np.float32]) -> str | None:
    """What is wrong with names and vectors, in words."""
    if vectors.ndim != 2 or len(vectors) != len(names) or not vectors.size:
        return f"{len(names)} names, and vectors of shape {vectors.shape}; expected (names, numbers)"
    if len({*names}) < len(names):
        return "two vectors have one name"
    if not np.isfinite(vectors).all():
        return "a vector holds NaN or infinity"
    return None
