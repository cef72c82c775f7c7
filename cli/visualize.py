"""`attnbias visualize METHOD`: where models look, as overlays, one gallery page and raw maps."""

from __future__ import annotations

from collections.abc import Callable

from attnbias.cli.options import method_commands, read_request, typed_fields, with_options
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


visualize = method_commands(
    "visualize",
    VisualizeRequest,
    _command,
    "Draw where models look.",
    "--load-from RUN photo.jpg --out seen",
    "--load-from RUN --load-from OTHER --split val --limit 24",
    "--load-from RUN photos --npz --contour",
)
