"""`attnbias predict`: the classes of a person's own pictures, by a checkpoint that says what it is."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbias.cli.errors import describe
from attnbias.cli.paths import find_pictures, say_how_read
from attnbias.cli.recipe_flags import read_flags, recipe_flags
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
)
from attnbias.data.atomic import replacing
from attnbias.data.reading import Json
from attnbias.methods import METHODS
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.screen import say, say_json
from attnbias.methods.engine.text import write_csv

if TYPE_CHECKING:
    from attnbias.methods.engine.evaluation.predict import Predictions
    from attnbias.methods.engine.load import Loaded


def predict(
    context: typer.Context,
    load_from: Annotated[
        str, typer.Option("--load-from", help="A run folder, .safetensors or published file, a name or a URL.")
    ],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Pictures, or folders of them.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Whose checkpoint it is.",
            show_default="the checkpoint says",
            autocompletion=lambda: list(METHODS),
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Named recipe for what a published file does not tell (lam ...).")
    ] = None,
    weights: Weights = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, help="At most so many classes a picture.", show_default="single-label 5"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", min=0, max=1, help="Only classes of at least this score.", show_default="multi-label 0.5"
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the classes as JSON; - is standard output.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the scores of all classes, one row a picture.")
    ] = None,
    trust_checkpoint: TrustCheckpoint = False,
    data_root: DataRoot = None,
    gpus: Gpus = None,
    processes: Processes = None,
    workers: Workers = None,
    eval_batch_size: EvalBatchSize = 64,
    threads: Threads = None,
    on_bad_image: OnBadImage = "error",
    overwrite: Overwrite = False,
) -> None:
    """Name the classes of your own pictures. The method is read from the checkpoint.

    Flags of its recipe go before what the checkpoint says, as in val; attnbias val METHOD --help lists them.
    """
    if method is not None:
        get_description(method)
    from attnbias.methods.engine import targets

    asked = targets.requested((json_file, targets.PREDICTIONS), (csv_file, targets.PREDICTED_SCORES))
    targets.check_targets(asked, [load_from, *paths, *([recipe] if recipe else [])], overwrite)
    found, left_out = find_pictures(paths)
    noticed = say_how_read([path for _, path in found])
    from attnbias.methods.engine.launch import default_workers, launch, world

    cpu, count = world(gpus, processes)
    job = {
        "load_from": load_from,
        "paths": [str(path) for _, path in found],
        "left_out": left_out,
        "remarks": noticed,
        "method": method,
        "recipe": recipe,
        "flags": recipe_flags(context),
        "entry": {"raw": "model", "ema": "ema", None: None}[weights],
        "trust": trust_checkpoint,
        "data_root": data_root and str(data_root),
        "top_k": top_k,
        "threshold": threshold,
        "json": json_file,
        "csv": csv_file and str(csv_file),
        "on_bad_image": on_bad_image,
        "batch_size": eval_batch_size,
        "workers": default_workers(cpu, count) if workers is None else workers,
        "cpu": cpu,
        "threads": threads,
    }
    code = launch(run_job, json.dumps(job), count, describe)
    if code:
        sys.exit(code)


def run_job(text: str) -> None:
    """Predict as one process; `text` is the JSON that `attnbias predict` resolved."""
    import torch
    from accelerate import Accelerator

    from attnbias.methods.engine.evaluation.predict import predict_pictures
    from attnbias.methods.engine.inspection import owner
    from attnbias.methods.engine.load import load_run

    job = json.loads(text)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    accelerator = Accelerator(cpu=job["cpu"])
    method, fields = read_flags(job["method"] or owner(job["load_from"], trust=job["trust"]), job["flags"])
    loaded = load_run(
        method,
        job["load_from"],
        fields,
        accelerator.device,
        recipe_name=job["recipe"],
        entry=job["entry"],
        trust=job["trust"],
        data_root=Path(job["data_root"]) if job["data_root"] else None,
    )
    predictions = predict_pictures(
        loaded,
        job["paths"],
        accelerator,
        batch_size=job["batch_size"],
        workers=job["workers"],
        on_bad_image=job["on_bad_image"],
    )
    if accelerator.is_main_process:
        _write(job, loaded, predictions)


def _write(job: Json, loaded: Loaded, predictions: Predictions) -> None:
    """Write the files that were asked for, or a line a picture."""
    from attnbias.methods.engine.evaluation.predict import chosen

    pictures: list[Json] = []
    for path, scores in zip(predictions.paths, predictions.scores, strict=True):
        labels = chosen(scores, loaded.task == "multilabel", job["top_k"], job["threshold"])
        named = [{"class": loaded.classes[label], "score": round(float(scores[label]), 6)} for label in labels]
        pictures.append({"path": path, "classes": named})
    if job["csv"]:
        rows = zip(predictions.paths, predictions.scores, strict=True)
        scored = ([path, *(f"{score:.6f}" for score in scores)] for path, scores in rows)
        write_csv(Path(job["csv"]), chain([["path", *loaded.classes]], scored))
    content = {
        "weights": loaded.source,
        "method": loaded.method.name,
        "task": loaded.task,
        "pictures": pictures,
        "skipped": predictions.skipped,
        "left_out": job["left_out"],
        "remarks": job["remarks"],
    }
    if job["json"] == "-":
        say_json(content)
    elif job["json"]:
        with replacing(Path(job["json"])) as file:
            file.write(json.dumps(content, indent=1) + "\n")
    if job["json"] != "-":
        for picture in pictures:
            words = ", ".join(f"{found['class']} {found['score']:.3f}" for found in picture["classes"])
            say(f"{picture['path']}: {words or '-'}")
    for line in predictions.skipped:
        say(f"left out: {line}", error=True)
