"""One model of the page: what it is, and what it says of an image, by the code of `predict` and `visualize`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from attnbias.data.reading import Json
from attnbias.methods.engine.abilities import IsSteered
from attnbias.methods.engine.audit.opening import weights_digest
from attnbias.methods.engine.display.html_page import map_levels, short
from attnbias.methods.engine.display.inference import Column, ImageSample, predict_samples
from attnbias.methods.engine.display.questions import ask
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.maps import fitting_explainers
from attnbias.methods.engine.prediction.predict import score_images
from attnbias.methods.engine.requests import PredictRequest
from attnbias.methods.engine.types import LABELLED, Steering

RULE = "minmax"
"""How maps are brought to 0..1, as `visualize` does where nobody types another."""


class Sent(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Asked(Sent):
    """What the page asks of a model."""

    model: int = Field(ge=0)
    image: str
    label: int | None = Field(None, ge=0)
    """The class that the map is of; None = the one of the highest score."""
    question: str = Field("", max_length=500)
    """In the place of a class, of a model that is asked in words."""
    map: str
    gain: float | None = Field(None, ge=0)
    """Strength of the prior, the class or question itself, in maps that follow one; None = the method's own."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of the page, asked by one request at a time."""

    name: str
    loaded: Loaded
    dataset_dir: Path | None
    """The folder of the prepared set that its recipe names, where a tokenizer may stand."""
    machine: PredictRequest
    """How it is asked for scores; placed."""
    accelerator: Accelerator
    lock: Lock
    """Held while its network is asked; two subjects may share a network."""

    @property
    def maps(self) -> tuple[str, ...]:
        """The kinds of map that fit its network, its own first."""
        method, recipe = self.loaded.method, self.loaded.recipe
        explainers = () if method.reads_texts else fitting_explainers(method, self.loaded.model)
        return tuple(dict.fromkeys((method.default_map(recipe), *method.maps, *explainers)))

    def content(self) -> Json:
        """What the page is told of it."""
        loaded, method = self.loaded, self.loaded.method
        columns = {kind: Column(self.name, loaded, kind, None).describe(RULE) for kind in self.maps}
        first = next(iter(columns.values()))
        steered = set(self.maps) & set(method.steered_maps) if isinstance(method, IsSteered) else set[str]()
        return {
            "name": self.name,
            "method": first.method,
            "weights": loaded.source,
            "sha256": weights_digest(loaded),
            "task": loaded.task,
            "images": first.images,
            "normalised": first.normalisation,
            "classes": loaded.classes,
            "asksInWords": method.reads_texts,
            "maps": {kind: {"words": column.map, "steered": kind in steered} for kind, column in columns.items()},
        }

    def look(self, image: Image.Image, asked: Asked) -> Json:
        """Scores of all classes, and where it looks for one of them, or for a question; after what others asked.

        Raises:
            UsageError: it has no such map or class, no question was asked, or it cannot be steered.
            RunError: a score or a map is not finite.
        """
        with self.lock:
            return self._look(image, asked)

    def _look(self, image: Image.Image, asked: Asked) -> Json:
        column = Column(self.name, self._steered(asked), asked.map, None)
        scores = self._scores(image)
        if self.loaded.method.reads_texts:
            if not asked.question.strip():
                raise UsageError("this model is asked in words: type a question")
            sample = ImageSample("image", image, questions={asked.question: ""})
            (seen,) = ask([sample], [column], [], [self.dataset_dir], RULE)
        else:
            if asked.label is not None and asked.label >= len(self.loaded.classes):
                raise UsageError(f"this model knows {len(self.loaded.classes)} classes")
            best = [] if scores is None else [int(scores.argmax())]
            chosen = best if asked.label is None else [asked.label]
            (seen,) = predict_samples([ImageSample("image", image)], [column], chosen, RULE)
        (view,) = seen.views
        label, values = next(iter(view.maps.items()))
        return {
            "scores": None if scores is None else [round(float(score), 6) for score in scores],
            "label": label,
            "said": view.figures.get(label, ""),
            "map": map_levels(values),
            "frame": [short(value) for value in view.frame],
            "words": column.describe(RULE).map,
        }

    def _scores(self, image: Image.Image) -> NDArray[np.float32] | None:
        """Probabilities (C,) as `predict` gives them; None of a model whose task is another."""
        if self.loaded.task not in LABELLED:
            return None
        answers = score_images(self.machine, self.loaded, [image], self.accelerator)
        scores: NDArray[np.float32] = answers.scores["scores"][0]
        return scores

    def _steered(self, asked: Asked) -> Loaded:
        """The model with its prior as strong as asked, where that is asked and the map follows one."""
        method = self.loaded.method
        if asked.gain is None or not isinstance(method, IsSteered) or asked.map not in method.steered_maps:
            return self.loaded
        method.check_steered(self.loaded.model)
        own = "question" if method.reads_texts else "class"
        return replace(self.loaded, steering=Steering((), None, asked.gain, f"the {own} itself"))
