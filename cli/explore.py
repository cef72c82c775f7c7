"""`attnbias explore MODEL [IMAGE...]`: models tried by hand, on a page that this machine serves to its own browser."""

from __future__ import annotations

import typer

from attnbias.cli.options import read_request
from attnbias.cli.recipe_flags import with_recipe_flags
from attnbias.methods.engine.requests import ExploreRequest
from attnbias.methods.engine.screen import say


def explore(context: typer.Context, **typed: object) -> None:
    """Try models by hand: drop an image, choose a class or a question, paint over a part, and see what changes.

    Serves one page to the browsers of this machine until Ctrl-C. Scores are those of predict, maps those of visualize.
    """
    request = with_recipe_flags(read_request(ExploreRequest, typed), context)
    from attnbias.methods.engine.explore.explore import explore

    with explore(request) as page:
        say(f"open {page.url} in a browser; Ctrl-C ends it")
        page.wait()
