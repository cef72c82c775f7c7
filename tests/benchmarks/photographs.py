"""CSRA's and IDA's heads on a network with real ImageNet weights and real photographs, against average pooling.

    .venv/bin/pip install -e '.[real-network]'
    .venv/bin/python -m tests.benchmarks.photographs COCO128

COCO128 holds 128 photographs in COCO's layout, with masks. They are cut into four folds by chance; each is measured by
networks that were trained on the other three, and what the four found is put together, so that every figure is of
photographs that its network has not seen. All contenders have one network, weights, images, optimiser, schedule and
rates; the head alone differs. Average pooling is CSRA's head without its attention, and nothing else; IDA's head has
other weights too. Nothing is picked: one rate, fixed before, and the last checkpoint. Intervals and tests are over
photographs; another training is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attnbias.methods.engine.attention_measures import background_gap
from attnbias.methods.engine.evaluation.comparison import read_run
from attnbias.methods.engine.statistics import Change, Estimate, Interval, Ratio, change, holm, interval, mean_precision
from attnbias.methods.engine.stored_evaluations import Samples, Scores, StoredEvaluation
from tests.benchmarks.bias import RESULTS, Bench
from tests.benchmarks.bias_report import edges, table
from tests.helpers.real_network import NAME, published_state

FOLDS, SEED = 4, 0
STEPS, RATE, HEAD = 36, 3e-4, 10
"""Of training; the backbone's highest rate, and the head's over it."""
FEW = 5
"""Photographs that must show a class, or a pair of classes, for it to be measured."""


@dataclass(frozen=True)
class Contender:
    """A method's recipe, how it says the shared rates, and its plain counterpart."""

    method: str
    recipe: str
    plain: str | None = None

    @property
    def rates(self) -> tuple[Any, ...]:
        if self.method == "csra":
            return "--lr", RATE, "--head-lr-scale", HEAD
        return "--lr", RATE * HEAD, "--param-groups", "backbone_factor", "--backbone-lr-factor", 1 / HEAD


CONTENDERS = {
    "average pooling": Contender("csra", "scenes-plain"),
    "CSRA": Contender("csra", "scenes", "average pooling"),
    "IDA": Contender("ida", "scenes", "average pooling"),
}
IMAGES = ("--image-size", 128, "--normalize", "half", "--interpolation", "bicubic")
TRAINING = ("--batch-size", 16, "--steps", STEPS, "--eval-steps", STEPS, "--seed", SEED, "--keep", 1)
MEASURED = ("--bias", "--truth", "masks", "--map", "gradcam", "--reliance", "--backgrounds", "--store", "--overwrite")


class Photographs(Bench):
    """All runs, in one folder: a network for each contender and fold."""

    def __init__(self, folder: Path, coco: Path) -> None:
        self.folder = folder
        weights = folder / "lite0.pth"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(published_state(), weights)
        for fold in range(FOLDS):
            source = folder / "source" / f"fold-{fold}"
            cut(coco, source, fold)
            self.once(f"data-{fold}", "prepare-data", source, "--root", folder / "data")

    def run(self, name: str, stage: str, seed: int = SEED) -> Path:
        return self.folder / "runs" / f"{name.replace(' ', '-').lower()}-{stage}-seed-{seed}"

    def contend(self, name: str, fold: int) -> None:
        """Train on three folds, measure on the other."""
        contender, run = CONTENDERS[name], self.run(name, f"fold-{fold}")
        common = ("--data-root", self.folder / "data", "--gpus", 0, "--threads", 1, "--eval-batch-size", 16)
        start = ("--dataset", f"fold-{fold}", "--backbone", NAME, "--backbone-weights", self.folder / "lite0.pth")
        how = ("--recipe", contender.recipe, *contender.rates, *IMAGES, *TRAINING, "--out", run, "--resume", "auto")
        self.once(run.name, "train", contender.method, *how, *start, *common)
        self.once(f"{run.name}-val", "val", contender.method, "--load-from", run, *MEASURED, *common)


def cut(coco: Path, source: Path, fold: int) -> None:
    """One fold as a set in COCO's layout: val is every fourth photograph of a random order, train the others."""
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    order = sorted(image["id"] for image in content["images"])
    random.Random(SEED).shuffle(order)
    held_out = {*order[fold::FOLDS]}
    (source / "annotations").mkdir(parents=True, exist_ok=True)
    for split, own in (("train", {*order} - held_out), ("val", held_out)):
        images = [image for image in content["images"] if image["id"] in own]
        objects = [each for each in content["annotations"] if each["image_id"] in own]
        written = json.dumps({**content, "images": images, "annotations": objects})
        (source / "annotations" / f"instances_{split}.json").write_text(written)
    if not (source / "images").exists():
        (source / "images").symlink_to((coco / "images" / "train2017").resolve())


