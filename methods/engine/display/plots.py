"""Plots of a comparison, drawn by matplotlib (the extra `plot`). No torch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnbias.methods.engine.attention_measures import HEADLINE
from attnbias.methods.engine.evaluation.comparison import Line, Run
from attnbias.methods.engine.metrics import names
from attnbias.methods.engine.text import visible

STYLES = ("-", "--", ":", "-.")


def _label(text: str) -> str:
    """A name as matplotlib shows it: what begins with an underscore it leaves out."""
    return visible(f" {text}" if text.startswith("_") else text)


@rc_context({"text.parse_math": False})
def learning_curves(runs: Sequence[Run]) -> Figure:
    """The measure that decides over epochs: a colour a run, a line style a split; the authors' own curves in grey.
    Below it where the runs looked meanwhile, where `train --bias-every` measured it."""
    watched = any(run.bias_curves for run in runs)
    figure = Figure(figsize=(8, 9 if watched else 5), layout="constrained")
    axes, *below = figure.subplots(1 + watched, 1, squeeze=False)[:, 0]
    splits = list(dict.fromkeys(split for run in runs for split in run.curves))
    for position, run in enumerate(runs):
        for split, curve in run.curves.items():
            style = STYLES[splits.index(split) % len(STYLES)]
            axes.plot([*curve], [*curve.values()], style, color=f"C{position}", label=_label(f"{run.name}, {split}"))
    published = {name: curve for run in runs for name, curve in run.method.reference_curves(run.recipe).items()}
    for position, (name, reference) in enumerate(published.items()):
        style = STYLES[position % len(STYLES)]
        axes.plot([*reference], [*reference.values()], style, color="0.6", label=_label(f"published: {name}"))
    axes.set(xlabel="epoch", ylabel=" / ".join(dict.fromkeys(run.measure for run in runs if run.measure)))
    for panel in below:
        for position, run in enumerate(runs):
            for split, curve in run.bias_curves.items():
                style = STYLES[splits.index(split) % len(STYLES)]
                panel.plot([*curve], [*curve.values()], style, marker="o", color=f"C{position}")
        panel.set(xlabel="epoch", ylabel=f"attention on the object: {HEADLINE.replace('_', ' ')}", ylim=(0, 1))
    for panel in (axes, *below):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


@rc_context({"text.parse_math": False})
def accuracy_against_attention(runs: Sequence[Run], lines: Sequence[Line]) -> Figure:
    """A panel a split: how accurate each run is, over how much of its attention is on the object.

    At least one of the lines must be of attention.
    """
    found = {(line.split, line.measure): line.values for line in lines}
    splits = [split for split, name in found if name == HEADLINE]
    figure = Figure(figsize=(4.2 * len(splits), 4.2), layout="constrained")
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        accuracy = next(name for name in names(lambda metric: metric.labels is not None) if (split, name) in found)
        for position, (x, y) in enumerate(zip(found[split, HEADLINE], found[split, accuracy], strict=True)):
            if x is not None and y is not None:
                name = _label(runs[position].name) if axes is figure.axes[0] else None
                axes.plot(x, y, "o", color=f"C{position}", label=name)
        axes.set(title=visible(split), xlabel=HEADLINE.replace("_", " "), ylabel=accuracy, xlim=(0, 1), ylim=(0, 100))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure
