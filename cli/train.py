"""`attnbias train METHOD`: resolve the recipe, show it, start the processes.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from attnbias.cli.options import method_commands, of_task, typed_fields, typed_options, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.output_files import check_location, check_writable
from attnbias.methods.engine.recipe import flag_of
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.resolve import named, resolve_run
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.sweep import PlannedRun, check_apart, flags, places, points, run_all, without

Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N,...", help="One run per seed, a folder each.")]
Grid = Annotated[list[str] | None, typer.Option("--grid", metavar="lam=0,0.5", help="One run per value of a field.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show all fields of the recipe.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Such runs at once.")]


def _command(method: Description) -> Callable[..., None]:
    def command(
        context: typer.Context,
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
        seeds: Seeds = None,
        grid: Grid = None,
        jobs: Jobs = 1,
        verbose: Verbose = False,
        **typed: object,
    ) -> None:
        if seeds is not None or grid:
            asked = points(grid or [], seeds)
            for field in asked[0]:
                if typed.get(field) is not None:
                    raise UsageError(f"{flag_of(field)} is given for one run and for several; leave one out")
            sys.exit(_sweep(context, method, asked, 1 if dry_run else jobs))
        if jobs > 1:
            raise UsageError("--jobs changes nothing without --seeds or --grid")
        fields = typed_fields(method, typed, TrainRequest)
        run = resolve_run(method, recipe, fields, typed_options(TrainRequest, typed))
        from attnbias.methods.engine.launch import launch, place

        run = replace(run, request=place(run.request))
        request = run.request
        check_location(request.out)
        if dry_run:
            from attnbias.cli.dry_run import show_dry_run
            from attnbias.methods.engine.training.dry_run import dry_run as compute

            found = compute(request)
            run.say(whole=True)
            show_dry_run(found)
            return
        _check(request)
        if code := launch(partial(run_job, begin=partial(run.say, whole=verbose)), request):
            sys.exit(code)

    return with_options(command, TrainRequest, method, training=True)


def _check(request: TrainRequest) -> None:
    """Refuse a run that its folder, or the device that it was placed on, does not allow, before processes start."""
    from attnbias.methods.engine.kernels import check_device
    from attnbias.methods.engine.run_folder import RunFolder

    check_device(request)
    RunFolder(request.out).check(resume=request.resume is not None, overwrite=request.overwrite)


def _sweep(context: typer.Context, method: Description, asked: Sequence[Mapping[str, str]], jobs: int) -> int:
    """Check every run of a sweep before the first one starts, then do them all."""
    words = sys.argv[sys.argv.index("train") :]
    out = None if context.params["out"] is None else Path(context.params["out"])
    base = without(words, "--seeds", "--grid", "--jobs", "--out", "-o")
    planned, requests = list[PlannedRun](), list[TrainRequest]()
    for point in asked:
        own = [*base, *flags(point), *([] if out is None else [f"--out={out / named(point)}"])]
        given = context.command.make_context(method.name, of_task(own[1:])[1:], parent=context.parent).params
        fields = typed_fields(method, given, TrainRequest)
        request = resolve_run(method, given["recipe"], fields, typed_options(TrainRequest, given)).request
        planned.append(PlannedRun((*own, *([f"--out={request.out}"] if out is None else [])), request.out))
        requests.append(request)
    check_apart(requests)
    from attnbias.methods.engine.launch import check_machine, gpus_of_runs
    from attnbias.methods.engine.run_folder import RunFolder

    for request in requests:
        check_machine(request)
        check_location(request.out)
        if not context.params["dry_run"]:
            check_writable(request.out)
            RunFolder(request.out).check_free(resume=request.resume is not None, overwrite=request.overwrite)
    for request in [] if context.params["dry_run"] else requests:
        request.check_data()
    gpus, each = gpus_of_runs(request) if jobs > 1 else ([], 0)
    return run_all(planned, places(jobs, gpus, each))


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