# What the folds found, put together -----------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A figure of samples, each of a photograph."""

    ratio: Ratio
    photographs: np.ndarray
    """(N,) paths."""
    flags: bool = False

    @property
    def interval_95(self) -> Interval | None:
        return interval(self.ratio, self.photographs, flags=self.flags)

    @property
    def value(self) -> float:
        return self.ratio.value

    def change_to(self, other: Figure) -> Change:
        assert np.array_equal(self.photographs, other.photographs)
        return change(self.ratio, other.ratio, self.photographs, flags=self.flags)


@dataclass(frozen=True)
class Pooled:
    """Of one contender, what its networks found in all folds."""

    folds: Sequence[StoredEvaluation]

    def samples(self, tables: Sequence[Samples | None]) -> Samples:
        found = [each for each in tables if each is not None]
        assert len(found) == len(self.folds)
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def scores(self) -> Scores:
        found = [each.scores() for each in self.folds]
        columns = ([getattr(each, name) for each in found] for name in ("paths", "targets", "scores"))
        return Scores(*map(np.concatenate, columns))

    def baseline(self, name: str) -> float:
        """Position bias of a map that all contenders share."""
        found = [each.bias("gradcam") for each in self.folds]
        own = [(each["samples"], each["baselines"][name]["position_biased"]) for each in found if each]
        return sum(count * value for count, value in own) / sum(count for count, _ in own)

    def figures(self) -> dict[str, Figure | Estimate]:
        maps = self.samples([each.bias_samples("gradcam") for each in self.folds])
        without = self.samples([each.reliance_samples() for each in self.folds])
        swapped = self.samples([each.backgrounds_samples() for each in self.folds])
        centre, oracle = (maps[f"{baseline}:energy"] for baseline in ("centre", "oracle"))
        return {
            **precisions(self.scores()),
            "position bias": Figure(Ratio.mean(maps["position_biased"]), maps["path"], flags=True),
            "on the object": Figure(Ratio(maps["energy"] - centre, oracle - centre), maps["path"]),
            "context share": Figure(Ratio(without["context_only"], without["probability"]), without["path"]),
            "BG-gap": Figure(background_gap(swapped), swapped["path"]),
        }


def pairs_of(targets: np.ndarray) -> list[tuple[int, int]]:
    """Each class (of targets (N, C)) with the one that most of its photographs show, by the labels alone; where enough
    photographs show it with that company and enough without."""
    present = (targets == 1).astype(int)
    together = present.T @ present
    alone = together.diagonal()[:, None] - together
    usable = np.where((together >= FEW) & (alone >= FEW), together, 0)
    np.fill_diagonal(usable, 0)
    return [(own, int(row.argmax())) for own, row in enumerate(usable) if row.any()]


def precisions(found: Scores) -> dict[str, Figure | Estimate]:
    """mAP of the classes with enough photographs, and of classes with and without their company, in per cent."""
    enough = (found.targets == 1).sum(0) >= FEW
    own, company = (list(each) for each in zip(*pairs_of(found.targets), strict=True))
    there, beside = found.targets[:, own] == 1, found.targets[:, company] == 1
    tables = {
        "mAP": (found.targets[:, enough], found.scores[:, enough]),
        "AP with company": (np.where(there, np.where(beside, 1, -1), 0), found.scores[:, own]),
        "AP without": (np.where(there, np.where(beside, -1, 1), 0), found.scores[:, own]),
    }
    figures = {}
    for name, each in tables.items():
        figure = mean_precision(*each)
        assert figure is not None
        figures[name] = figure.scaled(100)
    return {**figures, "company's gain": figures["AP with company"] - figures["AP without"]}


DECIMALS = {
    **dict.fromkeys(("mAP", "AP with company", "AP without", "company's gain"), 1),
    **dict.fromkeys(("position bias", "on the object", "context share", "BG-gap"), 3),
}
"""Figures of the tables -> decimals."""


def change_of(before: Figure | Estimate, after: Figure | Estimate) -> Change:
    if isinstance(before, Figure) and isinstance(after, Figure):
        return before.change_to(after)
    assert isinstance(before, Estimate)
    assert isinstance(after, Estimate)
    return Change.of(after - before)


