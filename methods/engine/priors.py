"""What a second pass looks for: a class, a text, or vectors of a file that `attnbias priors` wrote.

A prior file (.npz) holds `names` (K,), `vectors` (K, C) float32 in the space of a model's tokens, and `about`, JSON
that says what they are of and which weights they were made with. Any such file will do: vectors may be averaged, or
come from elsewhere.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from attnbias.data.atomic import replacing_bytes
from attnbias.data.errors import DataError
from attnbias.data.reading import BAD_ARCHIVE, StoredModel, Unfit, parse_json, read_bytes, reading
from attnbias.methods.engine.abilities import IsSteered
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import Steered
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.types import Steering

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
            found = tuple(names.reshape(-1).tolist()), vectors.astype(np.float32)
            if wrong := _wrong(*found):
                raise Unfit(wrong)
            return Priors(*found, About.model_validate(parse_json(about)))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"prior file {path} is missing; {MEND}") from None


def _arrays(content: bytes) -> tuple[NDArray[np.generic], NDArray[np.generic], str]:
    """Names, vectors and the JSON about them.

    Raises:
        ValueError: the file has others, or is damaged.
    """
    try:
        with np.load(io.BytesIO(content)) as stored:
            if not {"names", "vectors"} <= {*stored.files}:
                raise Unfit("it has no arrays 'names' and 'vectors'")
            return stored["names"], stored["vectors"], str(stored["about"]) if "about" in stored.files else "{}"
    except (*BAD_ARCHIVE, AttributeError):  # a single array has no names
        raise Unfit("it is not a .npz file of arrays") from None


def _wrong(names: Sequence[str], vectors: NDArray[np.float32]) -> str | None:
    """What is wrong with names and vectors, in words."""
    if vectors.ndim != 2 or len(vectors) != len(names) or not vectors.size:
        return f"{len(names)} names, and vectors of shape {vectors.shape}; expected (names, numbers)"
    if len({*names}) < len(names):
        return "two vectors have one name"
    if not np.isfinite(vectors).all():
        return "a vector holds NaN or infinity"
    return None


def fingerprint(model: nn.Module) -> str:
    """CRC-32 over the weights of a model, in the order of its state."""
    found = 0
    for tensor in model.state_dict().values():
        found = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"


# Steering by a request ------------------------------------------------------------------------------------------------


def steered(request: Steered, loaded: Loaded, kinds: Collection[str], classes: Sequence[str] | None = None) -> Loaded:
    """A model whose maps of some `kinds` follow the request's `--prior` and `--gain`; as it is where neither was typed.

    `classes` are those that maps are of; None = all that the model knows.

    Raises:
        UsageError: the model cannot be steered, or not so, or no map of these kinds follows a prior, or a class has no
            vector. DataError: as `read_priors`.
    """
    if request.prior is None and request.gain is None:
        return loaded
    flag = "--prior" if request.prior is not None else "--gain"
    method = loaded.method
    if not isinstance(method, IsSteered):
        raise UsageError(f"{flag}: method '{method.name}' is not steered by a prior; leave {flag} out")
    if not {*kinds} & {*method.steered_maps}:
        raise UsageError(
            f"{flag} changes nothing for --map {', '.join(kinds)}; use one of: {', '.join(method.steered_maps)}"
        )
    method.check_steered(loaded.model)
    own = "text" if method.reads_texts else "class"
    gain = method.default_gain(loaded.model) if request.gain is None else request.gain
    if request.prior in (None, own):
        return _steered_by(loaded, Steering((), None, gain, f"each {own} itself, gain {gain:g}"))
    if request.prior in ("text", "class"):
        raise UsageError(f"--prior {request.prior}: method '{method.name}' is asked by {own}; use {own}, or a file")
    file = Path(str(request.prior))
    if file.suffix != ENDING:
        raise UsageError(f"--prior {file}: expected {own}, or a file that ends in {ENDING}")
    priors = read_priors(file)
    say_other_weights(file, priors, loaded)
    words = f"{file.name}: {priors.words}, gain {gain:g}"
    if method.reads_texts:
        return _steered_by(loaded, Steering(priors.names, torch.from_numpy(priors.vectors), gain, words))
    needed = loaded.classes if classes is None else classes
    if missing := [name for name in needed if name not in priors.names]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{file} has no vector of class '{missing[0]}'{more}; name others with --classes, or {MEND}")
    of_class = dict(zip(priors.names, priors.vectors, strict=True))
    nothing = np.zeros(priors.vectors.shape[1], np.float32)
    vectors = np.stack([of_class.get(name, nothing) for name in loaded.classes])
    return _steered_by(loaded, Steering(loaded.classes, torch.from_numpy(vectors), gain, words))


def _steered_by(loaded: Loaded, steering: Steering) -> Loaded:
    say(f"steered by {steering.words}", error=True)
    return replace(loaded, steering=steering)


def say_other_weights(name: str | Path, priors: Priors, loaded: Loaded) -> None:
    """Say on standard error that vectors were made with other weights than those that they steer, if so."""
    made_with = priors.about.fingerprint
    if made_with and made_with != fingerprint(loaded.model):
        say(f"{name}: made with other weights ({priors.about.weights})", error=True)
