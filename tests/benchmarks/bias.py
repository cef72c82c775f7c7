"""`make bench-bias`: what a bias in fine-tuning costs each method, against its plain counterpart, over several seeds.

As the papers do, from pretrained networks. For each seed
(a) the plain network of a family is trained on clear scenes without bias (of heads and channel attention, each
    contender itself, since no fresh part is then at a disadvantage),
(b) what adds parts to it adapts on the same scenes; everyone's accuracy before the bias is recorded,
(c) every contender is fine-tuned on fainter scenes WITH the bias, and from the same start on equally faint ones
    WITHOUT; the learning rate is picked for each on scenes of its own, with equal trials, by what a practitioner sees:
    val.
The cost of the bias is what the second reaches on counter over the first: what a contender is better at anyway is not
in it. Attention is Grad-CAM's for all, between the centre map (0) and the oracle of the map's own grid (1); compare it
within a family. Commands that are done are not run again, so that a bench can be stopped and gone on with.
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
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from attnbias.methods.engine.evaluation.comparison import compared, read_run
from attnbias.methods.engine.evaluation.over_seeds import at_equal_accuracy, by_recipe
from attnbias.methods.engine.statistics import repeated

RESULTS = Path(__file__).parent / "results"
SPLITS = ("val", "counter", "unbiased")


@dataclass(frozen=True)
class Contender:
    """A method's recipe, and whom it is measured against."""

    family: str
    method: str
    recipe: str
    plain: str | None = None
    start: tuple[str, str] | None = None
    """Whose weights it adapts from, and how they are given; None: it is pretrained itself."""


VIT = ("ViT", "--backbone-weights")
CONTENDERS: dict[str, Contender] = {
    "average pooling": Contender("CSRA's head", "csra", "scenes-plain"),
    "CSRA": Contender("CSRA's head", "csra", "scenes", "average pooling"),
    "linear layer": Contender("IDA's head", "ida", "scenes-plain"),
    "IDA": Contender("IDA's head", "ida", "scenes", "linear layer"),
    "ResNet": Contender("channel attention", "lsas", "scenes-plain"),
    "SENet": Contender("channel attention", "lsas", "scenes-order0", "ResNet"),
    "LSAS": Contender("channel attention", "lsas", "scenes", "SENet"),
    "ViT": Contender("transformer", "absvit", "scenes-plain", None, ("ViT", "--load-from")),
    "AbSViT": Contender("transformer", "absvit", "scenes", "ViT", VIT),
    "LLB": Contender("transformer", "llb", "scenes", "ViT", VIT),
    "average pooling on ViT": Contender("CSRA's head on ViT", "csra", "scenes-vit-plain"),
    "CSRA on ViT": Contender("CSRA's head on ViT", "csra", "scenes-vit", "average pooling on ViT"),
}


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    seeds: tuple[int, ...] = (0, 1, 2)
    clear: int = 6000
    """Images of pretraining."""
    faint: int = 3000
    """Images of fine-tuning."""
    evaluated: int = 600
    """Images of each other split."""
    pretraining: int | None = None
    """Steps; None: the recipe's own, 600 of convolutional networks and 900 of transformers."""
    adaptation: int = 120
    tuning: int = 150
    every: int = 15
    """Steps between evaluations of fine-tuning."""
    rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3)
    """Of fine-tuning; one is not tried."""


QUICK = Budget((0,), 1200, 600, 120, 120, 30, 30, 10, (5e-4,))
ADAPTATION_RATE = 1e-3


