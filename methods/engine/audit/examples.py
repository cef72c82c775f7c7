"""Which images an audit shows: four of each finding, four drawn by chance, and the first of each cell. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest

import numpy as np

from attnbias.methods.engine.audit.result import Audit, Causes, Cell, Example, Finding, Sample

EXAMPLES, IN_CELL = 4, 12
"""Images of a finding, and of a cell of the two-by-two."""

MOST_PROPERTIES = 3
"""Findings of what predicts a label or an error that have images."""


def choose(
    samples: Sequence[Sample], quadrants: Sequence[Cell], causes: Causes, classes: Sequence[str], seed: int = 0
) -> tuple[Finding, ...]:
    """At most four images of each finding, and four that are drawn by chance; no image twice in one finding."""

    def finding(name: str, title: str, how: str, rows: Iterable[int]) -> Finding:
        return Finding(name, title, how, tuple(_example(row, samples[row], classes) for row in rows))

    cells = {(cell.right, cell.on_object): cell.samples for cell in quadrants}

    def cell(right: bool, on_object: bool, order: Callable[[Sample], float]) -> Iterator[int]:
        rows = sorted(cells.get((right, on_object), ()), key=lambda row: order(samples[row]))
        return islice(_one_an_image(rows, samples), EXAMPLES)

    found = [
        finding(
            "right-elsewhere",
            "Right, and looks elsewhere",
            "the four with the highest score",
            cell(True, False, lambda sample: -sample.score),
        ),
        finding(
            "wrong-elsewhere",
            "Wrong, and looks elsewhere",
            "the four with the lowest score",
            cell(False, False, lambda sample: sample.score),
        ),
        finding(
            "wrong-on-object",
            "Wrong, though it looks at the object",
            "the four with the most of the map on the object",
            cell(False, True, lambda sample: -sample.values.get("energy", 0.0)),
        ),
        finding(
            "context-only",
            "Right, and keeps at least half of its score with the object taken away",
            "the four with the highest score on the context alone",
            islice(_one_an_image(_by_context(samples), samples), EXAMPLES),
        ),
    ]
    for number, entry in enumerate(islice((each for each in causes.properties if each.sure), MOST_PROPERTIES)):
        rows = islice(_one_an_image(entry.samples, samples), EXAMPLES)
        found.append(finding(f"property-{number + 1}", entry.text, f"the first four {entry.rule}", rows))
    images = len({sample.image for sample in samples})
    how = f"drawn by chance from all {images:,} images (seed {seed}), not chosen"
    found.append(finding("random", "Drawn by chance", how, _drawn(samples, seed)))
    return tuple(each for each in found if each.examples)


def _example(row: int, sample: Sample, classes: Sequence[str]) -> Example:
    true = () if sample.label < 0 else (classes[sample.label],)
    drawn = sample.label if sample.label >= 0 else next(iter(sample.predicted), None)
    predicted = tuple(classes[label] for label in sample.predicted)
    return Example(row, sample.path, true, predicted, "" if drawn is None else classes[drawn], says(sample))


# Before and after -----------------------------------------------------------------------------------------------------


def changed(
    before: Sequence[Sample], after: Sequence[Sample], classes: Sequence[str], *, looks: bool = True
) -> tuple[Finding, ...]:
    """At most four objects of each way in which a model differs from the one before it: where the focus has come to
    the object or left it (`looks`: whether foci can be compared), and where the class is named now or no more; those
    that changed most first."""
    known = {(sample.image, sample.label): sample for sample in before if sample.label >= 0}
    pairs = {
        row: (known[key], sample) for row, sample in enumerate(after) if (key := (sample.image, sample.label)) in known
    }

    def moved(way: float) -> dict[int, float]:
        """Rows whose focus is wholly outside (1) before and not after, or (-1) the other way, and by how much."""
        gains = {row: _gain(pair, "position_biased") for row, pair in pairs.items()}
        return {row: way * _gain(pairs[row], "energy") for row, gain in gains.items() if gain == -way}

    def named(way: int) -> dict[int, float]:
        return {
            row: way * (now.score - then.score) for row, (then, now) in pairs.items() if now.right - then.right == way
        }

    energy = "share of the map on the object"
    foci = (
        ("to-object", "Looked elsewhere before, looks at the object now", energy, moved(1)),
        ("to-elsewhere", "Looked at the object before, looks elsewhere now", energy, moved(-1)),
    )
    kinds = (
        *(foci if looks else ()),
        ("now-right", "Wrong before, right now", "score", named(1)),
        ("now-wrong", "Right before, wrong now", "score", named(-1)),
    )
    found = []
    for name, title, what, gains in kinds:
        order = sorted(gains, key=lambda row: -gains[row])
        rows = list(islice(_one_an_image(order, after), EXAMPLES))
        most = f"the {len(rows)} of {len(gains):,} such objects whose {what} has changed most"
        how = f"all {len(rows)} such objects" if len(rows) == len(gains) else most
        examples = (_example(row, after[row], classes) for row in rows)
        told = (replace(each, says=f"before: {says(pairs[each.sample][0])}; after: {each.says}") for each in examples)
        found.append(Finding(name, title, how, tuple(told)))
    return tuple(each for each in found if each.examples)


def _gain(pair: tuple[Sample, Sample], name: str) -> float:
    """By how much a value of an object is more after than before; NaN where one of both was not measured."""
    before, after = (sample.values.get(name, float("nan")) for sample in pair)
    return after - before


# Words and order ------------------------------------------------------------------------------------------------------


def says(sample: Sample) -> str:
    """What is to be seen on a sample's image, with its figures."""
    words = [f"score {sample.score:.2f}"]
    if "energy" in sample.values:
        words.append(f"{100 * sample.values['energy']:.0f} % of the map on the object")
    if "context_only" in sample.values:
        words.append(f"score {sample.values['context_only']:.2f} on the context alone")
    return ", ".join(words)


def _by_context(samples: Sequence[Sample]) -> list[int]:
    """Right ones that keep at least half of their score on the context alone, the highest score first."""
    alone = {row: sample.values.get("context_only", 0.0) for row, sample in enumerate(samples) if sample.right}
    kept = [row for row, score in alone.items() if score > 0 and score >= samples[row].score / 2]
    return sorted(kept, key=lambda row: -alone[row])


def _one_an_image(rows: Iterable[int], samples: Sequence[Sample]) -> Iterator[int]:
    seen = set()
    for row in rows:
        if samples[row].image not in seen:
            seen.add(samples[row].image)
            yield row


def _drawn(samples: Sequence[Sample], seed: int) -> list[int]:
    """A sample of each of four images, all images being as likely."""
    first = list(_one_an_image(range(len(samples)), samples))
    order = np.random.default_rng(seed).permutation(len(first))[:EXAMPLES]
    return [first[place] for place in order.tolist()]


def pairs_shown(audit: Audit) -> list[int]:
    """Positions of the images that the page shows with the maps of both models."""
    findings = audit.against.pictures if audit.against else ()
    rows = (example.sample for finding in findings for example in finding.examples)
    return list(dict.fromkeys(audit.samples[row].image for row in rows))


def shown(audit: Audit) -> list[int]:
    """Positions in the split of the images that the page shows, those that it needs most first."""
    findings = (*audit.pictures, *(audit.against.pictures if audit.against else ()))
    examples = (example.sample for finding in findings for example in finding.examples)
    in_cells = zip_longest(*(cell.samples[:IN_CELL] for cell in audit.quadrants))
    rows = chain(examples, (row for each in in_cells for row in each if row is not None))
    return list(dict.fromkeys(audit.samples[row].image for row in rows))
