"""`attnbias export METHOD`: a checkpoint as one graph, with its attention maps beside the scores.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnbias.cli.options import per_method, typed_fields, with_recipe_options
from attnbias.cli.paths import find_pictures
from attnbias.cli.shared import DataRoot, Overwrite, TrustCheckpoint, Weights, recipe_option
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.screen import say


def _command(method: Description) -> Callable[..., None]:
    kinds = "; ".join(f"{name} = {text.rstrip('.')}" for name, text in method.maps.items())

    def command(
        load_from: Annotated[
            str, typer.Option("--load-from", help="A run folder, .safetensors or published file, a name or a URL.")
        ],
        paths: Annotated[
            list[Path] | None,
            typer.Argument(metavar="PATH", help="Pictures for --check, or folders. None: the evaluation split."),
        ] = None,
        form: Annotated[
            Literal["onnx", "torch-export"],
            typer.Option("--format", help="onnx (needs attnbias[export]), or torch-export (.pt2)."),
        ] = "onnx",
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="FILE", help="What to write.", show_default=f"{method.name}.onnx or .pt2"),
        ] = None,
        check: Annotated[
            bool, typer.Option("--check", help="Run it on real pictures and hold it against the model.")
        ] = False,
        limit: Annotated[int, typer.Option("--limit", min=1, help="Pictures of --check.")] = 16,
        kind: Annotated[
            str | None, typer.Option("--map", help=f"{kinds}.", show_default=next(iter(method.maps)))
        ] = None,
        head: Annotated[
            int | None, typer.Option("--head", min=0, help="One head, from 0.", show_default="all together")
        ] = None,
        classes: Annotated[
            str | None,
            typer.Option(
                "--classes",
                help="Classes that maps are of, names or numbers, comma-separated.",
                show_default="the --top-k best of each picture",
            ),
        ] = None,
        top_k: Annotated[int, typer.Option("--top-k", min=1, help="Maps a picture, of its best classes.")] = 5,
        recipe: Annotated[
            str | None,
            recipe_option(method, "Named recipe for what a published file does not tell (lam, normalisation)."),
        ] = None,
        weights: Weights = None,
        trust_checkpoint: TrustCheckpoint = False,
        data_root: DataRoot = None,
        overwrite: Overwrite = False,
        **fields: Any,
    ) -> None:
        if paths and not check:
            raise UsageError("pictures are for --check; add it, or leave them out")
        found, _ = find_pictures(paths or [])
        from attnbias.cli.visualize import parse_classes
        from attnbias.methods.engine import export as engine
        from attnbias.methods.engine.load import load_run
        from attnbias.methods.engine.targets import GRAPH, GRAPH_DATA, check_targets, requested

        suffix = engine.SUFFIXES[form]
        file = out or Path(method.name + suffix)
        if file.suffix != suffix:
            raise UsageError(f"--out {file}: expected a name that ends in {suffix}")
        reads: list[str | Path] = [load_from, *(paths or []), *([recipe] if recipe else [])]
        weights_file = file.with_name(f"{file.name}.data") if form == "onnx" else None
        check_targets(requested((file, GRAPH), (weights_file, GRAPH_DATA)), reads, overwrite)
        loaded = load_run(
            method.name,
            load_from,
            typed_fields(method, fields),
            recipe_name=recipe,
            entry={"raw": "model", "ema": "ema", None: None}[weights],
            trust=trust_checkpoint,
            data_root=data_root,
        )
        numbers = parse_classes(classes, loaded.classes)
        exported = engine.wrap(loaded, kind=kind, head=head, classes=numbers, top_k=top_k)
        pictures = None
        if check:
            pictures = engine.pictures_for_check(loaded, [str(path) for _, path in found], data_root)
        parity = engine.export(exported, loaded, form, file, pictures, limit)
        size = loaded.recipe.image_size
        say(
            f"{file}: {engine.INPUT} (B, 3, {size}, {size}) -> {', '.join(engine.OUTPUTS)}; map {exported.kind}, "
            f"{len(loaded.classes)} classes"
        )
        if parity is not None:
            say(parity)

    return with_recipe_options(command, method, training=False)


export = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Write a checkpoint as an ONNX or torch.export graph.",
    epilog="Example:  attnbias export csra --load-from runs/csra/coco-resnet101 --check",
)


@export.callback()
def _export() -> None:
    """Sub-commands are the methods; this only makes the group exist."""