class Bench:
    """All runs of one bench, in one folder."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        sets = {"clear": ("clear", 0), "faint": ("faint", 0), "faint-even": ("faint-even", 0), "tuning": ("faint", 1)}
        for name, (preset, seed) in sets.items():
            count = budget.clear if name == "clear" else budget.faint
            size = ("--size", 48, "--train", count, "--eval", budget.evaluated)
            root = ("--data-root", self.data(name))
            self.once(name, "prepare-data", "demo", "--preset", preset, "--seed", seed, *size, *root)

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def run(self, name: str, stage: str, seed: int) -> Path:
        return self.folder / "runs" / f"{name.replace(' ', '-').lower()}-{stage}-seed-{seed}"

    def once(self, done: str, *arguments: Any) -> None:
        """Run a command in a process of its own, one thread, unless it was; its output goes to a log."""
        marker, log = (self.folder / "done" / f"{done}{ending}" for ending in ("", ".log"))
        if marker.exists():
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        command, start = [sys.executable, "-m", "attnbias", *map(str, arguments)], time.perf_counter()
        with log.open("a") as file:
            found = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        if found.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with exit code {found.returncode}; see {log}")
        marker.write_text(f"{time.perf_counter() - start:.1f}\n")
        print(f"{done}: {marker.read_text().strip()} s", flush=True)

    def train(self, name: str, stage: str, seed: int, data: str, *more: Any, splits: Sequence[str] = SPLITS) -> Path:
        contender, run = CONTENDERS[name], self.run(name, stage, seed)
        how = ("--recipe", contender.recipe, "--seed", seed, "--out", run, "--resume", "auto", "--keep", 1)
        common = ("--data-root", self.data(data), "--gpus", 0, "--threads", 1, "--eval-batch-size", 200)
        self.once(run.name, "train", contender.method, *how, "--eval-splits", ",".join(splits), *common, *more)
        return run

    # Stages -----------------------------------------------------------------------------------------------------------

    def pretrain(self, name: str, seed: int) -> None:
        """(a)"""
        steps = self.budget.pretraining
        asked = () if steps is None else ("--steps", steps)
        self.train(name, "pretrained", seed, "clear", *asked, "--eval-steps", steps or 300)

    def adapted(self, name: str, seed: int) -> Path:
        """(b): where fine-tuning starts."""
        start = CONTENDERS[name].start
        if start is None:
            return self.run(name, "pretrained", seed)
        source = self.run(start[0], "pretrained", seed)
        weights = source if start[1] == "--load-from" else best_weights(source)
        steps = self.budget.adaptation
        budget = ("--steps", steps, "--eval-steps", steps, "--lr", ADAPTATION_RATE)
        return self.train(name, "adapted", seed, "clear", start[1], weights, *budget)

    def rate(self, name: str) -> float:
        """The learning rate with the best val on scenes that are used for nothing else."""
        rates = self.budget.rates
        if len(rates) == 1:
            return rates[0]
        start = self.adapted(name, self.budget.seeds[0])
        reached = {}
        for rate in rates:
            run = self.tune(name, f"tried-{rate:g}", self.budget.seeds[0], "tuning", start, rate, evaluated=False)
            reached[rate] = last(run, "val")
        return max(reached, key=lambda rate: reached[rate])

    def tune(
        self, name: str, stage: str, seed: int, data: str, start: Path, rate: float, *, evaluated: bool = True
    ) -> Path:
        """(c): one fine-tuning, on all splits along the way or on val at its end."""
        steps = self.budget.tuning
        budget = ("--steps", steps, "--eval-steps", self.budget.every if evaluated else steps, "--lr", rate)
        splits = SPLITS if evaluated else SPLITS[:1]
        return self.train(name, stage, seed, data, "--load-from", start, *budget, splits=splits)

    def contend(self, name: str, seed: int) -> None:
        """(b) and (c), and what is measured of them."""
        start, rate = self.adapted(name, seed), self.rate(name)
        for data in ("faint", "faint-even"):
            self.tune(name, data, seed, data, start, rate)
        run = self.run(name, "faint", seed)
        common = ("--data-root", self.data("faint"), "--gpus", 0, "--threads", 1, "--eval-batch-size", 200)
        asked = ("--bias", "--map", "gradcam", "--reliance", "--store", "--overwrite")
        self.once(
            f"{run.name}-val",
            *("val", CONTENDERS[name].method, "--load-from", run, "--split", "val,counter", *asked, *common),
        )

    # What was found ---------------------------------------------------------------------------------------------------

    def figures(self, name: str, seed: int) -> dict[str, float]:
        """Everything that is reported of one contender and seed."""
        run = self.run(name, "faint", seed)
        stored = {(line.split, line.measure): line.values[0] for line in compared([read_run(run)], "gradcam")}
        with_bias, without = ({split: last(self.run(name, data, seed), split) for split in SPLITS} for data in TUNED)
        found: dict[str, float | None] = {
            "start": last(self.adapted(name, seed), "unbiased"),
            "rate": self.rate(name),
            **with_bias,
            "counter without bias": without["counter"],
            "cost of the bias": without["counter"] - with_bias["counter"],
            "gain at equal val": self.gain(name, seed),
            "position bias": stored["demo/counter", "position_biased"],
            "on the object": stored["demo/counter", "energy (centre 0, oracle 1)"],
            "context share": stored["demo/val", "context_share"],
        }
        return {column: nan if value is None else value for column, value in found.items()}

    def gain(self, name: str, seed: int) -> float | None:
        """What counter has over the plain contender's where both are as good on val."""
        plain = CONTENDERS[name].plain
        if plain is None:
            return None
        runs = [read_run(self.run(each, "faint", seed)) for each in (plain, name)]
        lines = {line.measure: line.values[1] for line in at_equal_accuracy(runs, by_recipe(runs))}
        return lines["counter mAP gained there"]

    def curves(self, name: str, seed: int) -> dict[str, dict[int, float]]:
        return read_run(self.run(name, "faint", seed)).points


