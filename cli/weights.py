"""`attnbias weights fetch|inspect|convert`: published weights brought here, looked into, written again as ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbias.cli.recipe_flags import WithRecipeFlags, read_flags, recipe_flags
from attnbias.cli.shared import Overwrite, TrustCheckpoint, Weights
from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.screen import say, say_json
from attnbias.weights.manifest import PUBLISHED

if TYPE_CHECKING:
    from attnbias.methods.engine.inspection import Fit, Inspection

weights = typer.Typer(no_args_is_help=True, help="Fetch published weights, look into weight files, convert them.")

CLASSES_SHOWN = 10
"""Names of tensors and classes that are shown; --json has all."""

Method = Annotated[
    str | None,
    typer.Option("--method", help="Whose weights they are.", show_default="told", autocompletion=lambda: list(METHODS)),
]

RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Named recipe for what a published file does not tell (lam ...).")
]


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
    for name in names:
        if name not in PUBLISHED:
            raise UsageError(
                f"no published weights '{name}'{did_you_mean(name, PUBLISHED)}; see: attnbias list weights"
            )
    from attnbias.cli.prepare_data import fetch_progress
    from attnbias.methods.engine.published import fetch_published

    with fetch_progress() as progress:
        for name in names:
            say(fetch_published(PUBLISHED[name], progress))


@weights.command(cls=WithRecipeFlags, no_args_is_help=True)
def inspect(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A weight file, a run folder, a published name or a URL.")],
    method: Method = None,
    recipe: RecipeName = None,
    trust_checkpoint: TrustCheckpoint = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON on standard output.")] = False,
) -> None:
    """Show what a weight file holds: its layout, whose it is, how it fits the model, its classes and recipe.

    Flags of the method's recipe go before what the file tells, as in val; attnbias val METHOD --help lists them.
    """
    if method is not None and method not in METHODS:
        raise UsageError(f"unknown method '{method}'{did_you_mean(method, METHODS)}; one of: {', '.join(METHODS)}")
    from attnbias.methods.engine.inspection import inspect_weights, owner

    fields: dict[str, Any] = {}
    if (flags := recipe_flags(context)) or recipe is not None:
        method, fields = read_flags(method or owner(file, trust=trust_checkpoint), flags)
    inspection = inspect_weights(file, method=method, overrides=fields, recipe_name=recipe, trust=trust_checkpoint)
    if as_json:
        say_json(inspection.content())
    else:
        _show(inspection)


@weights.command(cls=WithRecipeFlags, no_args_is_help=True)
def convert(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A weight file, a run folder, a published name or a URL.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE.safetensors", help="What to write.")],
    method: Method = None,
    recipe: RecipeName = None,
    entry: Weights = None,
    to_plain: Annotated[
        bool,
        typer.Option("--to-plain", help="Only the part whose architecture is timm's or torchvision's, by their names."),
    ] = False,
    trust_checkpoint: TrustCheckpoint = False,
    overwrite: Overwrite = False,
) -> None:
    """Write weights as a .safetensors of ours, with recipe, classes and preprocessing: it loads with no flags.

    Flags of the method's recipe go into the file, as val takes them; attnbias val METHOD --help lists them.
    """
    if to.suffix != ".safetensors":
        raise UsageError(f"--to {to}: expected a name that ends in .safetensors")
    from attnbias.methods.engine.targets import WEIGHTS, check_targets, requested

    check_targets(requested((to, WEIGHTS)), [file, *([recipe] if recipe else [])], overwrite)
    from attnbias.methods.engine.inspection import convert_weights, owner

    name, fields = read_flags(method or owner(file, trust=trust_checkpoint), recipe_flags(context))
    loaded, words = convert_weights(
        name,
        file,
        to,
        fields,
        recipe_name=recipe,
        entry={"raw": "model", "ema": "ema", None: None}[entry],
        trust=trust_checkpoint,
        plain=to_plain,
    )
    say(f"{to}: {words}", f"from {loaded.source}")


def _show(inspection: Inspection) -> None:
    average = ", an average beside them" if inspection.has_average else ""
    say(
        f"{inspection.path}: {inspection.layout}; {inspection.tensors} tensors, {inspection.parameters:,} "
        f"parameters{average}"
    )
    if inspection.published:
        say(f"called like the published: {', '.join(inspection.published)}")
    if extra := {name: value for name, value in inspection.extra.items() if isinstance(value, (bool, int, float, str))}:
        say("beside the weights: " + ", ".join(f"{name} {value}" for name, value in extra.items()))
    if inspection.left_out:
        more = " ..." if len(inspection.left_out) > CLASSES_SHOWN else ""
        say(f"not of the model, and left out: {', '.join(inspection.left_out[:CLASSES_SHOWN])}{more}")
    for fit in inspection.fits:
        _show_fit(fit)
    if not inspection.fits:
        say("no whole model of a method; as a backbone: attnbias train METHOD --backbone-weights FILE")


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
