"""`make bench-bias`: what a bias in fine-tuning costs each method, against its plain counterpart, over several seeds.

As the papers do, from pretrained networks. For each seed
(a) the plain network of a family is trained on clear scenes without bias (of heads and channel attention, each
    contender itself, since no fresh part is then at a disadvantage),
(b) what adds parts to it adapts on the same scenes; everyone's accuracy before the bias is recorded,
(c) every contender is fine-tuned on fainter scenes WITH the bias, and from the same start on equally faint ones
    WITHOUT; the learning rate is picked for each on scenes of its own, with equal trials, by what a practitioner sees:
    val.
The cost of the bias is what the second reaches over the first on the same images, those of counter: what a contender
is better at anyway is not in it. Attention is Grad-CAM's for all, between the centre map (0) and the oracle of the
map's own grid (1); compare it within a family. Commands that are done are not run again, so that a bench can be stopped
and gone on with; each is the command line's, in a process forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attnbias.methods import METHODS
from attnbias.methods.engine.evaluation.comparison import read_run
from attnbias.methods.engine.registry import get_description

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
    again: bool = False
    """Whether it is pretrained a second time from there: a control that knows its task better before it sees the
    bias."""


VIT = ("ViT", "--backbone-weights")
CONTENDERS: dict[str, Contender] = {
    "average pooling": Contender("CSRA's head", "csra", "scenes-plain"),
    "average pooling, longer": Contender(
        "CSRA's head", "csra", "scenes-plain", None, ("average pooling", "--load-from"), again=True
    ),
    "CSRA": Contender("CSRA's head", "csra", "scenes", "average pooling"),
    "linear layer": Contender("IDA's head", "ida", "scenes-plain"),
    "linear layer, longer": Contender(
        "IDA's head", "ida", "scenes-plain", None, ("linear layer", "--load-from"), again=True
    ),
    "IDA": Contender("IDA's head", "ida", "scenes", "linear layer"),
    "ResNet": Contender("channel attention", "lsas", "scenes-plain"),
    "SENet": Contender("channel attention", "lsas", "scenes-order0", "ResNet"),
    "LSAS": Contender("channel attention", "lsas", "scenes", "SENet"),
    "ViT": Contender("transformer", "absvit", "scenes-plain", None, ("ViT", "--load-from")),
    "AbSViT": Contender("transformer", "absvit", "scenes", "ViT", VIT),
    "LLB": Contender("transformer", "llb", "scenes", "ViT", VIT),
    "average pooling on ViT": Contender("CSRA's head on ViT", "csra", "scenes-vit-plain"),
    "average pooling on ViT, longer": Contender(
        "CSRA's head on ViT",
        "csra",
        "scenes-vit-plain",
        None,
        ("average pooling on ViT", "--load-from"),
        again=True,
    ),
    "CSRA on ViT": Contender("CSRA's head on ViT", "csra", "scenes-vit", "average pooling on ViT"),
}


CONTROLS = {
    "CSRA": "average pooling, longer",
    "IDA": "linear layer, longer",
    "CSRA on ViT": "average pooling on ViT, longer",
}
"""Contender -> what it is held against besides its plain counterpart."""


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    seeds: tuple[int, ...] = (0, 1, 2)
    clear: int = 6000
    """Images of pretraining."""
    faint: int = 3000
    """Images of fine-tuning."""
    evaluated: int = 400
    """Images of each other split."""
    pretraining: float = 2 / 3
    """Share of the recipe's steps, which are 600 of convolutional networks and 900 of transformers."""
    adaptation: int = 120
    tuning: int = 120
    every: int = 20
    """Steps between evaluations of fine-tuning."""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Of fine-tuning; one is not tried."""


QUICK = Budget((0,), 1200, 600, 120, 1 / 5, 30, 30, 10, (5e-4,))
ADAPTATION_RATE = 1e-3

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["attnbias.cli.app", "attnbias.methods.engine.training.train", *METHODS.values()])


def enter(arguments: Sequence[str], log: Path, cost: Path) -> None:
    """Be a command; `cost` gets the seconds of a CPU that it took."""
    from attnbias.cli.app import main

    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["attnbias", *arguments]
    try:
        main()
    finally:
        cost.write_text(f"{time.process_time():.1f}\n")


class Bench:
    """All runs of one bench, in one folder."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        self.machine = ("--gpus", 0, "--threads", 1, "--eval-batch-size", 200, "--cache", folder / "cache")
        self.check_budget()
        sets = {"clear": ("clear", 0), "faint": ("faint", 0), "faint-even": ("faint-even", 0), "tuning": ("faint", 1)}
        for name, (preset, seed) in sets.items():
            count = budget.clear if name == "clear" else budget.faint
            size = ("--size", 48, "--train", count, "--eval", budget.evaluated)
            root = ("--data-root", self.data(name))
            self.once(name, "prepare-data", "demo", "--preset", preset, "--seed", seed, *size, *root)

    def check_budget(self) -> None:
        """Refuse a folder whose runs are of another budget: they would be taken for these."""
        written = json.dumps({**asdict(self.budget), "seeds": "any"}, indent=1)
        path = self.folder / "budget.json"
        if path.exists() and path.read_text() != written:
            raise SystemExit(f"{self.folder} holds runs of another budget; delete it, or name another with --runs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def run(self, name: str, stage: str, seed: int) -> Path:
        return self.folder / "runs" / f"{name.replace(',', '').replace(' ', '-').lower()}-{stage}-seed-{seed}"

    def once(self, done: str, *arguments: Any) -> None:
        """Run a command in a process of its own, one thread, unless it was; its output goes to a log."""
        marker, cost, log = (self.folder / "done" / f"{done}{ending}" for ending in ("", ".cost", ".log"))
        if marker.exists():
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        command = [str(argument) for argument in arguments]
        process = FORKS.Process(target=enter, args=(command, log, cost))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"attnbias {' '.join(command)}\nended with exit code {process.exitcode}; see {log}")
        cost.rename(marker)
        print(f"{done}: {marker.read_text().strip()} s", flush=True)

    def minutes(self) -> float:
        """Of a CPU core, of all commands that are done."""
        return sum(float(path.read_text()) for path in (self.folder / "done").iterdir() if path.suffix != ".log") / 60

    def train(self, name: str, stage: str, seed: int, data: str, *more: Any, splits: Sequence[str] = SPLITS) -> Path:
        contender, run = CONTENDERS[name], self.run(name, stage, seed)
        how = ("--recipe", contender.recipe, "--seed", seed, "--out", run, "--resume", "auto", "--keep", 1)
        common = (*self.machine, "--data-root", self.data(data))
        self.once(run.name, "train", contender.method, *how, "--eval-splits", ",".join(splits), *common, *more)
        return run

    # Stages -----------------------------------------------------------------------------------------------------------

    def pretrain(self, name: str, seed: int) -> None:
        """(a)"""
        steps = self.pretraining(name)
        self.train(name, "pretrained", seed, "clear", "--steps", steps, "--eval-steps", steps)

    def pretraining(self, name: str) -> int:
        """Steps."""
        contender = CONTENDERS[name]
        recipe = get_description(contender.method).named_recipe(contender.recipe).recipe
        return round((recipe.steps or 0) * self.budget.pretraining)

    def adapted(self, name: str, seed: int) -> Path:
        """(b): where fine-tuning starts."""
        start = CONTENDERS[name].start
        if start is None:
            return self.run(name, "pretrained", seed)
        source = self.run(start[0], "pretrained", seed)
        weights = source if start[1] == "--load-from" else best_weights(source)
        again = CONTENDERS[name].again
        steps = self.pretraining(name) if again else self.budget.adaptation
        rate = () if again else ("--lr", ADAPTATION_RATE)
        budget = ("--steps", steps, "--eval-steps", steps, *rate)
        return self.train(name, "adapted", seed, "clear", start[1], weights, *budget)

    def rate(self, name: str) -> float:
        """The learning rate with the best val on scenes that are used for nothing else; of a control, its plain
        contender's, from which it differs in the pretraining alone."""
        contender, rates = CONTENDERS[name], self.budget.rates
        if contender.again and contender.start:
            return self.rate(contender.start[0])
        if len(rates) == 1:
            return rates[0]
        start = self.adapted(name, self.budget.seeds[0])
        reached = {}
        for rate in rates:
            run = self.tune(name, f"tried-{rate:g}", self.budget.seeds[0], "tuning", start, rate, SPLITS[:1])
            reached[rate] = max(read_run(run).points["val"].values())
        return max(reached, key=lambda rate: reached[rate])

    def tune(
        self, name: str, stage: str, seed: int, data: str, start: Path, rate: float, splits: Sequence[str] = SPLITS
    ) -> Path:
        """(c): one fine-tuning, evaluated along the way."""
        budget = ("--steps", self.budget.tuning, "--eval-steps", self.budget.every, "--lr", rate)
        return self.train(name, stage, seed, data, "--load-from", start, *budget, splits=splits)

    def contend(self, name: str, seed: int) -> None:
        """(b) and (c), and what is measured of them: of the checkpoint that is best on val, on the same images."""
        start, rate = self.adapted(name, seed), self.rate(name)
        own = self.tune(name, "faint", seed, "faint", start, rate)
        even = self.tune(name, "faint-even", seed, "faint-even", start, rate)
        self.measure(name, even, "counter")
        self.measure(name, own, "counter", "--bias", "--map", "gradcam")
        if not CONTENDERS[name].again:  # a control is there for what its plain contender is asked on counter
            self.measure(name, own, "val", "--reliance", "--backgrounds")

    def measure(self, name: str, run: Path, split: str, *asked: str) -> None:
        common = (*self.machine, "--data-root", self.data("faint"))
        how = ("--load-from", run, "--split", split, *asked, "--store", "--overwrite")
        self.once(f"{run.name}-{split}", "val", CONTENDERS[name].method, *how, *common)


