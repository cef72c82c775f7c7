"""`attnbias val METHOD`: score checkpoints on splits of a dataset, side by side in one table.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from attnbias.cli.errors import describe
from attnbias.cli.options import check_target, per_method, typed_fields, with_recipe_options
from attnbias.data.atomic import replacing
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.method import Method

RUN = "Run (does not change the numbers)"
BIAS = "Attention bias"
CONTEXT = "Reliance on context"
ROBUST = "Robustness"


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
        split: Annotated[
            str | None,
            typer.Option(
                "--split",
                help="Splits, comma-separated.",
                show_default="val; none where --imagenet-* sets are asked for",
            ),
        ] = None,
        weights: Annotated[
            Literal["raw", "ema"] | None,
            typer.Option("--weights", help="Which weights of a checkpoint.", show_default="those of the best measure"),
        ] = None,
        per_class: Annotated[bool, typer.Option("--per-class", help="Also show the measure of each class.")] = False,
        real_labels: Annotated[
            bool, typer.Option("--real-labels", help="Also measure by ImageNet's reassessed labels (ReaL).")
        ] = False,
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
        context: Annotated[
            str | None,
            typer.Option(
                "--context",
                metavar="SPLIT",
                rich_help_panel=CONTEXT,
                help="Find classes that lean on their company in this split, with the first checkpoint's scores, and "
                "measure them with and without it.",
            ),
        ] = None,
        reliance: Annotated[
            bool,
            typer.Option("--reliance", rich_help_panel=CONTEXT, help="Also score the object and the context alone."),
        ] = False,
        faithfulness: Annotated[
            int | None,
            typer.Option(
                "--faithfulness",
                metavar="N",
                min=1,
                rich_help_panel=CONTEXT,
                help="Deletion and insertion curves of N samples (some 4 x 224 passes each).",
            ),
        ] = None,
        imagenet_c: Annotated[
            bool, typer.Option("--imagenet-c", rich_help_panel=ROBUST, help="The 75 corrupted sets: mCE.")
        ] = False,
        imagenet_a: Annotated[
            bool, typer.Option("--imagenet-a", rich_help_panel=ROBUST, help="Natural adversarial examples.")
        ] = False,
        imagenet_r: Annotated[bool, typer.Option("--imagenet-r", rich_help_panel=ROBUST, help="Renditions.")] = False,
        imagenet_sketch: Annotated[
            bool, typer.Option("--imagenet-sketch", rich_help_panel=ROBUST, help="Sketches.")
        ] = False,
        attack: Annotated[
            list[str] | None,
            typer.Option(
                "--attack",
                metavar="fgsm|pgd",
                rich_help_panel=ROBUST,
                help="White-box attack on each split; repeat for both.",
            ),
        ] = None,
        epsilon: Annotated[
            float | None,
            typer.Option(
                "--epsilon", min=0, rich_help_panel=ROBUST, help="Largest change, in levels of 255.", show_default="1"
            ),
        ] = None,
        attack_step: Annotated[
            float | None,
            typer.Option(
                "--attack-step",
                min=0,
                rich_help_panel=ROBUST,
                help="A step, in levels.",
                show_default="fgsm 1, pgd 0.5",
            ),
        ] = None,
        attack_steps: Annotated[
            int | None,
            typer.Option("--attack-steps", min=1, rich_help_panel=ROBUST, help="Steps of pgd.", show_default="5"),
        ] = None,
        corrupt: Annotated[
            str | None,
            typer.Option(
                "--corrupt",
                metavar="NAME,...|all",
                rich_help_panel=ROBUST,
                help="Corrupt each split on the fly, all severities averaged (made here, not the published pictures).",
            ),
        ] = None,
        severity: Annotated[
            str, typer.Option("--severity", rich_help_panel=ROBUST, help="Severities of --corrupt.")
        ] = "1,2,3,4,5",
        robustness_out: Annotated[
            Path | None,
            typer.Option("--robustness-out", metavar="FILE", rich_help_panel=ROBUST, help="The table, .json or .csv."),
        ] = None,
        store: Annotated[
            bool,
            typer.Option("--store", help="Keep the results in the run folder (RUN/evaluations), for compare."),
        ] = False,
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
        decode: Annotated[
            Literal["exact", "fast"],
            typer.Option("--decode", help="Reading of pictures: exact = the papers' pixels; fast = about a level off."),
        ] = "exact",
        overwrite: Annotated[
            bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace files of an earlier evaluation.")
        ] = False,
        **fields: Any,
    ) -> None:
        for file in (Path(json_file) if json_file not in (None, "-") else None, csv_file, bias_out, robustness_out):
            if file is not None:
                check_target(file, overwrite)
        from attnbias.methods.engine.launch import launch, world

        cpu, count = world(gpus, processes)
        flags = {"imagenet-c": imagenet_c, "imagenet-a": imagenet_a, "imagenet-r": imagenet_r}
        tests = [name for name, asked in {**flags, "imagenet-sketch": imagenet_sketch}.items() if asked]
        job = {
            "method": method.name,
            "load_from": load_from,
            "splits": [part.strip() for part in (split or ("" if tests else "val")).split(",") if part],
            "recipe": recipe,
            "fields": typed_fields(method, fields),
            "entry": {"raw": "model", "ema": "ema", None: None}[weights],
            "trust": trust_checkpoint,
            "real_labels": real_labels,
            "bias": bias or bias_out is not None,
            "map": None if map_kind == "own" else map_kind,
            "truth": truth,
            "tau": tau,
            "bias_out": bias_out and str(bias_out),
            "context": context,
            "reliance": reliance,
            "faithfulness": faithfulness,
            "published_tests": tests,
            "attacks": {name: _strength(name, epsilon, attack_step, attack_steps) for name in attack or ()},
            "corruptions": _corruptions(corrupt),
            "severities": _severities(severity),
            "robustness_out": robustness_out and str(robustness_out),
            "store": store,
            "csv": csv_file and str(csv_file),
            "overwrite": overwrite,
            "data_root": data_root and str(data_root),
            "workers": workers,
            "batch_size": eval_batch_size,
            "on_bad_image": on_bad_image,
            "decode": decode,
        }
        asked = {"job": job, "cpu": cpu, "threads": threads, "json": json_file, "per_class": per_class}
        code = launch(run_job, json.dumps(asked), count, describe)
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


def _strength(name: str, epsilon: float | None, step: float | None, steps: int | None) -> dict[str, float | int]:
    """What differs from the program's strength of an attack; FGSM is one step."""
    if name not in ("fgsm", "pgd"):
        raise UsageError(f"--attack {name}: expected fgsm or pgd")
    typed = {"epsilon": epsilon and epsilon / 255, "step_size": step and step / 255}
    if name == "pgd":
        typed["steps"] = steps
    elif epsilon is not None and step is None:
        typed["step_size"] = epsilon / 255
    return {field: value for field, value in typed.items() if value is not None}


