"""The tables of metrics and measures as Markdown, which the READMEs hold: `python -m tests.helpers.measure_tables`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnbias.methods.engine.attention_measures import (
    ATTENTION,
    BACKGROUNDS,
    FAITHFULNESS,
    AttentionMeasure,
    Named,
)
from attnbias.methods.engine.audit.measures import MEASURES
from attnbias.methods.engine.metrics import METRICS


def metrics() -> str:
    """The table of metrics."""
    rows = [(f"`{metric.name}`", metric.words, metric.better) for metric in METRICS]
    return _table(("metric", "what it says, in per cent", "better"), rows)


def attention(table: Iterable[AttentionMeasure | Named] = ATTENTION) -> str:
    """A table of measures, with a picture of what each sees."""
    rows = [
        (f"`{each.name}`", f"![](pictures/{each.name}.png)", each.words, each.better or "-", each.source or "-")
        for each in table
    ]
    return _table(("measure", "what it sees", "what it says", "better", "source"), rows)


def audit() -> str:
    """The table of an audit's figures."""
    rows = [
        (f"`{each.name}`", each.words, each.family, each.better or "-", each.chance_words or "-") for each in MEASURES
    ]
    return _table(("figure", "what it says", "of", "better", "held against"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    print(metrics(), attention(), attention(FAITHFULNESS), attention(BACKGROUNDS), audit(), sep="\n")
