"""`attnbias train METHOD`: resolve the recipe, show it, start the processes.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from attnbias.cli.errors import describe
from attnbias.cli.options import per_method, read_request, typed_fields, with_options
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.recipe import NamedRecipe, Recipe, changed
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.resolve import Resolved, resolve_recipe
from attnbias.methods.engine.screen import Table, say, styled


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
        **typed: Any,
    ) -> None:
        fields = typed_fields(method, typed, TrainRequest)
        resolved = resolve_recipe(method, recipe, fields)
        out = typed["out"] or Path("runs") / method.name / resolved.name
        request = read_request(TrainRequest, typed, method=method.name, recipe=resolved.recipe, out=out)
        request, why_random, images = _started(request, resolved, fields)
        from attnbias.methods.engine.launch import launch, place
        from attnbias.methods.engine.published import shown
        from attnbias.methods.engine.targets import check_location

        request = place(request)
        check_location(request.out)
        show_recipe(method, request.recipe, resolved.name, resolved.named)
        where = "" if request.resume is None else ", where no checkpoint is resumed"
        weights = shown(request.load_from or request.backbone_weights or "random")
        say(f"starting weights: {weights}{why_random}{where}")
        if images:
            say(images)
        if dry_run:
            from attnbias.cli.dry_run import show_dry_run
            from attnbias.methods.engine.training.dry_run import dry_run as compute

            show_dry_run(compute(request))
        elif code := launch(run_job, request, describe):
            sys.exit(code)

    return with_options(command, TrainRequest, method, training=True)


train = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Train a method by its paper's recipe (or yours).",
    epilog="Example:  attnbias train ida --gpus 4",
)


@train.callback()
def _train() -> None:
    """Sub-commands are the methods; this only makes the group exist."""


def _started(request: TrainRequest, resolved: Resolved, typed: dict[str, Any]) -> tuple[TrainRequest, str, str]:
    """The request with the weights that it starts from and images made for them, why it starts at random where the
    recipe does not, and how images are made."""
    if request.load_from or request.from_scratch:
        return request, "", ""
    weights, why, images, recipe = request.backbone_weights, "", "", request.recipe
    if request.pretrained or (weights and "backbone" in typed):
        from attnbias.methods.engine.pretrained import follow_pretrained, pretrained_source

        if request.pretrained:
            weights = pretrained_source(recipe)
        if resolved.named is not None:  # a file says how images are made
            recipe, images = follow_pretrained(recipe, typed, published=request.pretrained)
    if weights is None:
        weights, why = resolved.weights()
    return request.model_copy(update={"recipe": recipe, "backbone_weights": weights, "pretrained": False}), why, images


def run_job(text: str) -> None:
    """Train as one process of a run; `text` is the request's JSON."""
    from attnbias.methods.engine.launch import is_main
    from attnbias.methods.engine.training.train import train

    request = TrainRequest.from_json(text)
    outcome = train(request)
    if is_main():
        progress = outcome.progress
        why = "stopped early" if progress.stopped_early else "done"
        best = f"; best {progress.best:.4g} at step {progress.best_step}" if progress.best is not None else ""
        say(
            f"{why}: {progress.step} steps{best}",
            f"evaluate it: attnbias val {request.method} --load-from {outcome.out}",
        )


def show_recipe(method: Description, recipe: Recipe, name: str, named: NamedRecipe | None) -> None:
    """Print the resolved recipe; what differs from the named one is marked."""
    different = changed(recipe, named.recipe) if named else {}
    marked = "differs from the recipe's" if different else ""
    table = Table("field", "value", marked, title=f"{method.title}: recipe {name}")
    for field, value in recipe.model_dump().items():
        if field in different:
            table.row(field, styled(value, "bold yellow"), styled(different[field][1], "yellow"))
        else:
            table.row(field, value, "")
    table.show()
    if named:
        figures = ", ".join(f"{key} {value}" for key, value in named.paper.items())
        say(f"source: {named.source}{f'; the paper reports {figures}' if figures else ''}")
