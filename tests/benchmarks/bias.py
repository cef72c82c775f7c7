"""`make bench-bias`: each method against its plain counterpart on the built-in scenes, one budget, several seeds.

Trains every contender with `attnbias train`, evaluates it with `attnbias val --bias --reliance --store` under its own
map and under Grad-CAM, and writes tests/benchmarks/results/bias.json and bias.md. Runs that are finished are not done
again, so that budgets can be added one by one. A budget is a number of epochs over the same 3000 images, in batches
of 64; everything else is each method's recipe for the set, so that the contenders of a family share network, optimiser
and augmentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from attnbias.methods.engine.evaluation.comparison import compared, read_run

RESULTS = Path(__file__).parent / "results"
SPLITS = "val,counter,unbiased"
MAPS = {"own": SPLITS, "gradcam": "counter"}
"""The maps that are measured, and on which splits."""


@dataclass(frozen=True)
class Contender:
    """A method's recipe, and whom it is measured against."""

    family: str
    method: str
    options: tuple[str, ...] = ()
    plain: str | None = None


TRANSFORMER = ("--backbone", "tiny_vit", "--lr", "1e-3", "--weight-decay", "0.05")
CONTENDERS: dict[str, Contender] = {
    "average pooling": Contender("convolutional head", "csra", ("--lam", "0")),
    "CSRA": Contender("convolutional head", "csra", (), "average pooling"),
    "IDA": Contender("convolutional head", "ida", (), "average pooling"),
    "SENet": Contender("channel attention", "lsas", ("--recipe", "demo-senet")),
    "LSAS": Contender("channel attention", "lsas", (), "SENet"),
    "ViT": Contender("transformer", "absvit", ("--recipe", "demo-vit")),
    "AbSViT": Contender("transformer", "absvit", (), "ViT"),
    "LLB": Contender("transformer", "llb", (), "ViT"),
    "CSRA on ViT": Contender("transformer", "csra", TRANSFORMER, "ViT"),
}

COLUMNS = {
    "val mAP": ("demo/val", "mAP", "own"),
    "counter mAP": ("demo/counter", "mAP", "own"),
    "unbiased mAP": ("demo/unbiased", "mAP", "own"),
    "position bias": ("demo/counter", "position_biased", "own"),
    "on the object": ("demo/counter", "area_matched", "own"),
    "same, Grad-CAM": ("demo/counter", "area_matched", "gradcam"),
    "context share": ("demo/val", "context_share", "own"),
}
"""Columns of the Markdown table: split, measure, map."""


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    budget: int
    seed: int

    @property
    def contender(self) -> Contender:
        return CONTENDERS[self.name]

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.name.replace(' ', '-').lower()}-{self.budget}-epochs-seed-{self.seed}"


def attnbias(log: Path, *arguments: Any) -> None:
    """Run the command line in a process of its own, one thread; its output goes to a log."""
    command = [sys.executable, "-m", "attnbias", *map(str, arguments)]
    with log.open("a") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with exit code {done.returncode}; see {log}")


def carry_out(job: Job, runs: Path, data_root: Path) -> None:
    """Train and evaluate one run, or what is missing of it; the last file written says that all is there."""
    folder, contender = job.folder(runs), job.contender
    seconds = folder.with_name(f"{folder.name}.seconds")
    if seconds.exists():
        return
    start = time.perf_counter()
    common = ("--data-root", data_root, "--gpus", 0, "--threads", 1, "--eval-batch-size", 200)
    recipe = () if "--recipe" in contender.options else ("--recipe", "demo")
    budget = ("--epochs", job.budget, "--seed", job.seed)
    log = folder.with_name(f"{folder.name}.log")
    trained = ("--out", folder, "--resume", "auto", "--eval-splits", SPLITS)
    attnbias(log, "train", contender.method, *recipe, *contender.options, *budget, *trained, *common)
    for kind, splits in MAPS.items():
        asked = ("--reliance",) if kind == "own" else ()
        stored = ("--split", splits, "--bias", "--map", kind, "--store", "--overwrite")
        attnbias(log, "val", contender.method, "--load-from", folder, *stored, *asked, *common)
    seconds.write_text(f"{time.perf_counter() - start:.1f}\n")
    print(f"{folder.name}: {seconds.read_text().strip()} s", flush=True)


def figures(job: Job, runs: Path) -> dict[str, Any]:
    """Everything that one run's folder holds: DATASET/SPLIT -> measure (of Grad-CAM: gradcam/MEASURE) -> value."""
    run = read_run(job.folder(runs))
    found: dict[str, dict[str, float | None]] = {}
    for kind in MAPS:
        for line in compared([run], kind):
            prefix = "gradcam/" if kind == "gradcam" else ""
            found.setdefault(line.split, {})[prefix + line.measure] = line.values[0]
    seconds = float(job.folder(runs).with_name(f"{job.folder(runs).name}.seconds").read_text())
    return {"seconds": seconds, "curves": run.curves, "measures": found}


def value(run: dict[str, Any], column: str) -> float:
    split, measure, kind = COLUMNS[column]
    return run["measures"][split][f"gradcam/{measure}" if kind == "gradcam" else measure]


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation over seeds."""
    deviation = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{deviation}"


def markdown(results: dict[str, Any]) -> str:
    """A table a budget: means and deviations over seeds, and the change in counter mAP against the plain one."""
    text = []
    for budget in results["budgets"]:
        text.append(f"\n{budget} epochs, {len(results['seeds'])} seeds (mean ± standard deviation)\n\n")
        header = ["family", "contender", *COLUMNS, "counter mAP over plain"]
        rows = [header, ["---", "---", *("---:" for _ in header[2:])]]
        for name in results["contenders"]:
            runs = results["runs"][name][str(budget)]
            cells = [
                spread([value(run, column) for run in runs.values()], 1 if "mAP" in column else 3) for column in COLUMNS
            ]
            plain = CONTENDERS[name].plain
            gain = "-"
            if plain in results["contenders"]:
                others = results["runs"][plain][str(budget)]
                gain = spread(
                    [value(run, "counter mAP") - value(others[seed], "counter mAP") for seed, run in runs.items()], 1
                )
            rows.append([CONTENDERS[name].family, name, *cells, gain])
        text += [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join(text).lstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, nargs="+", default=[8], metavar="EPOCHS", help="one or several")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("build/bench-bias"), help="where the runs lie")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data-root", type=Path, default=Path("datasets"))
    asked = parser.parse_args()

    asked.runs.mkdir(parents=True, exist_ok=True)
    attnbias(asked.runs / "prepare-data.log", "prepare-data", "demo", "--root", asked.data_root)
    # Seeds outermost: a bench that is stopped early has compared all contenders under fewer seeds.
    jobs = [Job(name, budget, seed) for seed in asked.seeds for budget in asked.budget for name in asked.only]
    start = time.perf_counter()
    with ThreadPoolExecutor(asked.jobs) as pool:
        for done in [pool.submit(carry_out, job, asked.runs, asked.data_root) for job in jobs]:
            done.result()
    print(f"{len(jobs)} runs, {(time.perf_counter() - start) / 60:.1f} minutes")
    results: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "budgets": asked.budget,
        "seeds": asked.seeds,
        "contenders": {name: vars(CONTENDERS[name]) for name in asked.only},
        "runs": {name: {str(budget): {} for budget in asked.budget} for name in asked.only},
    }
    for job in jobs:
        results["runs"][job.name][str(job.budget)][str(job.seed)] = figures(job, asked.runs)
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "bias.json").write_text(json.dumps(results, indent=1) + "\n")
    (asked.results / "bias.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