def report(bench: Photographs, folds: int, content: dict[str, Any], results: Path) -> str:
    """Write photographs.json and .md of the first `folds`; the text of the second."""
    runs = {name: [read_run(bench.run(name, f"fold-{fold}")) for fold in range(folds)] for name in CONTENDERS}
    pooled = {
        name: Pooled([run.evaluations[f"fold-{fold}/val"] for fold, run in enumerate(own)])
        for name, own in runs.items()
    }
    found = {name: each.figures() for name, each in pooled.items()}
    changes = {
        (name, contender.plain): {
            column: change_of(found[contender.plain][column], found[name][column]) for column in DECIMALS
        }
        for name, contender in CONTENDERS.items()
        if contender.plain
    }
    p_values = [each.p for own in changes.values() for each in own.values() if each.p is not None]
    together = iter(holm(p_values))
    changes = {
        pair: {c: each if each.p is None else replace(each, p_together=next(together)) for c, each in own.items()}
        for pair, own in changes.items()
    }
    first = next(iter(pooled.values()))
    facts = facts_of(first.scores(), next(iter(found.values())))
    facts |= {f"position bias of the {name} map": first.baseline(name) for name in ("centre", "oracle", "uniform")}
    text = markdown(found, changes, facts)
    written = {
        **content,
        "facts": facts,
        "figures": {
            name: {c: {"value": each.value, "interval_95": each.interval_95} for c, each in own.items()}
            for name, own in found.items()
        },
        "differences": {
            f"{name} - {plain}": {c: asdict(each) for c, each in own.items()} for (name, plain), own in changes.items()
        },
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "photographs.json").write_text(json.dumps(written, indent=1) + "\n")
    (results / "photographs.md").write_text(text)
    return text


def facts_of(scores: Scores, figures: Mapping[str, Figure | Estimate]) -> dict[str, Any]:
    """What the figures are of, and what chance is."""
    present = scores.targets == 1
    enough = present.sum(0) >= FEW
    samples = {
        name: {"samples": len(each.photographs), "photographs": len({*each.photographs})}
        for name, each in figures.items()
        if isinstance(each, Figure)
    }
    own = [pair[0] for pair in pairs_of(scores.targets)]
    return {
        "photographs": len(scores.paths),
        "classes": int(enough.sum()),
        "pairs": len(own),
        "chance of mAP": 100 * float(present[:, enough].mean()),
        "n": samples,
    }


def markdown(
    found: Mapping[str, Mapping[str, Figure | Estimate]],
    changes: Mapping[tuple[str, str], Mapping[str, Change]],
    facts: Mapping[str, Any],
) -> str:
    """Figures with intervals; then paired differences, of which * marks those that hold among all."""
    said = [
        f"{facts['photographs']} photographs, each measured by a network that has not seen it [95 % over photographs]",
        f"mAP of the {facts['classes']} classes that at least {FEW} show, chance {facts['chance of mAP']:.1f}",
        f"{facts['pairs']} classes with their company",
        *(f"{name} of {n['samples']} objects in {n['photographs']}" for name, n in facts["n"].items()),
        "position bias of the centre map {:.3f}, of the oracle {:.3f}".format(
            *(facts[f"position bias of the {name} map"] for name in ("centre", "oracle"))
        ),
    ]
    rows = [
        [name, *(f"{own[c].value:.{d}f}{edges(own[c].interval_95, d)}" for c, d in DECIMALS.items())]
        for name, own in found.items()
    ]
    text = "; ".join(said) + "\n\n" + table(["head", *DECIMALS], rows)
    rows = [
        [
            f"{name} - {plain}",
            *(
                f"{own[c].difference:+.{d}f}{edges(own[c].interval_95, d)}{'*' * own[c].sure}"
                for c, d in DECIMALS.items()
            ),
        ]
        for (name, plain), own in changes.items()
    ]
    count = sum(len(own) for own in changes.values())
    text += f"\nDifferences, paired by photograph; * marks those that hold among all {count} (Holm, 5 %)\n\n"
    return text + table(["heads", *DECIMALS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path, help="annotations/instances_train2017.json and images/train2017/")
    parser.add_argument("--folds", type=int, choices=range(1, FOLDS + 1), default=FOLDS, help="only the first ones")
    parser.add_argument("--runs", type=Path, default=Path("build/bench-photographs"), help="where everything lies")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where photographs.json and .md go")
    asked = parser.parse_args()
    bench = Photographs(asked.runs, asked.coco)
    for fold in range(asked.folds):
        for name in CONTENDERS:
            bench.contend(name, fold)
    content = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "cpu_minutes": round(bench.minutes(), 1),
        "contenders": {name: asdict(each) for name, each in CONTENDERS.items()},
        "training": [str(each) for each in (*IMAGES, *TRAINING)],
        "rates": {"backbone": RATE, "head": RATE * HEAD},
    }
    print(f"{content['cpu_minutes']} minutes of a CPU core\n\n{report(bench, asked.folds, content, asked.results)}")


if __name__ == "__main__":
    main()
