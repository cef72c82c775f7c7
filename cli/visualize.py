"""`attnbias visualize METHOD`: where models look, as overlays, one gallery page and raw maps."""

from __future__ import annotations

from collections.abc import Callable

import typer

from attnbias.cli.options import per_method, read_request, typed_fields, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.requests import VisualizeRequest
from attnbias.methods.engine.screen import say


def _command(method: Description) -> Callable[..., None]:
    def command(**typed: object) -> None:
        fields = typed_fields(method, typed, VisualizeRequest)
        request = read_request(VisualizeRequest, typed, method=method.name, fields=fields)
        from attnbias.methods.engine.display.visualize import visualize

        done = visualize(request)
        say(f"{done.images} images, {done.overlays} overlays")
        if done.skipped:
            say(f"{len(done.skipped)} unreadable images left out: " + "; ".join(done.skipped))
        say(f"open {done.page} in a browser")

    return with_options(command, VisualizeRequest, method)


visualize = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Draw where models look.",
    epilog="Example:  attnbias visualize csra --load-from runs/plain --load-from runs/csra photo.jpg",
)


@visualize.callback()
def _visualize() -> None:
    """Sub-commands are the methods; this only makes the group exist."""
