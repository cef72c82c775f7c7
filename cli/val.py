"""`attnbias val METHOD`: score checkpoints on splits of a dataset, side by side in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable

from attnbias.cli.evaluation_tables import show_results
from attnbias.cli.options import method_commands, read_request, typed_fields, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.screen import say_json


def _command(method: Description) -> Callable[..., None]:
    def command(**typed: object) -> None:
        request = read_request(ValRequest, typed, method=method.name, fields=typed_fields(method, typed, ValRequest))
        from attnbias.methods.engine.launch import launch, place

        if code := launch(run_job, place(request)):
            sys.exit(code)

    return with_options(command, ValRequest, method)


val = method_commands(
    "val",
    ValRequest,
    _command,
    "Evaluate checkpoints.",
    "--load-from RUN --split val,test",
    "--load-from RUN --load-from OTHER --bias --store",
    "--load-from RUN --attack pgd --corrupt all",
)


def run_job(text: str) -> None:
    """Evaluate as one process; `text` is the request's JSON."""
    from attnbias.methods.engine.launch import is_main
    from attnbias.methods.engine.validate import validate

    request = ValRequest.from_json(text)
    results = validate(request)
    if request.json_file == "-" and is_main():
        say_json(results)
    elif is_main():
        show_results(results, request.per_class)
