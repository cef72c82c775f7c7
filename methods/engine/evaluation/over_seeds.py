"""Runs of one recipe with other seeds, taken together; and what a run gains over another at equal accuracy. No torch.

Intervals of single runs say what other images would have given; those over seeds what another training would have
given on the same images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from attnbias.data.reading import reading
from attnbias.methods.engine.evaluation.comparison import Line, Run, read_together
from attnbias.methods.engine.statistics import Change, repeated
from attnbias.methods.engine.yaml_files import read_yaml
from attnbias.weights.errors import WeightsError


@dataclass(frozen=True)
class Repeated:
    """Runs that differ in nothing but their seed, or a single one."""

    runs: tuple[str, ...]
    """Their names."""
    method: str
    positions: dict[int, int]
    """Seed -> position among the runs that are compared."""

    @property
    def name(self) -> str:
        """All of their names in one, with what differs in braces, as a shell would take it."""
        if len(self.runs) == 1:
            return self.runs[0]
        before = _alike(self.runs)
        rests = [run[before:] for run in self.runs]
        after = _alike([rest[::-1] for rest in rests])
        own = ",".join(rest[: len(rest) - after] for rest in rests)
        return f"{self.runs[0][:before]}{{{own}}}{rests[0][len(rests[0]) - after :]}"


def _alike(texts: Sequence[str]) -> int:
    """With how many letters all of them begin."""
    letters = enumerate(zip(*texts, strict=False))
    return next((n for n, there in letters if len({*there}) > 1), min(map(len, texts)))


@dataclass(frozen=True, kw_only=True)
class SeedLine(Line):
    """One measure of all recipes: means over seeds, and differences to the first recipe, paired by seed."""

    deviations: list[float | None]
    """Standard deviation over seeds; None where there is but one."""
    seeds: list[int]
    """How many there are of each recipe."""
    pairs: list[int]
    """How many seeds each recipe has in common with the first."""


@dataclass(frozen=True)
class Compared:
    """Runs side by side, and the recipes that they are of."""

    runs: list[Run]
    lines: list[Line]
    """One measure of all runs each, split by split."""
    recipes: list[Repeated]
    """The runs by recipe: those that differ in nothing but the seed together."""
    over_seeds: list[SeedLine]
    """The same measures of all recipes; none where no recipe has several seeds."""


def by_recipe(runs: Sequence[Run]) -> list[Repeated]:
    """The runs by recipe, data and starting weights, in the order of the first run of each.

    A second run of one recipe and seed stands alone: it repeats the first, or differs in what no recipe says.
    """
    groups: list[tuple[tuple[str, ...], dict[int, int]]] = []
    for position, run in enumerate(runs):
        key = _all_but_the_seed(run)
        own = next((seeds for known, seeds in groups if known == key and run.recipe.seed not in seeds), None)
        if own is None:
            groups.append((key, own := {}))
        own[run.recipe.seed] = position
    return [
        Repeated(tuple(runs[p].name for p in seeds.values()), runs[next(iter(seeds.values()))].method.name, seeds)
        for _, seeds in groups
    ]


def _all_but_the_seed(run: Run) -> tuple[str, ...]:
    recipe = run.recipe.model_dump(mode="json", exclude={"seed"})
    return (run.method.name, json.dumps(recipe, sort_keys=True), run.data, _origin(run.started_from))


def _origin(weights: str) -> str:
    """Of weights that a run on this disk made its recipe without the seed, else their name."""
    path = Path(weights) / "recipe.yaml"
    if not weights or not path.is_file():
        return weights
    with reading(path, "train again", WeightsError):
        return json.dumps({**read_yaml(path), "seed": None}, sort_keys=True)


def over_seeds(recipes: Sequence[Repeated], lines: Sequence[Line]) -> list[SeedLine]:
    """Each line by recipe; nothing where no recipe has several seeds."""
    if all(len(recipe.positions) == 1 for recipe in recipes):
        return []
    found = []
    for line in lines:
        tables = [
            {seed: value for seed, p in recipe.positions.items() if (value := line.values[p]) is not None}
            for recipe in recipes
        ]
        alike = [
            {seed: table[seed] for seed in table if recipe.positions[seed] not in line.apart}
            for table, recipe in zip(tables, recipes, strict=True)
        ]
        paired = [[table[seed] - alike[0][seed] for seed in alike[0] if seed in table] for table in alike[1:]]
        found.append(
            SeedLine(
                split=line.split,
                measure=line.measure,
                values=[fmean(table.values()) if table else None for table in tables],
                deviations=[stdev(table.values()) if len(table) > 1 else None for table in tables],
                seeds=[len(table) for table in tables],
                changes=[None, *(repeated(differences) if differences else None for differences in paired)],
                pairs=[len(tables[0]), *map(len, paired)],
            )
        )
    return read_together(found)


# At equal accuracy ----------------------------------------------------------------------------------------------------


def at_equal_accuracy(runs: Sequence[Run], recipes: Sequence[Repeated]) -> list[Line]:
    """What runs gain on other splits where they are as good on the first one, the highest that both reach.

    Each is held against the first recipe's run of its seed, else against the first run. What a model gains on images
    against the bias merely by being better on all images is not in it ("effective robustness", Taori et al. 2020).
    """
    references = [runs[recipes[0].positions.get(run.recipe.seed, 0)] for run in runs]
    first = next(iter(runs[0].points), "")
    gains: dict[str, list[float | None]] = {}
    levels: list[float | None] = []
    for run, reference in zip(runs, references, strict=True):
        same = (run.measure, run.recipe.dataset) == (reference.measure, reference.recipe.dataset)
        tables = [each.points if same else {} for each in (reference, run)]
        level = min(max(table.get(first, {}).values(), default=float("-inf")) for table in tables)
        levels.append(level if level > float("-inf") else None)
        for split in runs[0].points:
            if split != first:
                there = [figure_at(level, table.get(first, {}), table.get(split, {})) for table in tables]
                gain = None if there[0] is None or there[1] is None else there[1] - there[0]
                gains.setdefault(split, []).append(gain)
    if len(runs) < 2 or not gains:
        return []
    nothing: list[Change | None] = [None] * len(runs)
    measure = runs[0].measure
    return [
        Line("", f"{first} {measure} that the first run reaches too", levels, nothing),
        *(Line("", f"{split} {measure} gained there", values, nothing) for split, values in gains.items()),
    ]


def figure_at(level: float, reached: dict[int, float], other: dict[int, float]) -> float | None:
    """A run's figure on another split when it first reached a level, linear between two evaluations; None where its
    first evaluation already lay above."""
    before: tuple[float, float] | None = None
    for step, value in reached.items():
        if step not in other:
            continue
        here = (value, other[step])
        if value >= level:
            if value == level:
                return here[1]
            if before is None:
                return None
            share = (level - before[0]) / (value - before[0])
            return before[1] + share * (here[1] - before[1])
        before = here
    return None
