"""A trained or published model in memory: `load` it, then ask what it sees (`predict`) and where it looks
(`attention`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbias.data.errors import DataError
from attnbias.data.questions import Question
from attnbias.data.registry import dataset_folder
from attnbias.data.transforms.basic import Transform
from attnbias.methods import TASKS
from attnbias.methods.engine.abilities import IsSteered, LabelsPixels, ReadsTexts
from attnbias.methods.engine.display.inference import Column, ImageSample, place_input, predict_samples
from attnbias.methods.engine.display.inference import Prediction as Seen
from attnbias.methods.engine.display.questions import ask
from attnbias.methods.engine.display.visualize import BATCH
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.given_images import GivenImage, Images, OneImage, SeveralImages, given_images, is_one
from attnbias.methods.engine.launch import accelerate, place, start
from attnbias.methods.engine.load import Loaded, check_recipe_helps, class_numbers, load_asked, owner
from attnbias.methods.engine.make_priors import text_priors
from attnbias.methods.engine.maps import checked, fitting_explainers, normalise
from attnbias.methods.engine.own_images import in_memory, path_of
from attnbias.methods.engine.prediction.answering import best_answers, fit_of_text
from attnbias.methods.engine.prediction.predict import score_images
from attnbias.methods.engine.prior_files import ENDING, Priors, read_priors
from attnbias.methods.engine.priors import say_other_weights
from attnbias.methods.engine.recipe import Recipe
from attnbias.methods.engine.registry import get_description, method_and_fields
from attnbias.methods.engine.requests import LoadRequest, Machine, OfAnyMethod, PredictRequest, split_options
from attnbias.methods.engine.stored import stored_method
from attnbias.methods.engine.types import Fields
from attnbias.results import AttentionMaps, MapsOfImages, Prediction, Predictions

Normalisation = Literal["minmax", "max"]
Classes = str | int | np.integer | Sequence[str | int | np.integer] | NDArray[np.integer]
"""One or several, by name or number."""
Questions = list[str] | tuple[str, ...]
"""Several."""
Prior = Classes | NDArray[np.generic] | Tensor | Priors | os.PathLike[str]
"""What a second pass looks for: classes or texts, vectors, or a prior file."""


def load(
    source: str | os.PathLike[str],
    *,
    method: str | None = None,
    recipe: str | None = None,
    weights: Literal["raw", "ema"] | None = None,
    device: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    trust_checkpoint: bool = False,
    **fields: object,
) -> Model:
    """Load a model for evaluation, as `attnbias val --load-from` does.

    Args:
        source: a run folder (its best checkpoint), a checkpoint folder, a .safetensors file of ours, a file that a
            paper's authors published, a name of `list_weights()`, a URL, hf://ORGANISATION/REPOSITORY/FILE;
            timm:NAME or torchvision:NAME is a classifier as its library publishes it.
        method: whose it is, where the weights do not say. `task=...` picks one of a paper's tasks.
        recipe: a named recipe for what a published file does not tell.
        weights: raw or averaged ones; None = those of the best metric.
        device: cpu, cuda, cuda:1 ...; None = cuda if there is one.
        data_root: where prepared datasets stand; None = $ATTNBIAS_DATA or ./datasets.
        trust_checkpoint: read pickles that may run code.
        fields: fields of the recipe that go before what the weights say, such as `image_size=448`.

    Raises:
        UsageError: a name is unknown, or a field contradicts the weights.
        WeightsError: the weights are missing, damaged or do not fit.
    """
    path = os.fspath(source)
    name, fields = method_of(path, method, fields, trust=trust_checkpoint)
    _, fields = split_options("load", LoadRequest, get_description(name), fields, own=LoadRequest.model_fields)
    request = LoadRequest.of(
        {
            "load_from": path,
            "method": name,
            "recipe": recipe,
            "weights": weights,
            "data_root": data_root,
            "trust_checkpoint": trust_checkpoint,
            "fields": fields,
        }
    )
    where = start(place(Machine.of({"device": device})))
    loaded = load_asked(request, name, path, where)
    check_recipe_helps(recipe, [loaded])
    return Model(loaded, path, request.data_root)


def method_of(source: str, method: str | None, fields: Fields, *, trust: object) -> tuple[str, Fields]:
    """The method of weights, by the task that was asked for, by what they say, else by names and shapes; and the fields
    beside that task."""
    if method is None:
        return owner(OfAnyMethod.of({"load_from": source, "trust_checkpoint": trust})), fields
    name, fields = method_and_fields(method, fields)
    stored = stored_method(Path(source))
    return (stored if stored is not None and stored in TASKS.get(name, {}).values() else name), fields


@dataclass(frozen=True, eq=False)
class Model:
    """A model, and all that its answers depend on. `load` makes it."""

    loaded: Loaded
    """As the engine holds it."""
    load_from: str
    """What it was loaded from."""
    data_root: Path | None = None
    """Where prepared datasets stand; None = $ATTNBIAS_DATA or ./datasets."""

    @property
    def module(self) -> nn.Module:
        """The network, in evaluation mode: normalised images (B, 3, H, W) -> logits (B, C)."""
        return self.loaded.model

    @property
    def transform(self) -> Transform:
        """PIL image -> normalised float tensor (3, H, W): the recipe's evaluation pipeline."""
        return self.loaded.method.transform(self.loaded.recipe, train=False)

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.loaded.method.name

    @property
    def task(self) -> str:
        """multilabel, singlelabel, segmentation ..."""
        return self.loaded.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its scores."""
        return self.loaded.classes

    @property
    def recipe(self) -> Recipe:
        """What it was trained by, as far as that is known."""
        return self.loaded.recipe

    @property
    def maps(self) -> tuple[str, ...]:
        """The kinds of map that `attention` gives, the default first."""
        method = self.loaded.method
        explainers = () if method.reads_texts else fitting_explainers(method, self.module)
        return tuple(dict.fromkeys((method.default_map(self.recipe), *method.maps, *explainers)))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """The model on another device; the network itself moves."""
        self.module.to(device)
        return self

    @overload
    def predict(
        self,
        images: OneImage,
        questions: str | None = ...,
        *,
        second: OneImage | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        on_bad_image: Literal["error", "skip"] = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        images: SeveralImages,
        questions: str | Questions | None = ...,
        *,
        second: SeveralImages | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        on_bad_image: Literal["error", "skip"] = ...,
    ) -> Predictions: ...
    @overload
    def predict(
        self,
        images: OneImage,
        questions: Questions,
        *,
        second: OneImage | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        on_bad_image: Literal["error", "skip"] = ...,
    ) -> Predictions: ...
    def predict(
        self,
        images: Images,
        questions: str | Questions | None = None,
        *,
        second: Images | None = None,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> Prediction | Predictions:
        """Score images, as `attnbias predict` does: their classes, the class of each pixel, or answers about them.

        Args:
            images: a path; a PIL image; an array (H, W, 3) or a tensor (3, H, W), RGB, as uint8 or as floats within
                0..1, before any normalisation. A list of these, a folder, an array (B, H, W, 3) or a tensor
                (B, 3, H, W) gives `Predictions`. Files and PIL images are turned upright as their EXIF orientation
                says; all go through the recipe's own resize, crop and normalisation.
            questions: of a model that is asked in words, what each image is asked: a question, a hypothesis, a
                statement, or of retrieval a text that images fit more or less. Several give `Predictions`, those of
                an image side by side.
            second: of a statement about two images, the right one of each pair.
            batch_size: images at once (pixels are labelled image by image).
            workers: processes that read images.
            on_bad_image: an unreadable image: stop, or leave it out (`skipped` says so).

        Raises:
            UsageError: something is not an image, or the model is asked in words and no question is given, or the
                other way round.
            DataError: an image cannot be read.
        """
        given = given_images(images)
        pairs = [None] * len(given) if second is None else given_images(second)
        texts = [questions] if isinstance(questions, str) else list(questions or ())
        self._check_asked(texts, second is not None, len(given), len(pairs))
        asked = {"eval_batch_size": batch_size, "workers": workers, "on_bad_image": on_bad_image}
        model = {"load_from": self.load_from, "device": str(self.device), "data_root": self.data_root}
        request = place(PredictRequest.of({**asked, **model, "paths": []}))
        if isinstance(self.loaded.method, LabelsPixels):
            found = self._labelled(given, on_bad_image)
        elif texts:
            found = self._answered(request, given, pairs, texts)
        else:
            found = self._classified(request, given)
        return found[0] if is_one(images) and (questions is None or isinstance(questions, str)) else found

    def _check_asked(self, texts: Sequence[str], two: bool, images: int, pairs: int) -> None:
        """Refuse what such a model is not asked.

        Raises:
            UsageError: see above.
        """
        in_words = isinstance(self.loaded.method, ReadsTexts)
        if in_words and not texts:
            raise UsageError(f"method '{self.method}' is asked in words: predict(image, 'what is on the table?')")
        if texts and not in_words:
            raise UsageError(f"questions are for models that are asked in words, and {self.loaded.source} is not")
        if two != (self.task == "nlvr2"):
            raise UsageError(
                "a statement of nlvr2 is about two images: predict(left, statement, second=right)"
                if not two
                else f"second is for statements about two images, and {self.loaded.source} is for {self.task}"
            )
        if images != pairs:
            raise UsageError(f"second has {pairs} images, expected one for each of {images}")

    def _classified(self, request: PredictRequest, given: Sequence[GivenImage]) -> Predictions:
        """The probability of each class of each image."""
        said = score_images(request, self.loaded, [image.source for image in given], accelerate(request))
        scores = said.scores["scores"]
        items = tuple(
            Prediction(given[n].name, row, self.classes, self.task, given[n].read)
            for n, row in zip(said.ids, scores, strict=True)
        )
        return Predictions(items, scores, tuple(said.skipped))

    def _labelled(self, given: Sequence[GivenImage], on_bad_image: Literal["error", "skip"]) -> Predictions:
        """The class of each pixel of each image, and how much each class has."""
        method, items, skipped = self.loaded.method, [], []
        assert isinstance(method, LabelsPixels)
        for image in given:
            try:
                pixels = np.asarray(image.read())
            except DataError as error:
                if on_bad_image == "error":
                    raise
                skipped.append(str(error))
                continue
            labels = method.label_map(self.module, pixels, self.recipe)
            shares = np.bincount(labels.ravel(), minlength=len(self.classes)).astype(np.float32) / np.float32(
                labels.size
            )
            items.append(Prediction(image.name, shares, self.classes, self.task, image.read, label_map=labels))
        if not items:
            raise DataError("no image could be read: " + "; ".join(skipped[:3]))
        return Predictions(tuple(items), np.stack([item.scores for item in items]), tuple(skipped))

    def _answered(
        self,
        request: PredictRequest,
        given: Sequence[GivenImage],
        pairs: Sequence[GivenImage | None],
        texts: Sequence[str],
    ) -> Predictions:
        """The probability of each answer to each text about each image; of retrieval, how well it fits the text."""
        accelerator, names = accelerate(request), self.classes
        if self.task == "retrieval":
            fits = [fit_of_text(request, self.loaded, [i.source for i in given], t, accelerator) for t in texts]
            scores = np.stack([fit.scores["scores"] for fit in fits], axis=1).reshape(-1, 1)
            asked = [(given[n], text) for n in fits[0].ids for text in texts]
            skipped = fits[0].skipped
        else:
            images = [*given, *(image for image in pairs if image is not None)]
            paths = [Path(path_of(image.source, position)) for position, image in enumerate(images)]
            seconds: Sequence[Path | None] = paths[len(given) :] or [None] * len(given)
            pairs_asked = [(n, text) for n in range(len(given)) for text in texts]
            named = in_memory([image.source for image in images])
            said = best_answers(
                request,
                self.loaded,
                [Question(paths[n], text, seconds[n]) for n, text in pairs_asked],
                *(accelerator, len(names), named),
            )
            scores = np.empty_like(said.scores["scores"])
            np.put_along_axis(scores, said.scores["labels"].astype(np.int64), said.scores["scores"], axis=1)
            asked = [(given[pairs_asked[k][0]], pairs_asked[k][1]) for k in said.ids]
            skipped = said.skipped
        items = tuple(
            Prediction(image.name, row, (text,) if self.task == "retrieval" else names, self.task, image.read, text)
            for (image, text), row in zip(asked, scores, strict=True)
        )
        return Predictions(items, scores, tuple(skipped))

    @overload
    def attention(
        self,
        images: OneImage,
        of: Classes | None = ...,
        *,
        map: str | None = ...,
        head: int | None = ...,
        prior: Prior | None = ...,
        gain: float | None = ...,
        normalisation: Normalisation = ...,
    ) -> AttentionMaps: ...
    @overload
    def attention(
        self,
        images: SeveralImages,
        of: Classes | None = ...,
        *,
        map: str | None = ...,
        head: int | None = ...,
        prior: Prior | None = ...,
        gain: float | None = ...,
        normalisation: Normalisation = ...,
    ) -> MapsOfImages: ...
    @torch.no_grad()
    def attention(
        self,
        images: Images,
        of: Classes | None = None,
        *,
        map: str | None = None,
        head: int | None = None,
        prior: Prior | None = None,
        gain: float | None = None,
        normalisation: Normalisation = "minmax",
    ) -> AttentionMaps | MapsOfImages:
        """Where the model looks, as `attnbias visualize` draws it.

        Args:
            images: as in `predict`; several give a list of `AttentionMaps`.
            of: classes, by name or number, None = those that it predicts in each image; of a model that is asked in
                words, one or several questions.
            map: a kind of `self.maps`; None = the first of them.
            head: one attention head, from 0, where the kind has heads; None = all together.
            prior: of a model that is steered (AbSViT), what its second pass looks for: classes; texts, of a model
                that is asked in words; vectors (C,) or (K, C) in the space of its tokens; `Priors`, or the .npz file
                that `attnbias.priors` wrote. It takes the place of `of` and `map`.
            gain: the strength of that feedback; None = the method's own (by class 40, as in the program's demo).
            normalisation: how maps are drawn: each between its own extremes, or divided by its maximum.

        Returns:
            Maps (K, h, w) of one image, with `overlay()`, `to_numpy()` and `save()`.

        Raises:
            UsageError: there is no such class, map or head, or the model cannot be steered.
            DataError: an image cannot be read. RunError: a map holds NaN or infinity.
        """
        given = given_images(images)
        if gain is not None and prior is None:
            raise UsageError("gain is the strength of a prior; say which with prior=...")
        if prior is not None and (of is not None or map is not None or head is not None):
            raise UsageError("a prior says what to look for: leave of, map and head out")
        maps = MapsOfImages()
        for begin in range(0, len(given), BATCH):
            part = [ImageSample(image.name, image.read()) for image in given[begin : begin + BATCH]]
            if prior is not None:
                maps += self._steered(part, prior, gain, normalisation)
            else:
                maps += self._looked(part, of, map, head, normalisation)
        return maps[0] if is_one(images) else maps

    def _looked(
        self,
        samples: list[ImageSample],
        of: Classes | None,
        kind: str | None,
        head: int | None,
        rule: str,
    ) -> list[AttentionMaps]:
        column = Column(self.method, self.loaded, kind or self.maps[0], head)
        words = [] if of is None else listed(of)
        names: Sequence[str]
        if isinstance(self.loaded.method, ReadsTexts):
            if not words:
                raise UsageError(f"method '{self.method}' is asked in words: attention(image, 'what is on the table?')")
            questions = dict.fromkeys(map(str, words), "")
            texts: list[str] = []
            folder = dataset_folder(self.recipe.dataset, self.data_root)
            found = ask([replace(one, questions=questions) for one in samples], [column], texts, [folder], rule)
            names = texts
        else:
            names, asked = self.classes, class_numbers(words, self.classes)
            found = predict_samples(samples, [column], asked, rule)
        return [_maps(sample, seen, names, column.kind) for sample, seen in zip(samples, found, strict=True)]

    def _steered(self, samples: list[ImageSample], prior: Prior, gain: float | None, rule: str) -> list[AttentionMaps]:
        method = self.loaded.method
        if not isinstance(method, IsSteered):
            raise UsageError(f"method '{self.method}' is not steered by a prior; leave prior out")
        method.check_steered(self.module)
        names, priors = self._priors(prior)
        kind = method.steered_maps[0]
        placed = [place_input(self.transform, sample.image) for sample in samples]
        inputs = torch.stack([image for image, _ in placed]).to(self.device)
        strength = method.default_gain(self.module) if gain is None else gain
        maps = checked(method.steered(self.module, inputs, priors, strength))
        values, drawn = maps.cpu().numpy(), normalise(maps, rule).cpu().numpy()
        nothing = (None,) * len(names)
        return [
            AttentionMaps(sample.name, names, values[n], drawn[n], nothing, kind, sample.image, placed[n][1])
            for n, sample in enumerate(samples)
        ]

    def _priors(self, prior: Prior) -> tuple[tuple[str, ...], Tensor]:
        """Names of priors, and the priors: classes (K,) int64 or vectors (K, C)."""
        if isinstance(prior, os.PathLike) or (isinstance(prior, str) and prior.endswith(ENDING)):
            file = Path(prior)
            prior = read_priors(file)
            say_other_weights(file, prior, self.loaded)
        if isinstance(prior, Priors):
            return prior.names, torch.from_numpy(prior.vectors).to(self.device)
        if isinstance(prior, np.ndarray | Tensor):
            vectors = torch.as_tensor(prior).to(self.device, torch.float32)
            if vectors.ndim not in (1, 2) or not torch.isfinite(vectors).all():
                raise UsageError(f"a prior of shape {tuple(vectors.shape)}; expected finite numbers, (C,) or (K, C)")
            vectors = vectors.reshape(-1, vectors.shape[-1])
            return tuple(f"prior {number}" for number in range(len(vectors))), vectors
        if isinstance(self.loaded.method, ReadsTexts):
            texts = list(map(str, listed(prior)))
            return tuple(texts), text_priors(self.loaded, texts, self.data_root)
        numbers = class_numbers(listed(prior), self.classes)
        return tuple(self.classes[number] for number in numbers), torch.tensor(numbers)

    def __fspath__(self) -> str:
        """What it was loaded from: a model of a run stands for its folder in `compare`."""
        return self.load_from

    def __repr__(self) -> str:
        return f"Model({self.loaded.source}: {self.method}, {self.task}, {len(self.classes)} classes, {self.device})"


def listed(classes: Classes) -> list[str | int]:
    """Names and numbers, each of them Python's."""
    several = classes if isinstance(classes, list | tuple | np.ndarray) else [classes]
    return [int(each) if isinstance(each, int | np.integer) else str(each) for each in several]


def _maps(sample: ImageSample, seen: Seen, names: Sequence[str], kind: str) -> AttentionMaps:
    """What a model said of an image, as the only column."""
    (view,), (raw,) = seen.views, seen.raw
    return AttentionMaps(
        sample.name,
        tuple(names[label] for label in raw),
        np.stack(list(raw.values())),
        np.stack(list(view.maps.values())),
        tuple(view.scores.get(label) for label in raw),
        kind,
        sample.image,
        view.frame,
    )
