"""What `bias.py` reports of its runs: figures of every contender and seed, tables with intervals, and curves.

Headline figures are of the checkpoint that is best on val, as `val --store` kept them. Intervals over seeds say what
another training would have given on the same images; those over images what other images would have given to these
trainings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from math import isnan, log, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from attnbias.methods.engine.evaluation.comparison import Run, compared, read_run
from attnbias.methods.engine.evaluation.over_seeds import at_equal_accuracy, by_recipe, figure_at
from attnbias.methods.engine.statistics import Estimate, Interval, mean_precision, repeated

if TYPE_CHECKING:
    from bias import Bench

LEVELS = (92, 94)
"""Of val mAP, at which counter is read from the curves."""

COLUMNS = {
    **dict.fromkeys(("start", "val", "counter", "unbiased", "counter without bias", "cost of the bias"), 1),
    "cost in log odds": 2,
    **dict.fromkeys((*(f"counter at val {level}" for level in LEVELS), "gain at equal val"), 1),
    **dict.fromkeys(("position bias", "on the object", "context share", "BG-gap"), 3),
}
"""Columns of the table -> decimals."""

AGAINST = ("start", "counter", "cost of the bias", "cost in log odds", "on the object", "context share", "BG-gap")
"""What is compared with other contenders, paired by seed."""

Found = dict[str, dict[str, dict[str, float]]]
"""Contender -> seed -> figure; NaN where there is none."""


class Contest:
    """All finished runs of some contenders, read once."""

    def __init__(self, bench: Bench, names: Sequence[str], plain: Mapping[str, str | None]) -> None:
        self.bench, self.names, self.plain, self.seeds = bench, names, plain, bench.budget.seeds
        self.tuned, self.even = (
            {(name, seed): read_run(bench.run(name, data, seed)) for name in names for seed in self.seeds}
            for data in ("faint", "faint-even")
        )

    def figures(self, name: str, seed: int) -> dict[str, float]:
        """Everything that is reported of one contender and seed."""
        run = self.tuned[name, seed]
        stored = {(line.split, line.measure): line.values[0] for line in compared([run], "gradcam")}
        ends = {split: list(run.points[split].values())[-1] for split in ("val", "unbiased")}
        own, even = (100 * precision(each).value for each in (run, self.even[name, seed]))
        points = run.points
        found: dict[str, float | None] = {
            "start": list(read_run(self.bench.adapted(name, seed)).points["unbiased"].values())[-1],
            "rate": self.bench.rate(name),
            **ends,
            "counter": own,
            "counter without bias": even,
            "cost of the bias": even - own,
            "cost in log odds": log_odds(even) - log_odds(own),
            **{f"counter at val {level}": figure_at(level, points["val"], points["counter"]) for level in LEVELS},
            "gain at equal val": self.gain(name, seed),
            "position bias": stored["demo/counter", "position_biased"],
            "on the object": stored["demo/counter", "energy (centre 0, oracle 1)"],
            "context share": stored.get(("demo/val", "context_share")),
            "BG-gap": stored.get(("demo/val", "bg_gap")),
        }
        return {column: nan if value is None else value for column, value in found.items()}

    def gain(self, name: str, seed: int) -> float | None:
        """What counter has over the plain contender's where both are as good on val."""
        plain = self.plain.get(name)
        if plain not in self.names:
            return None
        runs = [self.tuned[plain, seed], self.tuned[name, seed]]
        lines = {line.measure: line.values[1] for line in at_equal_accuracy(runs, by_recipe(runs))}
        return lines["counter mAP gained there"]

    def over_images(self, name: str, other: str, cost: bool) -> Interval | None:
        """Of the difference of two contenders on counter, or of their costs of the bias, mean over seeds, in points."""

        def value(each: str, seed: int) -> Estimate:
            own = precision(self.tuned[each, seed])
            return precision(self.even[each, seed]) - own if cost else own

        differences = [value(name, seed) - value(other, seed) for seed in self.seeds]
        return mean(differences).scaled(100).interval_95

    def chance(self) -> float:
        """The mAP on counter of scores that know nothing: the mean share of positives."""
        scores = next(iter(self.tuned.values())).evaluations["demo/counter"].scores()
        assert scores is not None
        return 100 * float((scores.targets == 1).mean())


def precision(run: Run) -> Estimate:
    """mAP on counter, with what each image adds to its error."""
    scores = run.evaluations["demo/counter"].scores()
    assert scores is not None
    found = mean_precision(scores.targets, scores.scores)
    assert found is not None
    return found


