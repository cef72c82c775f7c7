"""A model that answers in the classes of its dataset, where it was trained on others."""

from __future__ import annotations

import logging
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

LOG = logging.getLogger(__name__)


def in_classes_of_its_dataset(loaded: Loaded, class_map: Path | None, data_root: Path | None) -> Loaded:
    """The same model, whose answers are told as classes of the recipe's dataset: as a file says, else by equal names.

    It comes back as it is where it has these classes, where no name is equal, or where the dataset is not prepared:
    `open_split_of` then says what is wrong. What was matched, and what was not, is said.

    Raises:
        UsageError: a file is given, and the method answers in its own classes only.
        DataError: the file does not fit, or is given and the dataset is not prepared.
    """
    if not isinstance(loaded.method, AnswersAs):
        if class_map is not None:
            raise UsageError(f"--class-map is for plain classifiers; '{loaded.method.name}' answers in its own classes")
        return loaded
    try:
        index = open_split(loaded.recipe.dataset, "val", data_root)
    except DataError:
        if class_map is not None:
            raise
        return loaded
    if index.task not in ("multilabel", "singlelabel"):
        return loaded
    if class_map is not None:
        match = match_by_file(class_map, loaded.classes, index.classes)
    elif not class_difference(readable(loaded.classes), readable(index.classes)):
        return loaded
    else:
        match = match_by_name(loaded.classes, index.classes)
        if not any(match.members):
            return loaded
    for line in match.lines():
        LOG.warning("%s", line)
    model = loaded.method.answer_as(loaded.model, match.members)
    return replace(loaded, model=model, classes=index.classes, task=index.task, match=match)
