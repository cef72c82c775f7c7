"""`attnbias train METHOD`: resolve the recipe, show it, start the processes.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from attnbias.cli.errors import describe
from attnbias.cli.options import per_method, resolve_recipe, typed_fields, with_recipe_options
from attnbias.cli.shared import (
    RUN,
    DataRoot,
    EvalBatchSize,
    Gpus,
    OnBadImage,
    Processes,
    Threads,
    TrustCheckpoint,
    Workers,
    recipe_option,
)
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import NamedRecipe, Recipe, changed
from attnbias.methods.engine.screen import Table, say, styled

START = "Starting weights"


def _command(method: Description) -> Callable[..., None]:
    def command(
        recipe: Annotated[
            str | None,
            recipe_option(
                method, f"Named recipe (`attnbias list recipes {method.name}`) or a YAML file; flags win over it."
            ),
        ] = None,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Show recipe, counts, batch arithmetic and learning rates; train nothing."),
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", rich_help_panel=RUN, help="Run folder.", show_default="runs/METHOD/RECIPE"),
        ] = None,
        data_root: DataRoot = None,
        gpus: Gpus = None,
        processes: Processes = None,
        accumulation: Annotated[
            int,
            typer.Option(
                "--accumulation",
                min=1,
                rich_help_panel=RUN,
                help="Cut each process's share of a batch into this many pieces.",
            ),
        ] = 1,
        workers: Workers = None,
        resume: Annotated[
            str | None,
            typer.Option(
                "--resume",
                rich_help_panel=RUN,
                help="`auto` continues the run in --out (or starts it), or a checkpoint folder.",
            ),
        ] = None,
        overwrite: Annotated[
            bool,
            typer.Option("--overwrite", rich_help_panel=RUN, help="Replace the run in --out; nothing but a run."),
        ] = False,
        load_from: Annotated[
            str | None,
            typer.Option(
                "--load-from",
                rich_help_panel=START,
                help="Start from a whole model: a run folder, .safetensors or published file.",
            ),
        ] = None,
        backbone_weights: Annotated[
            str | None,
            typer.Option(
                "--backbone-weights",
                rich_help_panel=START,
                help="Start the backbone from a file, such as torchvision's or the CutMix one, or from a run folder.",
            ),
        ] = None,
        pretrained: Annotated[
            bool,
            typer.Option(
                "--pretrained",
                rich_help_panel=START,
                help="Start the backbone from the weights that timm or torchvision publishes under its name; images "
                "are then made as these weights know them, unless typed.",
            ),
        ] = False,
        from_scratch: Annotated[
            bool,
            typer.Option(
                "--from-scratch", rich_help_panel=START, help="Start at random, whatever the recipe starts from."
            ),
        ] = False,
        reset_head: Annotated[
            bool,
            typer.Option(
                "--reset-head",
                rich_help_panel=START,
                help="Fresh weights where shapes depend on the number of classes.",
            ),
        ] = False,
        trust_checkpoint: TrustCheckpoint = False,
        eval_splits: Annotated[
            str,
            typer.Option(
                "--eval-splits",
                rich_help_panel=RUN,
                help="Splits to evaluate, comma-separated; the first decides the best.",
            ),
        ] = "val",
        eval_every: Annotated[
            int, typer.Option("--eval-every", min=1, rich_help_panel=RUN, help="Epochs between evaluations.")
        ] = 1,
        eval_batch_size: EvalBatchSize = 64,
        save_steps: Annotated[
            int | None, typer.Option("--save-steps", min=1, rich_help_panel=RUN, help="Also save every so many steps.")
        ] = None,
        keep: Annotated[
            int, typer.Option("--keep", min=1, rich_help_panel=RUN, help="Checkpoints kept beside the best.")
        ] = 2,
        log_every: Annotated[
            int, typer.Option("--log-every", min=1, rich_help_panel=RUN, help="Steps between lines of metrics.jsonl.")
        ] = 50,
        log_with: Annotated[
            str,
            typer.Option("--log-with", rich_help_panel=RUN, help="Trackers beside metrics.jsonl: tensorboard,wandb."),
        ] = "",
        compile: Annotated[
            bool, typer.Option("--compile", rich_help_panel=RUN, help="torch.compile the model.")
        ] = False,
        channels_last: Annotated[
            bool, typer.Option("--channels-last", rich_help_panel=RUN, help="NHWC memory format.")
        ] = False,
        grad_checkpointing: Annotated[
            bool,
            typer.Option(
                "--grad-checkpointing",
                rich_help_panel=RUN,
                help="Less memory, about a third more time: transformers compute activations twice.",
            ),
        ] = False,
        deterministic: Annotated[
            bool,
            typer.Option(
                "--deterministic", rich_help_panel=RUN, help="Deterministic GPU kernels where there are some."
            ),
        ] = False,
        threads: Threads = None,
        on_bad_image: OnBadImage = "error",
        **fields: Any,
    ) -> None:
        typed = typed_fields(method, fields)
        resolved, name, named = resolve_recipe(method, recipe, typed)
        from attnbias.methods.engine.launch import default_workers, launch, world
        from attnbias.methods.engine.published import shown
        from attnbias.methods.engine.targets import check_place
        from attnbias.methods.engine.training.options import Options

        cpu, count = world(gpus, processes)
        typed_weights = {"--load-from": load_from, "--backbone-weights": backbone_weights}
        starts = [name for name, value in typed_weights.items() if value]
        starts += ["--pretrained"] * pretrained + ["--from-scratch"] * from_scratch
        if from_scratch and len(starts) > 1:
            raise UsageError(f"--from-scratch starts at random, and {starts[0]} does not: give one of them")
        if pretrained and len(starts) > 1:
            raise UsageError(f"--pretrained and {starts[0]} are two ways to start: give one of them")
        why_random = images = ""
        if pretrained or (backbone_weights and "backbone" in typed):
            from attnbias.methods.engine.pretrained import follow_pretrained, pretrained_source

            if pretrained:
                backbone_weights = pretrained_source(resolved)
            if named is not None:  # a file says how images are made
                resolved, images = follow_pretrained(resolved, typed, published=pretrained)
        if load_from is None and backbone_weights is None and not from_scratch:
            backbone_weights, why_random = recipe_weights(resolved, named)
        options = Options(
            out=out or Path("runs") / method.name / name,
            data_root=data_root,
            cpu=cpu,
            workers=default_workers(cpu, count) if workers is None else workers,
            accumulation=accumulation,
            resume=resume,
            overwrite=overwrite,
            load_from=load_from,
            backbone_weights=backbone_weights,
            reset_head=reset_head,
            trust_checkpoint=trust_checkpoint,
            eval_splits=tuple(part.strip() for part in eval_splits.split(",")),
            eval_every=eval_every,
            eval_batch_size=eval_batch_size,
            save_steps=save_steps,
            keep=keep,
            log_every=log_every,
            trackers=tuple(part.strip() for part in log_with.split(",") if part.strip()),
            compile=compile,
            channels_last=channels_last,
            grad_checkpointing=grad_checkpointing,
            deterministic=deterministic,
            threads=threads,
            on_bad_image=on_bad_image,
        )
        check_place(options.out)
        show_recipe(method, resolved, name, named)
        where = "" if resume is None else ", where no checkpoint is resumed"
        say(f"starting weights: {shown(load_from or backbone_weights or 'random')}{why_random}{where}")
        if images:
            say(images)
        if dry_run:
            from attnbias.cli.dry_run import dry_run as show

            show(method, resolved, options, count)
            return
        job = f"{method.name}\n{resolved.model_dump_json()}\n{options.to_json()}"
        code = launch(run_job, job, count, describe)
        if code:
            sys.exit(code)

    return with_recipe_options(command, method, training=True)


train = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Train a method by its paper's recipe (or yours).",
    epilog="Example:  attnbias train ida --gpus 4",
)


@train.callback()
def _train() -> None:
    """Sub-commands are the methods; this only makes the group exist."""


NETWORK = ("backbone", "family", "size", "architecture")
"""Recipe fields that decide which network the starting weights are of."""


def recipe_weights(recipe: Recipe, named: NamedRecipe | None) -> tuple[str | None, str]:
    """The weights that a named recipe starts its backbone from, None = random; and why not, where it is another network
    than the recipe's."""
    if named is None or named.init is None:
        return None, ""
    for field, (value, known) in changed(recipe, named.recipe).items():
        if field in NETWORK:
            mend = "--pretrained" if field == "backbone" else "--backbone-weights"
            return None, f" (the recipe's {named.init} are of {field} {known}; {mend} gives {value} its own)"
    return named.init, ""


def run_job(job: str) -> None:
    """Train as one process of a run; `job` is what `attnbias train` resolved."""
    from attnbias.methods.engine.registry import get_description
    from attnbias.methods.engine.training.options import Options
    from attnbias.methods.engine.training.train import train

    name, recipe, options = job.split("\n", 2)
    outcome = train(name, get_description(name).recipe_type.model_validate_json(recipe), Options.from_json(options))
    progress = outcome.progress
    if os.environ.get("RANK", "0") == "0":
        why = "stopped early" if progress.stopped_early else "done"
        best = f"; best {progress.best:.4g} at step {progress.best_step}" if progress.best is not None else ""
        say(f"{why}: {progress.step} steps{best}", f"evaluate it: attnbias val {name} --load-from {outcome.out}")


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