def _corruptions(typed: str | None) -> list[str]:
    """The corruptions asked for, checked; `all` is the fifteen of ImageNet-C."""
    if typed is None:
        return []
    from attnbias.data.transforms.corruptions import CORRUPTIONS

    names = list(CORRUPTIONS) if typed == "all" else [part.strip() for part in typed.split(",")]
    for name in names:
        if name not in CORRUPTIONS:
            raise UsageError(f"--corrupt: unknown corruption '{name}'{did_you_mean(name, CORRUPTIONS)}")
    return names


def _severities(typed: str) -> list[int]:
    parts = [part.strip() for part in typed.split(",")]
    if not all(part in ("1", "2", "3", "4", "5") for part in parts):
        raise UsageError(f"--severity {typed}: expected numbers from 1 to 5, comma-separated")
    return [int(part) for part in parts]


def run_job(text: str) -> None:
    """Evaluate as one process; `text` is the JSON that `attnbias val` resolved."""
    import torch
    from accelerate import Accelerator

    from attnbias.methods.engine.validate import Job, validate

    asked = json.loads(text)
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    accelerator = Accelerator(cpu=asked["cpu"])
    results = validate(Job(**asked["job"]), accelerator)
    if accelerator.is_main_process:
        if asked["json"] == "-":
            typer.echo(json.dumps(results, indent=1))
            return
        if asked["json"]:
            with replacing(Path(asked["json"])) as file:
                file.write(json.dumps(results, indent=1) + "\n")
        _show(results, asked["per_class"])


