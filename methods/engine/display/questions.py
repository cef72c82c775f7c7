"""Ask models about images in words: where each looks for a question, and its best answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbias.methods.engine.abilities import IsSteered, ReadsTexts, SteeredByTexts
from attnbias.methods.engine.batches import moved
from attnbias.methods.engine.display.gallery import View
from attnbias.methods.engine.display.inference import Column, Frame, ImageSample, Prediction, place_input
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import normalise
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.types import Batch

ANSWERS = 5
"""Answers named of each question, the best first."""


@torch.no_grad()
def ask(
    samples: Sequence[ImageSample],
    columns: Sequence[Column],
    texts: list[str],
    dataset_dirs: Sequence[Path | None],
    rule: str,
) -> list[Prediction]:
    """Ask every column the photos' questions. Maps are by the number of a question in `texts`, which grows.

    Args:
        texts: every question so far, by its number.
        dataset_dirs: folder of the prepared set that each column's recipe names, where a tokenizer may stand.

    Raises:
        UsageError: a method has no such map or head, or takes no texts. RunError: a map holds NaN or infinity.
    """
    texts += [
        text for text in dict.fromkeys(text for sample in samples for text in sample.questions) if text not in texts
    ]
    positions = [position for position, sample in enumerate(samples) for _ in sample.questions]
    asked = [text for sample in samples for text in sample.questions]
    people = [said for sample in samples for said in sample.questions.values()]
    batches: dict[int, tuple[Batch, list[Frame]]] = {}
    views: list[list[View]] = [[] for _ in samples]
    raw: list[list[dict[int, NDArray[np.float32]]]] = [[] for _ in samples]
    for column, dataset_dir in zip(columns, dataset_dirs, strict=True):
        key = id(column.loaded)
        column.loaded.method.check_map(column.kind)
        answers = [""] * len(asked)  # a model's answers go to the first of its columns
        if key not in batches:
            batches[key] = _batch(samples, column, asked, positions, dataset_dir)
            answers = _answers(column, batches[key][0], people)
        batch, frames = batches[key]
        maps = _maps(column, batch, asked)
        drawn, plain = normalise(maps, rule).cpu().numpy(), maps.float().cpu().numpy()
        for position, frame in enumerate(frames):
            rows = {texts.index(asked[row]): row for row, owner in enumerate(positions) if owner == position}
            views[position].append(
                View(
                    scores={},
                    predicted=(),
                    maps={number: drawn[row] for number, row in rows.items()},
                    frame=frame,
                    figures={number: answers[row] for number, row in rows.items() if answers[row]},
                )
            )
            raw[position].append({number: plain[row] for number, row in rows.items()})
    return [Prediction(tuple(seen), tuple(maps), ({},) * len(columns)) for seen, maps in zip(views, raw, strict=True)]


def _maps(column: Column, batch: Batch, asked: Sequence[str]) -> Tensor:
    """Where a model looked for each text of a batch: (M, h, w)."""
    loaded, method, steering = column.loaded, column.loaded.method, column.loaded.steering
    if steering is None:
        return _asked(loaded).text_attention(loaded.model, batch, kind=column.kind, head=column.head)
    assert isinstance(method, IsSteered)
    assert isinstance(method, SteeredByTexts)
    if column.head is not None:
        raise UsageError(f"--head {column.head}: a map that a prior steers is of all heads together; leave --head out")
    if steering.vectors is None:
        priors = method.text_priors(loaded.model, batch)
    else:
        priors = steering.vectors[[steering.names.index(text) for text in asked]].to(batch["image"].device)
    return method.steered(loaded.model, batch["image"], priors[:, None], steering.gain, column.kind)[:, 0]


def _batch(
    samples: Sequence[ImageSample],
    column: Column,
    texts: Sequence[str],
    positions: Sequence[int],
    dataset_dir: Path | None,
) -> tuple[Batch, list[Frame]]:
    """Images and texts side by side on the model's device, and what part of each photo the model sees."""
    loaded = column.loaded
    device = next(loaded.model.parameters()).device
    transform = loaded.method.transform(loaded.recipe, train=False)
    placed = [place_input(transform, sample.image) for sample in samples]
    batch: Batch = {"image": torch.stack([placed[position][0] for position in positions])}
    batch |= _asked(loaded).read_texts(loaded.recipe, texts, dataset_dir)
    return moved(batch, device), [frame for _, frame in placed]


def _asked(loaded: Loaded) -> ReadsTexts[Recipe, nn.Module]:
    """The method as one that is asked in words.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(loaded.method, ReadsTexts):
        raise UsageError(f"method '{loaded.method.name}' is asked by class (--classes), not in words")
    return loaded.method


def _answers(column: Column, batch: Batch, people: Sequence[str]) -> list[str]:
    """The best answers to each text of a batch in words, where the model has any to give, and what people answered."""
    loaded = column.loaded
    scores = _asked(loaded).text_scores(loaded.model, batch, loaded.task)
    if scores is None:
        return list(people)
    best = scores.topk(min(ANSWERS, scores.shape[1]))
    named = (
        ", ".join(f"{loaded.classes[label]} {score:.1%}" for score, label in zip(*row, strict=True))
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return ["; people: ".join(filter(None, pair)) for pair in zip(named, people, strict=True)]
