"""`attnbias priors`: vectors that a second pass can look for, made from a split's objects or images, or from texts.

A class's vector is the mean token of its objects (or of its images) less the mean over classes, in the space that
priors are compared with. Ours: the program's priors, the head's rows, classify the pooled token, and a patch token
resembles them only as far as pooling made it.

Shapes: N objects, K classes or texts, C channels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.abilities import IsSteered, ReadsTexts, SteeredByTexts
from attnbias.methods.engine.batches import Readers, moved, those_readable
from attnbias.methods.engine.bias.objects import regions, resolve_truth, true_labels
from attnbias.methods.engine.errors import NotFiniteError, UsageError
from attnbias.methods.engine.launch import place, start
from attnbias.methods.engine.load import Loaded, check_recipe_helps, load_asked, open_split_of, owner
from attnbias.methods.engine.output_files import PRIORS, check_targets, requested
from attnbias.methods.engine.prior_files import About, Priors
from attnbias.methods.engine.priors import fingerprint
from attnbias.methods.engine.requests import PriorsRequest
from attnbias.methods.engine.screen import counted, say
from attnbias.methods.engine.types import Truth

BATCH = 16
"""Images shown to the model at once."""


class Made(NamedTuple):
    """What was made."""

    priors: Priors
    missing: list[str]
    """Classes that the split shows nothing of."""
    skipped: list[str]
    """Why each other image could not be read."""


def make_priors(request: PriorsRequest, model: Loaded | None = None) -> Made:
    """Make vectors, and write them to `request.out`. `model` is that of `request.load_from`, if it is loaded already.

    Raises:
        UsageError: the model cannot be steered, or not so, or the file would replace another.
        DataError, WeightsError: images or weights are missing or damaged.
    """
    check_targets(requested((request.out, PRIORS)), request.reads, request.overwrite)
    request = place(request)
    device = start(request)
    loaded = model or load_asked(request, owner(request), request.load_from, device)
    check_recipe_helps(request.recipe, [loaded])
    method = loaded.method
    if not isinstance(method, IsSteered):
        raise UsageError(f"method '{method.name}' is not steered by a prior")
    method.check_steered(loaded.model)
    with request.finite_answers():
        made = _of_texts(request, loaded) if method.reads_texts else _of_classes(request, loaded, method)
        if not np.isfinite(made.priors.vectors).all():
            raise NotFiniteError("vectors hold")
    made.priors.save(request.out)
    return made


def _of_texts(request: PriorsRequest, loaded: Loaded) -> Made:
    if not request.texts:
        raise UsageError(f"method '{loaded.method.name}' is asked in words: add --text 'what to look for'")
    vectors = text_priors(loaded, list(dict.fromkeys(request.texts)), request.data_root)
    about = About(of="texts", weights=loaded.source, fingerprint=fingerprint(loaded.model))
    return Made(Priors(tuple(dict.fromkeys(request.texts)), vectors.cpu().numpy(), about), [], [])


@torch.no_grad()
def text_priors(loaded: Loaded, texts: Sequence[str], data_root: Path | None) -> Tensor:
    """What a second pass looks for where it is asked each text: (K, C)."""
    method = loaded.method
    assert isinstance(method, ReadsTexts)
    assert isinstance(method, SteeredByTexts)
    batch = method.read_texts(loaded.recipe, texts, dataset_folder(loaded.recipe.dataset, data_root))
    return method.text_priors(loaded.model, moved(batch, next(loaded.model.parameters()).device)).float()


# Of classes -----------------------------------------------------------------------------------------------------------


class VectorSums:
    """Sums over what is seen of each class, and their means."""

    def __init__(self, classes: int) -> None:
        self.tokens: Tensor | None = None
        self.covered = torch.zeros(classes, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.int64)

    def add(self, tokens: Tensor, masks: Tensor, labels: Tensor) -> None:
        """Add objects: the tokens (N, C, h, w) of their images, the share of each patch that they cover (N, h, w) or
        pixels that they do (N, H, W), and their classes (N,)."""
        cover = F.adaptive_avg_pool2d(masks.double().cpu(), (tokens.shape[-2], tokens.shape[-1]))
        sums = torch.einsum("nchw,nhw->nc", tokens.double().cpu(), cover)
        if self.tokens is None:
            self.tokens = torch.zeros(len(self.counts), tokens.shape[1], dtype=torch.float64)
        self.tokens.index_add_(0, labels, sums)
        self.covered.index_add_(0, labels, cover.sum((1, 2)))
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    @property
    def seen(self) -> list[int]:
        """Numbers of the classes that there is something of."""
        return torch.nonzero(self.covered > 0).flatten().tolist()

    def vectors(self) -> Tensor:
        """Each seen class's mean token less the mean over classes: (K, C) float32."""
        assert self.tokens is not None
        means = self.tokens[self.seen] / self.covered[self.seen, None]
        return (means - means.mean(0)).float()


