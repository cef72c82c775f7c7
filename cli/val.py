"""`attnbias val METHOD`: score checkpoints on splits of a dataset, side by side in one table.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from attnbias.cli.errors import describe
from attnbias.cli.options import per_method, typed_fields, with_recipe_options
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Method

RUN = "Run (does not change the numbers)"
BIAS = "Attention bias"


def _command(method: Method) -> Callable[..., None]:
    def command(
        load_from: Annotated[
            list[str],
            typer.Option("--load-from", help="A run folder, .safetensors or published file; repeat to compare."),
        ],
        recipe: Annotated[
            str | None,
            typer.Option(
                "--recipe",
                help="Named recipe for what a published file does not tell (lam, normalisation).",
                autocompletion=lambda: list(method.recipes),
            ),
        ] = None,
        split: Annotated[str, typer.Option("--split", help="Splits, comma-separated.")] = "val",
        weights: Annotated[
            Literal["raw", "ema"] | None,
            typer.Option("--weights", help="Which weights of a checkpoint.", show_default="those of the best measure"),
        ] = None,
        per_class: Annotated[bool, typer.Option("--per-class", help="Also show the measure of each class.")] = False,
        json_file: Annotated[
            str | None, typer.Option("--json", metavar="FILE", help="Write all measures as JSON; - is standard output.")
        ] = None,
        csv_file: Annotated[
            Path | None, typer.Option("--csv", metavar="FILE", help="Write scores, one row a sample.")
        ] = None,
        bias: Annotated[
            bool,
            typer.Option(
                "--bias", rich_help_panel=BIAS, help="Hold the attention against the objects' masks or boxes."
            ),
        ] = False,
        map_kind: Annotated[
            str,
            typer.Option("--map", rich_help_panel=BIAS, help=f"own, gradcam, or one of: {', '.join(method.maps)}."),
        ] = "own",
        truth: Annotated[
            Literal["masks", "boxes"] | None,
            typer.Option("--truth", rich_help_panel=BIAS, help="What objects are.", show_default="masks, else boxes"),
        ] = None,
        tau: Annotated[
            float, typer.Option("--tau", min=0, max=1, rich_help_panel=BIAS, help="Threshold of the focus.")
        ] = 0.5,
        bias_out: Annotated[
            Path | None,
            typer.Option(
                "--bias-out", metavar="DIR", rich_help_panel=BIAS, help="Write bias.json and bias_samples.csv."
            ),
        ] = None,
        trust_checkpoint: Annotated[
            bool, typer.Option("--trust-checkpoint", help="Read pickles that may run code.")
        ] = False,
        data_root: Annotated[
            Path | None,
            typer.Option(
                "--data-root",
                rich_help_panel=RUN,
                help="Where prepare-data put the sets.",
                show_default="$ATTNBIAS_DATA or ./datasets",
            ),
        ] = None,
        gpus: Annotated[
            int | None,
            typer.Option(
                "--gpus",
                min=0,
                rich_help_panel=RUN,
                help="GPUs of this machine; 0 = CPU.",
                show_default="1 if there is one",
            ),
        ] = None,
        processes: Annotated[
            int | None,
            typer.Option("--processes", min=1, rich_help_panel=RUN, help="Processes on the CPU (with --gpus 0)."),
        ] = None,
        workers: Annotated[
            int, typer.Option("--workers", min=0, rich_help_panel=RUN, help="Loader processes a process.")
        ] = 0,
        eval_batch_size: Annotated[
            int, typer.Option("--eval-batch-size", min=1, rich_help_panel=RUN, help="Pictures at once, a process.")
        ] = 64,
        threads: Annotated[
            int | None, typer.Option("--threads", min=1, rich_help_panel=RUN, help="CPU threads a process.")
        ] = None,
        on_bad_image: Annotated[
            Literal["error", "skip"],
            typer.Option(
                "--on-bad-image", rich_help_panel=RUN, help="An unreadable picture: stop, or leave it out and count."
            ),
        ] = "error",
        overwrite: Annotated[
            bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace --json and --csv files.")
        ] = False,
        **fields: Any,
    ) -> None:
        for file in (Path(json_file) if json_file not in (None, "-") else None, csv_file, bias_out):
            if file is not None and file.exists() and not overwrite:
                raise UsageError(f"{file} exists; choose another name or add --overwrite")
        from attnbias.methods.engine.launch import launch, world

        cpu, count = world(gpus, processes)
        job = {
            "method": method.name,
            "load_from": load_from,
            "recipe": recipe,
            "fields": typed_fields(method, fields),
            "splits": [part.strip() for part in split.split(",")],
            "entry": {"raw": "model", "ema": "ema", None: None}[weights],
            "trust": trust_checkpoint,
            "bias": bias or bias_out is not None,
            "map": None if map_kind == "own" else map_kind,
            "truth": truth,
            "tau": tau,
            "bias_out": bias_out and str(bias_out),
            "per_class": per_class,
            "json": json_file,
            "csv": csv_file and str(csv_file),
            "data_root": data_root and str(data_root),
            "cpu": cpu,
            "workers": workers,
            "batch_size": eval_batch_size,
            "threads": threads,
            "on_bad_image": on_bad_image,
        }
        code = launch(run_job, json.dumps(job), count, describe)
        if code:
            sys.exit(code)

    return with_recipe_options(command, method)


val = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Evaluate checkpoints.",
    epilog="Example:  attnbias val csra --load-from resnet101_voc07_head1_lam0.1_94.7.pth --dataset voc07",
)


@val.callback()
def _val() -> None:
    """Sub-commands are the methods; this only makes the group exist."""


def run_job(text: str) -> None:
    """Evaluate as one process; `text` is the JSON that `attnbias val` resolved."""
    import torch
    from accelerate import Accelerator

    from attnbias.data.registry import open_split
    from attnbias.methods.engine.bias_report import measure_bias
    from attnbias.methods.engine.evaluate import evaluate, open_dataset, write_scores
    from attnbias.methods.engine.load import load_run

    job = json.loads(text)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    root = Path(job["data_root"]) if job["data_root"] else None
    accelerator = Accelerator(cpu=job["cpu"])
    results: list[dict[str, Any]] = []
    for load_from in job["load_from"]:
        loaded = load_run(
            job["method"],
            load_from,
            job["fields"],
            accelerator.device,
            recipe_name=job["recipe"],
            entry=job["entry"],
            trust=job["trust"],
            data_root=root,
        )
        for split in job["splits"]:
            index = open_split(loaded.recipe.dataset, split, root)
            if len(index.classes) != len(loaded.classes):
                raise UsageError(
                    f"{load_from} knows {len(loaded.classes)} classes, dataset '{index.dataset}' has "
                    f"{len(index.classes)}; name the right one with --dataset"
                )
            dataset = open_dataset(loaded.method, loaded.recipe, index, on_bad_image=job["on_bad_image"])
            found = evaluate(
                loaded.method,
                loaded.model,
                dataset,
                loaded.recipe,
                accelerator,
                batch_size=job["batch_size"],
                workers=job["workers"],
            )
            results.append(
                {
                    "load_from": load_from,
                    "source": loaded.source,
                    "dataset": index.dataset,
                    "split": index.split,
                    "samples": len(found.ids),
                    "skipped": found.skipped,
                    "classes": index.classes,
                    "recipe": loaded.recipe.model_dump(mode="json"),
                    "measures": found.measures,
                }
            )
            many = len(job["load_from"]) * len(job["splits"]) > 1
            if job["bias"]:
                report = measure_bias(loaded, dataset, accelerator, kind=job["map"], truth=job["truth"], tau=job["tau"])
                means, baselines = report.summary(), report.baselines
                results[-1]["bias"] = {
                    "map": report.map,
                    "truth": report.truth,
                    "samples": len(report.rows),
                    "skipped": report.skipped,
                    "means": means,
                    "baselines": baselines,
                }
                if job["bias_out"] and accelerator.is_main_process:
                    folder = Path(job["bias_out"]) / (f"{len(results)}-{index.split}" if many else "")
                    report.write(folder, [record.path for record in dataset.records], index.classes)
            if job["csv"] and accelerator.is_main_process:
                target = Path(job["csv"])
                name = f"{target.stem}-{len(results)}-{index.split}{target.suffix}" if many else target.name
                write_scores(target.with_name(name), found, dataset)
    if accelerator.is_main_process:
        _show(results, job)


def _show(results: list[dict[str, Any]], job: dict[str, Any]) -> None:
    text = json.dumps(results, indent=1)
    if job["json"] == "-":
        typer.echo(text)
        return
    if job["json"]:
        Path(job["json"]).write_text(text + "\n")
    console = Console()
    for source in dict.fromkeys(result["source"] for result in results):
        console.print(f"weights: {source}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("measure")
    for result in results:
        table.add_column(f"{Path(result['load_from']).name}\n{result['split']}", justify="right")
    if job["bias"]:
        for baseline in ("uniform", "centre"):
            table.add_column(f"{baseline}\nmap", justify="right")
    table.add_row("samples", *(str(result["samples"]) for result in results))
    for name, value in results[0]["measures"].items():
        if not isinstance(value, list):
            table.add_row(name, *(_number(result["measures"].get(name)) for result in results))
    if job["bias"]:
        _add_bias(table, results)
    console.print(table)
    for result in results:
        if result["skipped"]:
            console.print(f"{result['split']}: {len(result['skipped'])} unreadable pictures left out", style="yellow")
        missing = result["measures"].get("without_positives")
        if missing:
            shown = ", ".join(result["classes"][place] for place in missing)
            console.print(f"{result['split']}: left out of the means, no positive label: {shown}", style="yellow")
    if job["per_class"]:
        _show_per_class(console, results)


def _add_bias(table: Table, results: list[dict[str, Any]]) -> None:
    """Rows of attention bias below those of the scores, and two baseline maps on the first column's samples."""
    from attnbias.methods.engine.bias_report import SHOWN

    first = results[0]["bias"]
    table.add_section()
    table.add_row(f"attention ({first['map']} against {first['truth']})", *(str(r["bias"]["samples"]) for r in results))
    for name in SHOWN:
        cells = [result["bias"]["means"][name] for result in results]
        cells += [first["baselines"][baseline][name] for baseline in ("uniform", "centre")]
        table.add_row(name, *(f"{value:.3f}" for value in cells))


def _show_per_class(console: Console, results: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    for result in results:
        table.add_column(f"{Path(result['load_from']).name}/{result['split']} AP", justify="right")
    for place, name in enumerate(results[0]["classes"]):
        values = [result["measures"]["AP"][place] for result in results]
        table.add_row(name, *map(_number, values))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