def best_weights(run: Path) -> Path:
    """The weights of a run that `--load-from` would take."""
    progress = json.loads((max((run / "checkpoints").glob("step-*")) / "progress.json").read_text())
    return run / "checkpoints" / f"step-{progress['best_step']:08d}" / "model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few images and steps: a trial, not a result")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of 0, 1, 2")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, help="where everything lies; build/bench-bias, with -quick for a trial")
    parser.add_argument("--results", type=Path, help="where bias.json, .md and .svg go; a trial's beside its runs")
    asked = parser.parse_args()

    budget = QUICK if asked.quick else Budget()
    if asked.seeds:
        budget = replace(budget, seeds=tuple(asked.seeds))
    folder = asked.runs or Path("build") / ("bench-bias-quick" if asked.quick else "bench-bias")
    results = asked.results or (folder if asked.quick else RESULTS)
    bench = Bench(folder, budget)
    starts = [name for name in CONTENDERS if name in {(CONTENDERS[n].start or (n,))[0] for n in asked.only}]
    with ThreadPoolExecutor(asked.jobs) as pool:
        # Seeds outermost: a bench that is stopped early has compared all contenders under fewer seeds.
        for seed in budget.seeds:
            for stage, names in ((bench.pretrain, starts), (bench.contend, asked.only)):
                list(pool.map(stage, names, [seed] * len(names)))  # waits for all of them
    from bias_report import report  # beside this file; the tests import the contenders alone

    content = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "cpu_minutes": round(bench.minutes(), 1),
        "budget": asdict(budget),
        "contenders": {name: asdict(CONTENDERS[name]) for name in asked.only},
        "controls": CONTROLS,
    }
    print(report(bench, asked.only, content, results))


if __name__ == "__main__":
    main()
