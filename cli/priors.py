"""`attnbias priors`: vectors that AbSViT's second pass can look for, from a split's objects or from texts."""

from __future__ import annotations

import typer

from attnbias.cli.options import read_request
from attnbias.cli.recipe_flags import with_recipe_flags
from attnbias.methods.engine.requests import PriorsRequest
from attnbias.methods.engine.screen import say


def priors(context: typer.Context, **typed: object) -> None:
    """Write what a steered model can look for: a vector for each class of a split, or for each text.

    What takes them: --prior FILE.npz of visualize, val --bias and export. Flags of the model's recipe go before what
    the checkpoint says, as in val.
    """
    request = with_recipe_flags(read_request(PriorsRequest, typed), context)
    from attnbias.methods.engine.make_priors import make_priors

    made = make_priors(request)
    for line in made.skipped:
        say(f"left out: {line}", error=True)
    say(f"{request.out}: {made.priors.words}, vectors of {made.priors.vectors.shape[1]} numbers")
