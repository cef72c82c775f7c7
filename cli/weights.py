"""`attnbias weights fetch|inspect|convert|push`: weights brought here, looked into, written as ours, published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from attnbias.cli.options import read_request, with_options
from attnbias.cli.recipe_flags import WithRecipeFlags, with_recipe_flags
from attnbias.methods.engine.requests import ConvertRequest, InspectRequest, PushRequest
from attnbias.methods.engine.screen import say, say_json
from attnbias.weights.manifest import PUBLISHED

if TYPE_CHECKING:
    from attnbias.methods.engine.inspection import Fit, Inspection

CLASSES_SHOWN = 10
"""Names of tensors and classes that are shown; --json has all."""

weights = typer.Typer(no_args_is_help=True, help="Fetch published weights, look into weight files, convert them.")


@weights.command(no_args_is_help=True)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Of `attnbias list weights`.", autocompletion=lambda: list(PUBLISHED)),
    ],
) -> None:
    """Bring published weights to the cache, verify them, and print their paths.

    An interrupted transfer is continued. The cache is $ATTNBIAS_CACHE or the platform's place; a file in it is verified
    again by every command that uses it (a gigabyte takes one to two seconds). What is behind a form
    that only a browser gets past is named with its link, and the place to put it.
    """
    from attnbias.cli.prepare_data import fetch_progress
    from attnbias.methods.engine.published import fetch_published, published_weights

    found = [published_weights(name) for name in names]  # a wrong name is one before anything is fetched
    with fetch_progress() as progress:
        for each in found:
            say(fetch_published(each, progress))
            if each.refused:
                say(f"{each.name} does not load: {each.refused}", error=True)


def inspect(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON on standard output.")] = False,
    **typed: object,
) -> None:
    """Show what a weight file holds: its layout, whose it is, how it fits the model, its classes and recipe.

    Flags of the method's recipe go before what the file tells, as in val; attnbias val METHOD --help lists them.
    """
    request = with_recipe_flags(read_request(InspectRequest, typed), context)
    from attnbias.methods.engine.inspection import inspect_weights

    inspection = inspect_weights(request)
    if as_json:
        say_json(inspection.content())
    else:
        _show(inspection)


def convert(context: typer.Context, **typed: object) -> None:
    """Write weights as a .safetensors of ours, with recipe, classes and preprocessing: it loads with no flags.

    Flags of the method's recipe go into the file, as val takes them; attnbias val METHOD --help lists them.
    """
    request = with_recipe_flags(read_request(ConvertRequest, typed), context)
    from attnbias.methods.engine.inspection import convert_weights

    converted = convert_weights(request)
    say(f"{converted.file}: {converted.words}", f"from {converted.loaded.source}")


def push(**typed: object) -> None:
    """Write a run's weights to Hugging Face's hub: with recipe, preprocessing and a model card of what was measured.

    What was measured is what the run's log and `val --store` say of these very weights. Whoever has the name then loads
    them by it: attnbias val METHOD --load-from hf://ORGANISATION/NAME
    """
    request = read_request(PushRequest, typed)
    from attnbias.methods.engine.publish import push as push_weights

    pushed = push_weights(request)
    say(f"{pushed.target}: {', '.join(pushed.files)}", f"from {pushed.source}", pushed.url)


weights.command(cls=WithRecipeFlags, no_args_is_help=True)(with_options(inspect, InspectRequest))
weights.command(cls=WithRecipeFlags, no_args_is_help=True)(with_options(convert, ConvertRequest))
weights.command(no_args_is_help=True)(with_options(push, PushRequest))


def _show(inspection: Inspection) -> None:
    average = ", an average beside them" if inspection.has_average else ""
    say(
        f"{inspection.path}: {inspection.layout}; {inspection.tensors} tensors, {inspection.parameters:,} "
        f"parameters{average}"
    )
    if inspection.published:
        say(f"the published: {', '.join(inspection.published)}")
    if extra := {name: value for name, value in inspection.extra.items() if isinstance(value, (bool, int, float, str))}:
        say("beside the weights: " + ", ".join(f"{name} {value}" for name, value in extra.items()))
    if inspection.left_out:
        more = " ..." if len(inspection.left_out) > CLASSES_SHOWN else ""
        say(f"not of the model, and left out: {', '.join(inspection.left_out[:CLASSES_SHOWN])}{more}")
    for fit in inspection.fits:
        _show_fit(fit)
    if not inspection.fits:
        say(
            "no whole model of a method; as a backbone: attnbias train METHOD --backbone-weights FILE; "
            "of a network as timm or torchvision names it: attnbias val plain --load-from FILE --backbone NAME"
        )


def _show_fit(fit: Fit) -> None:
    described = fit.described
    state = "fits" if fit.match else "does not fit"
    say("", f"{described.method.name} ({described.task}): {state}, {fit.matched} tensors matched")
    if not fit.match:
        say(f"  {fit.match}")
    classes = described.classes
    say(f"  {len(classes)} classes: {', '.join(classes[:CLASSES_SHOWN])}{' ...' if classes[CLASSES_SHOWN:] else ''}")
    recipe = {"dataset": described.recipe.dataset, **described.recipe.model_dump(exclude_defaults=True)}
    say("  recipe, beside the defaults: " + ", ".join(f"{name} {value}" for name, value in recipe.items()))
