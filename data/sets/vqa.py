"""VQAv2: questions about COCO's images, their answers as classes with soft scores, and the splits of its programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record, Text, collector_paused
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import LARGEST_ANNOTATIONS, Json, check_entries, in_words, read_json
from attnbias.data.sets.answers import MIN_ANSWERS, answer_classes, scored_answers
from attnbias.data.sets.contract import PrepareOptions, Reading, first_existing
from attnbias.data.sets.words import word_tokenizer

IMAGES = {"train2014": "train2014", "val2014": "val2014", "test": "test2015", "test-dev": "test2015"}
"""Split -> folder of its images. The names `train` and `val` are left to the parts that splits play."""
QUESTIONS = {"train2014": "train2014", "val2014": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
"""Split -> the word in the name of its question file."""
ANSWERED = ("train2014", "val2014")
QUESTION: dict[str, tuple[type, ...]] = {"question_id": (int,), "image_id": (int,), "question": (str,)}
ANNOTATION: dict[str, tuple[type, ...]] = {
    "question_id": (int,),
    "multiple_choice_answer": (str,),
    "answers": (list,),
}
"""What the entries of each kind of file must have."""
HELD_OUT = 1000
"""Images of val2014 that `rest_val` keeps apart."""


@collector_paused()
def read_vqa(source: Path, min_answers: int = MIN_ANSWERS) -> dict[str, Index]:
    """Read the official question and annotation files of the splits that are there: one record a question.

    The classes are the majority answers of train2014, then val2014; their questions without any answer among the
    classes are left out. Records are in the order of the image ids, then of the file; the published writer shuffles
    the images without a seed.

    Args:
        source: holds v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json (or annotations/ does) and
            the images' folders (or images/ does).
        min_answers: questions of which a class must be the majority answer.

    Raises:
        DataError: neither train2014 nor val2014 is there, a file is damaged or contradicts another, or no answer is
            frequent enough.
    """
    questions = {split: path for split, name in QUESTIONS.items() if (path := _questions(source, name))}
    annotations = {split: _annotations(source, split) for split in ANSWERED if split in questions}
    if not annotations:
        raise DataError(f"{source} holds no v2_OpenEnded_mscoco_train2014_questions.json")
    entries = {split: _load(path, "annotations", **ANNOTATION) for split, path in annotations.items()}
    try:
        majority = [entry["multiple_choice_answer"] for split in entries for entry in entries[split]]
        classes = answer_classes(majority, min_answers)
        if not classes:
            raise DataError(
                f"{source}: no answer is the majority answer of {min_answers} questions; "
                "give a lower --min-answers for a small set"
            )
        label_of = {answer: label for label, answer in enumerate(classes)}
        indexes = {}
        for split, path in questions.items():
            asked = sorted(_load(path, "questions", **QUESTION), key=lambda entry: entry["image_id"])
            answers = {
                entry["question_id"]: scored_answers((person["answer"] for person in entry["answers"]), label_of)
                for entry in entries.get(split, ())
            }
            records = tuple(_record(entry, split, answers) for entry in asked)
            if split in ANSWERED:
                records = tuple(record for record in records if record.text is not None and record.text.answers)
            indexes[split] = Index("vqav2", split, "vqa", classes, _images(source), records)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{source}: the question and annotation files are damaged or do not belong together "
            f"({type(error).__name__} {error})"
        ) from None
    return indexes


def with_derived_splits(indexes: Mapping[str, Index]) -> dict[str, Index]:
    """Add what METER's program trains on while it measures on val2014: `trainval`, train2014 and val2014 together.

    And the clean choice with nearly as much: `trainable`, all but the last 1000 images, and these, `rest_val`.
    """
    if not all(split in indexes for split in ANSWERED):
        return dict(indexes)
    train, val = (indexes[split] for split in ANSWERED)
    kept, rest = hold_out(val.records)
    return {
        "trainval": replace(train, split="trainval", records=train.records + val.records),
        **indexes,
        "trainable": replace(train, split="trainable", records=train.records + kept),
        "rest_val": replace(val, split="rest_val", records=rest),
    }


def hold_out(records: tuple[Record, ...], images: int = HELD_OUT) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split the questions: those about all but the last images, and those about the last."""
    last = set(list(dict.fromkeys(record.path for record in records))[-images:])
    return (
        tuple(record for record in records if record.path not in last),
        tuple(record for record in records if record.path in last),
    )


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the official files; test splits without images are left out with a warning."""
    options.progress(f"reading {source.name}", 0, 1)
    settings = {**info.settings, **options.settings}
    indexes, warnings = read_vqa(source, settings["min_answers"]), []
    for split in [split for split in indexes if split not in ANSWERED]:
        if not (indexes[split].root / IMAGES[split]).is_dir():
            warnings.append(f"{split}: left out, there is no {IMAGES[split]}/ (--splits test --download fetches it)")
            del indexes[split]
    train = next(iter(indexes.values()))
    found = with_derived_splits(indexes)
    return Reading(
        [found[split] for split in info.splits if split in found],
        warnings,
        settings,
        word_tokenizer(record.text.sentence for record in train.records if record.text),
    )


def _record(entry: Json, split: str, answers: Mapping[int, tuple[tuple[int, float], ...]]) -> Record:
    identifier, number, folder = entry["question_id"], entry["image_id"], IMAGES[split]
    if split in ANSWERED and identifier not in answers:
        raise DataError(f"question {identifier} of {split} has no entry in the annotation file; fetch both again")
    text = Text(entry["question"], answers.get(identifier, ()), identifier=str(identifier))
    return Record(f"{folder}/COCO_{folder}_{number:012d}.jpg", 0, image_id=number, text=text)


def _questions(source: Path, name: str) -> Path | None:
    file = f"v2_OpenEnded_mscoco_{name}_questions.json"
    return first_existing([source / file, source / "annotations" / file])


def _annotations(source: Path, split: str) -> Path:
    file = f"v2_mscoco_{IMAGES[split]}_annotations.json"
    path = first_existing([source / file, source / "annotations" / file])
    if path is None:
        raise DataError(f"{source} holds the questions of {split}, but no {file}")
    return path


def _images(source: Path) -> Path:
    return source / "images" if (source / "images").is_dir() else source


def _load(path: Path, key: str, **kinds: tuple[type, ...]) -> list[Json]:
    try:
        content = read_json(path, LARGEST_ANNOTATIONS)
        entries = check_entries(content.get(key) if isinstance(content, dict) else None, key, **kinds)
        for entry in entries if "answers" in kinds else ():
            check_entries(entry["answers"], "answers", answer=(str,))
    except OSError as error:
        raise DataError(f"annotation file {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path} is not a VQA file of {key}, or cut short: {in_words(error)}") from None
    return entries