def _show(results: list[dict[str, Any]], per_class: bool) -> None:
    # Tables of several runs want more than a file's or pipe's customary 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=132)
    for source in dict.fromkeys(result["source"] for result in results):
        console.print(f"weights: {source}", highlight=False)
    _show_robustness(console, results)
    results = [result for result in results if "measures" in result]
    if not results:
        return
    first = results[0]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("measure", no_wrap=True)
    for result in results:
        table.add_column(f"{Path(result['load_from']).name}\n{result['split']}", justify="right")
    for baseline in first["bias"]["baselines"] if "bias" in first else ():
        table.add_column(f"{baseline}\nmap", justify="right")
    table.add_row("samples", *(str(result["samples"]) for result in results))
    for name, value in first["measures"].items():
        if not isinstance(value, list):
            table.add_row(name, *(_number(result["measures"].get(name)) for result in results))
    for part, words, measures in _parts(first):
        table.add_section()
        table.add_row(words, *(str(result[part].get("samples", "")) for result in results), style="dim")
        for name in measures:
            found = [result[part].get("means", result[part])[name] for result in results]
            if part == "bias":
                found += [means[name] for means in first["bias"]["baselines"].values()]
            shown = _number if part in ("real", "context", "groups") else "{:.3f}".format
            table.add_row(name, *(value if isinstance(value, str) else shown(value) for value in found))
    console.print(table)
    for result in results:
        _show_left_out(console, result)
    if per_class:
        _show_per_class(console, results)


def _show_robustness(console: Console, results: list[dict[str, Any]]) -> None:
    """One table of all tests: a row a test, a column a run and measure."""
    cells: dict[str, dict[str, float]] = {}
    for result in results:
        for row in result.get("robustness", ()):
            for name, value in row.items():
                if name in ("top1", "top5", "mAP", "CE", "mCE"):
                    cells.setdefault(row["test"], {})[f"{Path(result['load_from']).name}\n{name}"] = value
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    if columns:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("test")
        for column in columns:
            table.add_column(column, justify="right")
        for test, row in cells.items():
            table.add_row(test, *(_number(row.get(column)) for column in columns))
        console.print(table)


def _parts(result: dict[str, Any]) -> Iterator[tuple[str, str, Iterable[str]]]:
    """What was measured beside scores: the part of the result, words for it, and the measures a table shows."""
    if "real" in result:
        yield "real", "ReaL labels", ("real_top1", "real_top5")
    if "groups" in result:
        yield "groups", "groups", ("worst_group", "worst_group_top1", "group_gap")
    if "context" in result:
        yield (
            "context",
            f"context ({len(result['context']['pairs'])} pairs)",
            ("cooccur_AP", "exclusive_AP", "context_gap"),
        )
    if "reliance" in result:
        yield "reliance", f"reliance ({result['reliance']['truth']})", result["reliance"]["means"]
    if "faithfulness" in result:
        yield "faithfulness", f"faithfulness ({result['faithfulness']['map']})", result["faithfulness"]["means"]
    if "bias" in result:
        from attnbias.methods.engine.bias_report import SHOWN

        yield "bias", f"attention ({result['bias']['map']}, {result['bias']['truth']})", SHOWN


def _show_left_out(console: Console, result: dict[str, Any]) -> None:
    """Say what the figures of a split do not hold, and what they are not."""
    split, told = result["split"], []
    if result["decode"] == "fast":
        told.append("pictures were read with --decode fast")
    if result["skipped"]:
        told.append(f"{len(result['skipped'])} unreadable pictures left out")
    if missing := result["measures"].get("without_positives"):
        told.append(f"left out of the means, no positive label: {', '.join(result['classes'][p] for p in missing)}")
    for part in ("bias", "reliance"):
        if reasons := result.get(part, {}).get("skipped"):
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            told.append(f"samples left out of {part}: {counts}")
    if unpaired := result.get("context", {}).get("skipped"):
        told.append(f"{unpaired} pairs left out, which occur only together or only apart")
    for line in told:
        console.print(f"{split}: {line}", style="yellow", highlight=False)


def _show_per_class(console: Console, results: list[dict[str, Any]]) -> None:
    if "AP" not in results[0]["measures"]:
        console.print("--per-class: only multi-label sets have a measure of each class", style="yellow")
        return
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
