"""`attnbias train METHOD`: resolve the recipe, show it, start the processes.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from attnbias.cli.options import method_commands, typed_fields, typed_options, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.resolve import resolve_run
from attnbias.methods.engine.screen import say


def _command(method: Description) -> Callable[..., None]:
    def command(
        recipe: Annotated[
            str | None,
            typer.Option(
                "--recipe",
                help=f"Named recipe (`attnbias list recipes {method.name}`) or a YAML file; flags win over it.",
                autocompletion=lambda: list(method.recipes),
            ),
        ] = None,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Show recipe, counts, batch arithmetic and learning rates; train nothing."),
        ] = False,
        **typed: object,
    ) -> None:
        fields = typed_fields(method, typed, TrainRequest)
        run = resolve_run(method, recipe, fields, typed_options(TrainRequest, typed))
        from attnbias.methods.engine.launch import launch, place
        from attnbias.methods.engine.targets import check_location

        run = replace(run, request=place(run.request))
        request = run.request
        check_location(request.out)
        if dry_run:
            from attnbias.cli.dry_run import show_dry_run
            from attnbias.methods.engine.training.dry_run import dry_run as compute

            found = compute(request)
            run.say()
            show_dry_run(found)
        elif code := launch(partial(run_job, begin=run.say), request):
            sys.exit(code)

    return with_options(command, TrainRequest, method, training=True)


train = method_commands(
    "train",
    TrainRequest,
    _command,
    "Train a method by its paper's recipe (or yours).",
    "--dry-run",
    "--gpus 4 --out runs/mine",
    "--out runs/mine --resume auto",
)


def run_job(text: str, begin: Callable[[], None]) -> None:
    """Train as one process of a run; `text` is the request's JSON, and `begin` says what the run is."""
    from attnbias.methods.engine.launch import is_main
    from attnbias.methods.engine.training.train import train

    request = TrainRequest.from_json(text)
    outcome = train(request, begin)
    if is_main():
        progress = outcome.progress
        why = "stopped early" if progress.stopped_early else "done"
        best = f"; best {progress.best:.4g} at step {progress.best_step}" if progress.best is not None else ""
        say(
            f"{why}: {progress.step} steps{best}",
            f"evaluate it: attnbias val {request.method} --load-from {outcome.out}",
        )