TUNED = ("faint", "faint-even")
COLUMNS = {
    **dict.fromkeys(("start", *SPLITS, "cost of the bias", "gain at equal val"), 1),
    **dict.fromkeys(("position bias", "on the object", "context share"), 3),
}
"""Columns of the table -> decimals."""
AGAINST_PLAIN = ("counter", "cost of the bias", "on the object", "context share")


def best_weights(run: Path) -> Path:
    """The weights of a run that `--load-from` would take."""
    progress = json.loads((max((run / "checkpoints").glob("step-*")) / "progress.json").read_text())
    return run / "checkpoints" / f"step-{progress['best_step']:08d}" / "model.safetensors"


def last(run: Path, split: str) -> float:
    """What a run logged last."""
    return list(read_run(run).points[split].values())[-1]


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation over seeds that have the figure."""
    values = [value for value in values if not isnan(value)]
    deviation = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{deviation}" if values else "-"


def difference(values: Sequence[float], decimals: int) -> str:
    """A mean difference over seeds, with its interval where there is one."""
    values = [value for value in values if not isnan(value)]
    if not values:
        return "-"
    found = repeated(values)
    edges = found.interval_95
    between = "" if edges is None else f" [{edges[0]:+.{decimals}f}, {edges[1]:+.{decimals}f}]"
    return f"{found.difference:+.{decimals}f}{between}"


Found = dict[str, dict[str, dict[str, float]]]
"""Contender -> seed -> figure; NaN where there is none."""


def markdown(found: Found) -> str:
    """Means and deviations over seeds; then differences to the plain counterparts, paired by seed."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    rows = [
        [
            CONTENDERS[name].family,
            name,
            *(spread([each[c] for each in found[name].values()], d) for c, d in COLUMNS.items()),
        ]
        for name in found
    ]
    text = [f"{len(next(iter(found.values())))} seeds, mean ± standard deviation\n\n"]
    text.append(table(["family", "contender", *COLUMNS], rows))
    pairs = {name: plain for name in found if (plain := CONTENDERS[name].plain) in found}
    rows = []
    for name, plain in pairs.items():
        both = [(found[name][seed], found[str(plain)][seed]) for seed in found[name]]
        changes = {column: [own[column] - other[column] for own, other in both] for column in AGAINST_PLAIN}
        rows.append([name, str(plain), *(difference(values, COLUMNS[column]) for column, values in changes.items())])
    if rows:
        text.append("\nAgainst the plain counterpart, paired by seed [95 % interval over seeds]\n\n")
        text.append(table(["contender", "plain", *AGAINST_PLAIN], rows))
    return "".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few images and steps: a trial, not a result")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of 0, 1, 2")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, help="where everything lies; build/bench-bias, with -quick for a trial")
    parser.add_argument("--results", type=Path, help="where bias.json and bias.md go; a trial's beside its runs")
    asked = parser.parse_args()

    budget = QUICK if asked.quick else Budget()
    if asked.seeds:
        budget = Budget(**{**asdict(budget), "seeds": tuple(asked.seeds)})
    folder = asked.runs or Path("build") / ("bench-bias-quick" if asked.quick else "bench-bias")
    results = asked.results or (folder if asked.quick else RESULTS)
    start = time.perf_counter()
    bench = Bench(folder, budget)
    starts = [name for name in CONTENDERS if name in {(CONTENDERS[n].start or (n,))[0] for n in asked.only}]
    with ThreadPoolExecutor(asked.jobs) as pool:
        # Seeds outermost: a bench that is stopped early has compared all contenders under fewer seeds.
        for seed in budget.seeds:
            for stage, names in ((bench.pretrain, starts), (bench.contend, asked.only)):
                list(pool.map(stage, names, [seed] * len(names)))  # waits for all of them
    minutes = (time.perf_counter() - start) / 60
    found: Found = {name: {str(seed): bench.figures(name, seed) for seed in budget.seeds} for name in asked.only}
    content = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "budget": asdict(budget),
        "contenders": {name: asdict(CONTENDERS[name]) for name in asked.only},
        "figures": found,
        "curves": {name: {str(seed): bench.curves(name, seed) for seed in budget.seeds} for name in asked.only},
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "bias.json").write_text(json.dumps(content, indent=1) + "\n")
    (results / "bias.md").write_text(markdown(found))
    print(f"{minutes:.1f} minutes\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