class _Seen(NamedTuple):
    """An image (3, H, W), classes in it, and a mask (H, W) of each."""

    image: Tensor
    labels: list[int]
    masks: list[Tensor]


def _classes_in(dataset: ImageDataset, truth: Truth | None, position: int) -> _Seen:
    """Where classes are in an image of a split; with no truth, all over it."""
    if truth is None:
        image, labels = dataset[position]["image"], true_labels(dataset, position)
        return _Seen(image, labels, [torch.ones(image.shape[1:])] * len(labels))
    image, found, _ = regions(dataset, position, truth)
    shown = [region for region in found if region.mask.any()]
    return _Seen(image, [each.label for each in shown], [torch.from_numpy(each.mask) for each in shown])


@torch.no_grad()
def _of_classes(request: PriorsRequest, loaded: Loaded, method: IsSteered[torch.nn.Module]) -> Made:
    if request.texts:
        raise UsageError(f"--text: method '{loaded.method.name}' is asked by class; leave it out")
    index = open_split_of(loaded, request.split or "train", request.data_root)
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    of = request.made_from or ("objects" if any(record.boxes for record in dataset.records) else "images")
    truth = resolve_truth(dataset, None).kind if of == "objects" else None
    sums, skipped, device = VectorSums(len(loaded.classes)), list[str](), next(loaded.model.parameters()).device
    readers = [partial(_classes_in, dataset, truth, position) for position in range(len(dataset))[: request.limit]]
    loader = DataLoader(Readers(readers), BATCH, num_workers=request.workers or 0, collate_fn=list)
    with counted(loader, "batches") as read_batches:
        for batch in read_batches:
            seen = [each for each in those_readable(batch, request.on_bad_image, skipped) if each.labels]
            if seen:
                tokens = method.tokens(loaded.model, torch.stack([each.image for each in seen]).to(device))
                owners = torch.tensor([slot for slot, each in enumerate(seen) for _ in each.labels])
                masks = torch.stack([mask for each in seen for mask in each.masks])
                sums.add(tokens[owners.to(device)], masks, torch.tensor([n for each in seen for n in each.labels]))
    if len(sums.seen) < 2:
        raise DataError(f"{index.dataset}/{index.split} shows {len(sums.seen)} classes; priors tell classes apart")
    names = tuple(loaded.classes[number] for number in sums.seen)
    samples = dict(zip(names, sums.counts[sums.seen].tolist(), strict=True))
    about = About(
        of=of,
        weights=loaded.source,
        fingerprint=fingerprint(loaded.model),
        dataset=index.dataset,
        split=index.split,
        samples=samples,
    )
    missing = [name for name in loaded.classes if name not in samples]
    if missing:
        say(f"no vector of {len(missing)} classes that the split does not show: {', '.join(missing[:8])}", error=True)
    return Made(Priors(names, sums.vectors().numpy(), about), missing, skipped)
