"""Objects that texts name: what the attention of a model that is asked in words is held against.

Questions and captions about COCO's images come without objects, which COCO's own annotation file has. A text names an
object where it holds the name of its category, in the singular or in the plural; nothing is guessed beyond that: of
"what is the man holding" no category is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.language import LanguageDataset
from attnbias.data.sets.coco import read_coco
from attnbias.methods.engine.abilities import ReadsTexts
from attnbias.methods.engine.batches import moved
from attnbias.methods.engine.bias.objects import ObjectBatch, resolve_truth
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.evaluate import Evaluation
from attnbias.methods.engine.evaluation.probe import Content
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.types import Batch

IRREGULAR = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "child": "children"}
"""Plurals of names, or of their last words, that no rule gives."""


class Names:
    """The names of categories, as texts may hold them."""

    def __init__(self, categories: Sequence[str]) -> None:
        # The longest first, whose words then name nothing else: a hot dog is not a dog.
        order = sorted(range(len(categories)), key=lambda label: (-len(categories[label]), label))
        self._patterns = [(label, re.compile(rf"\b(?:{'|'.join(_forms(categories[label]))})\b")) for label in order]

    def found_in(self, text: str) -> list[int]:
        """The categories whose names a text holds, as whole words of any case, in ascending order."""
        rest, found = " ".join(text.lower().split()), []
        for label, pattern in self._patterns:
            rest, count = pattern.subn("|", rest)
            if count:
                found.append(label)
        return sorted(found)


def _forms(category: str) -> Iterator[str]:
    """The singular and the plural of a name, as patterns."""
    name = " ".join(category.lower().split())
    first, last = name[: name.rfind(" ") + 1], name[name.rfind(" ") + 1 :]
    if last in IRREGULAR:
        plural = IRREGULAR[last]
    elif re.search(r"[^aeiou]y$", last):
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}es" if re.search(r"(s|x|z|ch|sh)$", last) else f"{last}s"
    yield from map(re.escape, (first + plural, name))


@dataclass(frozen=True)
class AskedObjects:
    """The texts of a split that name an object of their image, as samples of their own."""

    dataset: ImageDataset
    """A sample a text; its classes are the categories that it names and its image has."""
    right: dict[int, NDArray[np.bool_]]
    """For each text, whether the model answers it rightly (`_answered`), once a category (C,)."""
    images: list[int]
    """A number of the image of each text, which many may share: the images are what an interval counts."""
    sentences: list[str]
    texts: LanguageDataset
    """The split that they are of."""
    source: str
    """The name of the annotation file."""
    counts: dict[str, int]
    """Of texts: all that were scored, those that name a category, and those whose image has it."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """The positions of all samples."""
        return np.arange(len(self.dataset), dtype=np.int64)

    def maps(self, loaded: Loaded, kind: str, batch: ObjectBatch) -> np.ndarray:
        """Where the model looks for the text of each sample, (N, h, w): one map for all that a text names."""
        assert isinstance(loaded.method, ReadsTexts)
        ids, mask = self.texts.encode([self.sentences[sample.image] for sample in batch.samples])
        images = batch.images[torch.tensor([sample.slot for sample in batch.samples], device=batch.images.device)]
        asked: Batch = {"image": images, "text_ids": ids, "text_mask": mask}
        found = loaded.method.text_attention(loaded.model, moved(asked, images.device), kind=kind)
        return found.float().cpu().numpy()

    def content(self) -> Content:
        """What a file that is written says of it."""
        return {"objects": self.source, **self.counts}


def words_of_asked(content: Content) -> str:
    """How texts and objects were matched, and how often, in words."""
    return (
        f"attention: objects are those of {content['objects']}; {content['with_object']:,} of {content['texts']:,} "
        "texts name a category that their image has, in the singular or plural "
        f"({content['with_category']:,} name any); the others are not measured"
    )


def check_asked(request: ValRequest, loaded: Loaded, dataset: LanguageDataset) -> None:
    """Look whether the attention of a model that is asked in words can be held against objects.

    Raises:
        UsageError: no file of objects is named, a text is about two images, or a prior takes the text's place.
        DataError: the file cannot be read, or is of other images.
    """
    if loaded.task == "nlvr2":
        raise UsageError("--bias: a statement of nlvr2 is about two images; only texts about one have a map")
    if request.objects is None:
        raise UsageError(
            f"--bias: texts of '{dataset.index.dataset}' come without objects; add --objects FILE, the COCO "
            "annotations of their images, such as instances_val2014.json"
        )
    if loaded.steering is not None:
        raise UsageError("--bias: a text says itself what is looked for; leave --prior and --gain out")
    resolve_truth(ImageDataset(_with_objects(dataset, request.objects), dataset.transform), request.truth)


def asked_objects(dataset: LanguageDataset, file: Path, evaluation: Evaluation) -> AskedObjects:
    """The texts of the images that were scored, beside the objects that they name.

    Raises:
        DataError: as `check_asked`, or no text names an object of its image.
    """
    objects, right = _with_objects(dataset, file), _answered(dataset, evaluation)
    names = Names(objects.classes)
    counts = dict.fromkeys(("texts", "with_category", "with_object"), 0)
    kept: list[tuple[Record, str, bool]] = []
    for position, (record, pair) in enumerate(zip(objects.records, dataset.pairs, strict=True)):
        if position not in right:
            continue
        sentence = dataset.sentence(pair)
        named = names.found_in(sentence)
        present = {label for label in named if _has(record, label)}
        counts["texts"] += 1
        counts["with_category"] += bool(named)
        counts["with_object"] += bool(present)
        if present:
            target = tuple(int(label in present) for label in range(len(objects.classes)))
            kept.append((record._replace(target=target), sentence, right[position]))
    if not kept:
        raise DataError(
            f"--objects: of {counts['texts']:,} texts of {dataset.index.dataset}/{dataset.index.split} none names a "
            f"category of {file.name} that its image has"
        )
    records, sentences, answered = zip(*kept, strict=True)
    number: dict[str, int] = {}
    return AskedObjects(
        ImageDataset(replace(objects, records=records), dataset.transform, on_bad_image=dataset.on_bad_image),
        {k: np.full(len(objects.classes), rightly) for k, rightly in enumerate(answered)},
        [number.setdefault(record.path, len(number)) for record in records],
        list(sentences),
        *(dataset, file.name, counts),
    )


def _has(record: Record, label: int) -> bool:
    """Whether an image has a category: crowds alone are no object."""
    return any(box.label == label and not box.crowd for box in record.boxes)


def _with_objects(dataset: LanguageDataset, file: Path) -> Index:
    """The images of a split's texts, one record a text, with the objects that a COCO file has of them.

    Raises:
        DataError: the file cannot be read, or lists none of the images.
    """
    index = dataset.index
    known = read_coco(file, index.root, dataset=index.dataset, split=index.split)
    by_name = {Path(record.path).name: record for record in known.records}
    nothing = Record("", (0,) * len(known.classes))
    records = tuple(by_name.get(Path(pair.path).name, nothing)._replace(path=pair.path) for pair in dataset.pairs)
    if all(record.image_id is None for record in records):
        raise DataError(
            f"--objects: {file} lists none of the images of {index.dataset}/{index.split} "
            f"({Path(records[0].path).name}); expected COCO annotations of the same images"
        )
    return replace(known, records=records, orientation=index.orientation)


def _answered(dataset: LanguageDataset, evaluation: Evaluation) -> dict[int, bool]:
    """Of each text whose image was scored, by its position: whether the answer is worth half of what it can earn, is
    the right one, or whether its image ranks first."""
    ids, targets, task = evaluation.ids.tolist(), evaluation.targets, dataset.index.task
    if task == "retrieval":
        fit, rows = evaluation.scores["fit"], {sample: row for row, sample in enumerate(ids)}
        owners = dataset.captions().images.tolist()
        first = fit.argmax(0)
        return {text: bool(first[text] == rows[owner]) for text, owner in enumerate(owners) if owner in rows}
    right = targets >= 0.5 if task == "vqa" else evaluation.scores["scores"].argmax(1) == targets
    return dict(zip(ids, right.tolist(), strict=True))
