"""`attnbias val METHOD`: score checkpoints on splits of a dataset, side by side in one table.

No postponed annotations here: a command's options quote its method, which only exists inside the closure.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnbias.cli.errors import describe
from attnbias.cli.evaluation_tables import show_results
from attnbias.cli.options import per_method, typed_fields, with_recipe_options
from attnbias.cli.shared import (
    DataRoot,
    EvalBatchSize,
    Gpus,
    OnBadImage,
    Overwrite,
    Processes,
    Threads,
    TrustCheckpoint,
    Weights,
    Workers,
    recipe_option,
)
from attnbias.data.atomic import replacing
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.screen import say_json

BIAS = "Attention bias"
CONTEXT = "Reliance on context"
ROBUST = "Robustness"


def _command(method: Description) -> Callable[..., None]:
    def command(
        load_from: Annotated[
            list[str],
            typer.Option("--load-from", help="A run folder, .safetensors or published file; repeat to compare."),
        ],
        recipe: Annotated[
            str | None,
            recipe_option(method, "Named recipe for what a published file does not tell (lam, normalisation)."),
        ] = None,
        split: Annotated[
            str | None,
            typer.Option(
                "--split",
                help="Splits, comma-separated.",
                show_default="val; none where --imagenet-* sets are asked for",
            ),
        ] = None,
        weights: Weights = None,
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
        trust_checkpoint: TrustCheckpoint = False,
        data_root: DataRoot = None,
        gpus: Gpus = None,
        processes: Processes = None,
        workers: Workers = None,
        eval_batch_size: EvalBatchSize = 64,
        threads: Threads = None,
        on_bad_image: OnBadImage = "error",
        decode: Annotated[
            Literal["exact", "fast"],
            typer.Option("--decode", help="Reading of pictures: exact = the papers' pixels; fast = about a level off."),
        ] = "exact",
        overwrite: Overwrite = False,
        **fields: Any,
    ) -> None:
        _check_targets(
            [*load_from, *([recipe] if recipe else [])],
            overwrite,
            json_file=json_file,
            csv_file=csv_file,
            robustness_out=robustness_out,
            bias_out=bias_out,
        )
        from attnbias.methods.engine.launch import default_workers, launch, world

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
            "workers": default_workers(cpu, count) if workers is None else workers,
            "batch_size": eval_batch_size,
            "on_bad_image": on_bad_image,
            "decode": decode,
        }
        asked = {"job": job, "cpu": cpu, "threads": threads, "json": json_file, "per_class": per_class}
        code = launch(run_job, json.dumps(asked), count, describe)
        if code:
            sys.exit(code)

    return with_recipe_options(command, method, training=False)


val = typer.Typer(
    cls=per_method(_command),
    no_args_is_help=True,
    help="Evaluate checkpoints.",
    epilog="Example:  attnbias val csra --load-from resnet101_voc07_head1_lam0.1_94.7.pth --dataset voc07",
)


@val.callback()
def _val() -> None:
    """Sub-commands are the methods; this only makes the group exist."""


def _check_targets(
    reads: Sequence[str],
    overwrite: bool,
    *,
    json_file: str | None,
    csv_file: Path | None,
    robustness_out: Path | None,
    bias_out: Path | None,
) -> None:
    """Refuse, before any work, what cannot or must not be written."""
    from attnbias.methods.engine import targets

    asked = (json_file, targets.RESULTS), (csv_file, targets.SCORES), (robustness_out, targets.ROBUSTNESS)
    targets.check_targets(targets.requested(*asked), reads, overwrite)
    if bias_out is not None:
        # Several checkpoints or splits have a folder each.
        folders = [bias_out, *(path for path in bias_out.glob("*") if path.is_dir())]
        held = [targets.Target(folder / name, kind) for folder in folders for name, kind in targets.BIAS.items()]
        targets.check_folder(bias_out, overwrite, held, reads)


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

    from attnbias.methods.engine.evaluation.job import Job
    from attnbias.methods.engine.validate import validate

    asked = json.loads(text)
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    accelerator = Accelerator(cpu=asked["cpu"])
    results = validate(Job(**asked["job"]), accelerator)
    if accelerator.is_main_process:
        if asked["json"] == "-":
            say_json(results)
            return
        if asked["json"]:
            with replacing(Path(asked["json"])) as file:
                file.write(json.dumps(results, indent=1) + "\n")
        show_results(results, asked["per_class"])
