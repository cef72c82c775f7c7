"""A model that answers in the classes of its dataset, where it was trained on others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbias.data.class_matching import match_by_file, match_by_name
from attnbias.data.errors import DataError
from attnbias.data.fingerprint import class_difference
from attnbias.data.registry import open_split
from attnbias.data.sets.imagenet import readable
from attnbias.methods.engine.abilities import AnswersAs
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.types import LABELLED

LOG = logging.getLogger(__name__)


def in_classes_of_datasets(models: Sequence[Loaded], class_map: Path | None, data_root: Path | None) -> list[Loaded]:
    """The same models, whose answers are told as classes of their recipes' datasets: as a file says, else by equal
    names.

    Beside others, one that answers in the dataset's classes already has no need of the file. A model comes back as it
    is where it has these classes, where no name is equal, or where the dataset is not prepared: `open_split_of` then
    says what is wrong. What was matched, and what was not, is said.

    Raises:
        UsageError: a file is given, and none of the models takes one.
        DataError: the file does not fit a model, or is given and the dataset is not prepared.
    """
    matching = [loaded.method.matches_classes for loaded in models]
    if class_map is not None and not any(matching):
        raise UsageError(f"--class-map is for plain classifiers, not for '{models[0].method.name}'; leave it out")
    found = []
    for loaded, matches in zip(models, matching, strict=True):
        found.append(
            _in_classes_of_its_dataset(loaded, class_map, data_root, alone=len(models) == 1) if matches else loaded
        )
    return found


def _in_classes_of_its_dataset(
    loaded: Loaded, class_map: Path | None, data_root: Path | None, *, alone: bool
) -> Loaded:
    assert isinstance(loaded.method, AnswersAs)
    try:
        index = open_split(loaded.recipe.dataset, "val", data_root)
    except DataError:
        if class_map is not None:
            raise
        return loaded
    if index.task not in LABELLED:
        return loaded
    same = not class_difference(readable(loaded.classes), readable(index.classes))
    if same and (class_map is None or not alone):
        if class_map is not None:
            LOG.warning("%s answers in the dataset's classes; %s is not for it", loaded.source, class_map)
        return loaded
    if class_map is not None:
        try:
            match = match_by_file(class_map, loaded.classes, index.classes)
        except DataError as error:
            raise DataError(f"{error} ({loaded.source})") from None
    else:
        match = match_by_name(loaded.classes, index.classes)
        if not any(match.members):
            return loaded
    for line in match.lines():
        LOG.warning("%s", line)
    model = loaded.method.answer_as(loaded.model, match.members)
    return replace(loaded, model=model, classes=index.classes, task=index.task, match=match)