def log_odds(percent: float) -> float:
    """Of a share in per cent: near its ceiling a figure that is better anyway loses fewer points to the same bias."""
    return log(percent / (100 - percent))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several figures of the same images."""
    count, size = min(each.count for each in estimates), len(estimates)
    influence = reduce(np.add, (each.influence for each in estimates)) / size
    return Estimate(fmean(each.value for each in estimates), influence, count)


# Tables ---------------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation over seeds that have the figure."""
    values = [value for value in values if not isnan(value)]
    deviation = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{deviation}" if values else "-"


def edges(interval: Interval | None, decimals: int) -> str:
    return "" if interval is None else f" [{interval[0]:+.{decimals}f}, {interval[1]:+.{decimals}f}]"


def difference(values: Sequence[float], decimals: int) -> str:
    """A mean difference over seeds, with its interval where there is one."""
    values = [value for value in values if not isnan(value)]
    if not values:
        return "-"
    found = repeated(values)
    return f"{found.difference:+.{decimals}f}{edges(found.interval_95, decimals)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(found: Found, families: Mapping[str, str], pairs: Sequence[tuple[str, str]], contest: Contest) -> str:
    """Means and deviations over seeds; then differences of pairs, with intervals over seeds and over images."""
    rows = [
        [families[name], name, *(spread([each[c] for each in seeds.values()], d) for c, d in COLUMNS.items())]
        for name, seeds in found.items()
    ]
    images = contest.bench.budget.evaluated
    text = f"{len(contest.seeds)} seeds, mean ± standard deviation; {images} images a split; chance on counter is "
    text += f"{contest.chance():.1f}\n\n" + table(["family", "contender", *COLUMNS], rows)
    rows = []
    for name, other in pairs:
        both = [(found[name][seed], found[other][seed]) for seed in found[name]]
        cells = {c: difference([own[c] - beside[c] for own, beside in both], COLUMNS[c]) for c in AGAINST}
        for column, cost in (("counter", False), ("cost of the bias", True)):
            cells[column] += f"; images{edges(contest.over_images(name, other, cost), 1)}"
        rows.append([name, other, *cells.values()])
    if rows:
        text += "\nDifferences, paired by seed [95 % interval over seeds; then over images]\n\n"
        text += table(["contender", "against", *AGAINST], rows)
    return text


def curves(contest: Contest, families: Mapping[str, str]) -> Figure:
    """Counter against val while the biased scenes are learnt: a panel a family, a colour a contender, a line a seed."""
    panels = list(dict.fromkeys(families[name] for name in contest.names))
    figure = Figure(figsize=(4.2 * len(panels), 4), layout="constrained")
    for family, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for position, name in enumerate(name for name in contest.names if families[name] == family):
            for seed in contest.seeds:
                points = contest.tuned[name, seed].points
                steps = [step for step in points["val"] if step in points["counter"]]
                xy = [[points[split][step] for step in steps] for split in ("val", "counter")]
                label = name if seed == contest.seeds[0] else None
                axes.plot(*xy, marker=".", color=f"C{position}", alpha=0.8, label=label)
        axes.axhline(contest.chance(), color="0.6", linestyle=":", label="chance on counter")
        axes.set(title=family, xlabel="val mAP (bias holds)", ylabel="counter mAP (bias is broken)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", frameon=False)
    return figure


def report(bench: Bench, names: Sequence[str], content: dict[str, Any], results: Path) -> str:
    """Write bias.json, bias.md and bias.svg; the text of the second."""
    families = {name: each["family"] for name, each in content["contenders"].items()}
    plain: dict[str, str | None] = {name: each["plain"] for name, each in content["contenders"].items()}
    contest = Contest(bench, names, plain)
    found: Found = {name: {str(seed): contest.figures(name, seed) for seed in contest.seeds} for name in names}
    held = [(name, other) for name in names for other in (plain[name], content["controls"].get(name)) if other in found]
    text = markdown(found, families, [(name, str(other)) for name, other in held], contest)
    points = {name: {str(seed): contest.tuned[name, seed].points for seed in contest.seeds} for name in names}
    written = {**content, "chance_on_counter": contest.chance(), "figures": found, "curves": points}
    results.mkdir(parents=True, exist_ok=True)
    (results / "bias.json").write_text(json.dumps(written, indent=1) + "\n")
    (results / "bias.md").write_text(text)
    with rc_context({"svg.hashsalt": "bias"}):  # the same file of the same figures
        curves(contest, families).savefig(results / "bias.svg", metadata={"Date": None})
    return f"{content['cpu_minutes']} minutes of a CPU core\n\n{text}"
