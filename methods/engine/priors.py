"""What a second pass looks for: a class, a text, or vectors of a file that `attnbias priors` wrote (prior_files.py)."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from attnbias.methods.engine.abilities import IsSteered
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.prior_files import MEND, Priors, read_priors
from attnbias.methods.engine.requests import Steered
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.types import Steering


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
    method = loaded.method
    request.check_steering(method, kinds)
    assert isinstance(method, IsSteered)
    method.check_steered(loaded.model)
    own = "text" if method.reads_texts else "class"
    gain = method.default_gain(loaded.model) if request.gain is None else request.gain
    if request.prior in (None, own):
        return _steered_by(loaded, Steering((), None, gain, f"each {own} itself"))
    file = Path(str(request.prior))
    priors = read_priors(file)
    say_other_weights(file, priors, loaded)
    # Of one set, the vectors of two models are alike, each in its own space; any others are those of their file alone.
    said = (priors.words, file.name) if priors.about.dataset else (f"{file.name}: {priors.words}", "")
    if method.reads_texts:
        return _steered_by(loaded, Steering(priors.names, torch.from_numpy(priors.vectors), gain, *said))
    needed = loaded.classes if classes is None else classes
    if missing := [name for name in needed if name not in priors.names]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{file} has no vector of class '{missing[0]}'{more}; name others with --classes, or {MEND}")
    of_class = dict(zip(priors.names, priors.vectors, strict=True))
    nothing = np.zeros(priors.vectors.shape[1], np.float32)
    vectors = np.stack([of_class.get(name, nothing) for name in loaded.classes])
    return _steered_by(loaded, Steering(loaded.classes, torch.from_numpy(vectors), gain, *said))


def _steered_by(loaded: Loaded, steering: Steering) -> Loaded:
    say(f"steered by {steering.words}", error=True)
    return replace(loaded, steering=steering)


def say_other_weights(name: str | Path, priors: Priors, loaded: Loaded) -> None:
    """Say on standard error that vectors were made with other weights than those that they steer, if so."""
    made_with = priors.about.fingerprint
    if made_with and made_with != fingerprint(loaded.model):
        say(f"{name}: made with other weights ({priors.about.weights})", error=True)
