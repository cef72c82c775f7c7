"""Plots of a comparison, drawn by matplotlib (the extra `plot`). No torch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnbias.methods.engine.evaluation.comparison import Line, Run

STYLES = ("-", "--", ":", "-.")


def learning_curves(runs: Sequence[Run]) -> Figure:
    """The measure that decides over epochs: a colour a run, a line style a split; the authors' own curves in grey."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    splits = list(dict.fromkeys(split for run in runs for split in run.curves))
    for place, run in enumerate(runs):
        for split, curve in run.curves.items():
            style = STYLES[splits.index(split) % len(STYLES)]
            axes.plot([*curve], [*curve.values()], style, color=f"C{place}", label=f"{run.name}, {split}")
    published = {name: curve for run in runs for name, curve in run.method.reference_curves(run.recipe).items()}
    for place, (name, reference) in enumerate(published.items()):
        axes.plot(
            [*reference], [*reference.values()], STYLES[place % len(STYLES)], color="0.6", label=f"published: {name}"
        )
    axes.set(xlabel="epoch", ylabel=" / ".join(dict.fromkeys(run.measure for run in runs if run.measure)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def accuracy_against_attention(runs: Sequence[Run], lines: Sequence[Line], measure: str = "area_matched") -> Figure:
    """A panel a split: how accurate each run is, over how much of its attention is on the object."""
    found = {(line.split, line.measure): line.values for line in lines}
    splits = [split for split, name in found if name == measure]
    figure = Figure(figsize=(4.2 * max(1, len(splits)), 4.2), layout="constrained")
    for axes, split in zip(figure.subplots(1, max(1, len(splits)), squeeze=False)[0], splits, strict=True):
        accuracy = next(name for name in ("mAP", "top1") if (split, name) in found)
        for place, (x, y) in enumerate(zip(found[split, measure], found[split, accuracy], strict=True)):
            if x is not None and y is not None:
                axes.plot(x, y, "o", color=f"C{place}", label=runs[place].name if axes is figure.axes[0] else None)
        axes.set(title=split, xlabel=measure.replace("_", " "), ylabel=accuracy, xlim=(0, 1), ylim=(0, 100))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure
