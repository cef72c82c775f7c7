"""Which split trains and which one evaluates: the words that people name splits by, and a part held out by chance."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record

Part = Literal["train", "val", "test"]

WORDS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trn", "trainval", "minitrain"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "minival", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testdev", "devtest"), "test"),
}
"""What a split of that name is for. A test split chooses checkpoints only where there is no validation split."""

NEITHER = ("unlabeled", "unlabelled", "unused", "extra")
"""What a split of that name is not for: it plays no part unless a flag says so."""

ENDING = re.compile(r"(set|split|data|images)$")
"""What may stand behind such a word."""


def part_named(split: str, *, whole: bool = False) -> Part | None:
    """What the name of a split says it is for, whatever its case; None where it says nothing, or two things.

    Digits, separators and the like do not count: "Train", "train_2017" and "TrainSet" are for training. Where the whole
    name is no such word, one word in it decides ("pets-val"), unless only the `whole` name is asked for.
    """
    words = _words(split)
    name = "".join(words)
    for known in (name, ENDING.sub("", name)):
        if known in WORDS:
            return WORDS[known]
    parts = {WORDS[known] for word in words for known in (word, ENDING.sub("", word)) if known in WORDS}
    return parts.pop() if len(parts) == 1 and not whole else None


def _words(split: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", split)]


def assign_roles(splits: Sequence[str], train: str | None = None, val: str | None = None) -> dict[str, str]:
    """Decide which of the splits plays "train" and which one "val"; a single one plays both.

    Args:
        splits: their names.
        train: the split that trains, where that is known already.
        val: the split that evaluates, where that is known already.

    Returns:
        "val", and "train" where any split is for training, -> name of a split. No split plays both beside a free one.

    Raises:
        DataError: the names do not decide it; the message names the splits and the flags that do.
    """
    for flag, split in (("--train-split", train), ("--val-split", val)):
        if split is not None and split not in splits:
            raise DataError(f"{flag} {split}: no such split; found: {', '.join(splits)}")
    if len(splits) == 1:
        return {"val": splits[0], "train": splits[0]}
    if train is not None and train == val:
        raise DataError(f"split '{train}' cannot train and evaluate while others are free: {', '.join(splits)}")
    free = [split for split in splits if split not in (train, val)]
    unnamed = [split for split in free if part_named(split) is None and not set(NEITHER) & set(_words(split))]
    if train is None:
        train = _named(free, "train", "--train-split")
        if train is None and unnamed:
            train = _last_one(unnamed, splits, "--train-split")
    free = [split for split in free if split != train]
    unnamed = [split for split in unnamed if split != train]
    if val is None:
        val = _named(free, "val", "--val-split")
        if val is None:
            test = _named(free, "test", "--val-split")
            if test is not None and unnamed:
                raise _undecided([test, *unnamed], "--val-split")
            val = test or _last_one(unnamed, splits, "--val-split")
    return {"val": val} if train is None else {"val": val, "train": train}


def _named(splits: Sequence[str], part: Part, flag: str) -> str | None:
    """The split of that name, or else the one with such a word in its name."""
    for whole in (True, False):
        found = [split for split in splits if part_named(split, whole=whole) == part]
        if len(found) > 1:
            raise _undecided(found, flag)
        if found:
            return found[0]
    return None


def _last_one(unnamed: Sequence[str], splits: Sequence[str], flag: str) -> str:
    """The only split whose name says nothing, where every other one is known."""
    if len(unnamed) != 1:
        raise _undecided(splits, flag)
    return unnamed[0]


def _undecided(splits: Sequence[str], flag: str) -> DataError:
    names = ", ".join(f"'{split}'" for split in splits)
    what = "trains" if flag == "--train-split" else "evaluates"
    other = "--val-split" if flag == "--train-split" else "--train-split"
    return DataError(f"which of the splits {names} {what}? say so with {flag} NAME (and {other} NAME)")


def hold_out(index: Index, fraction: float, seed: int, names: tuple[str, str]) -> tuple[Index, Index]:
    """Divide a split in two by chance: the part that trains, and a `fraction` of its files that evaluates.

    Samples of one file stay together, and in their order. Files are shuffled and sorted by their labels, rarest first;
    of each stretch the same fraction is taken, but never the last file that training has of a label.

    Raises:
        DataError: nothing can be held out so.
    """
    samples: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, record in enumerate(index.records):
        samples[record.images].append(position)
    files = list(samples.values())
    labels = [{label for position in file for label in index.records[position].labels} for file in files]
    left = Counter(label for own in labels for label in own)
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    order.sort(key=lambda number: sorted((left[label], label) for label in labels[number]))
    held: set[int] = set()
    due = 0.5  # so that the sum is rounded, not cut off
    for number in order:
        due += fraction
        if due >= 1 and all(left[label] > 1 for label in labels[number]):
            due -= 1
            left.subtract(labels[number])
            held.update(files[number])
    if not held or len(held) == len(index.records):
        raise DataError(
            f"--val-fraction {fraction:g} divides the {len(files):,} files of split '{index.split}' into all and none; "
            "each label needs a file that trains and one that evaluates"
        )
    parts: tuple[list[Record], list[Record]] = ([], [])
    for position, record in enumerate(index.records):
        parts[position in held].append(record)
    trains, evaluates = (
        replace(index, split=name, records=tuple(part)) for name, part in zip(names, parts, strict=True)
    )
    return trains, evaluates
