"""Statements about images: SNLI-VE (does it follow from the image?) and NLVR2 (is it true of the two images?)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record, Text, collector_paused
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import LARGEST_ANNOTATIONS, Json, parse_json, read_text, shown
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing
from attnbias.data.sets.words import word_tokenizer

ENTAILMENT = ("contradiction", "neutral", "entailment")
TRUTH = ("False", "True")
NUMBERED = ("Flickr30K_ID", "pairID", "directory")
"""Keys whose values may be whole numbers."""
NLVR2_FILES = {
    **{split: f"{split}.json" for split in ("train", "dev", "test1")},
    **{
        f"{kind}_{split}": f"{kind}/{kind}_{split}.json"
        for kind in ("balanced", "unbalanced")
        for split in ("dev", "test1")
    },
}
"""Split -> its file below nlvr2/data/; the last four are parts of dev and test1."""


@collector_paused()
def read_snli_ve(annotation_file: Path, images: str, root: Path, split: str) -> Index:
    """Read one of SNLI-VE's files in its order; the text is the hypothesis alone, for the image is the premise.

    Args:
        annotation_file: snli_ve_train.jsonl, snli_ve_dev.jsonl or snli_ve_test.jsonl.
        images: folder of Flickr30k's images, below `root`.

    Raises:
        DataError: the file is missing or damaged, or a label is none of the three.
    """
    label_of = {name: label for label, name in enumerate(ENTAILMENT)}
    records = [
        Record(
            f"{images}/{row['Flickr30K_ID']}.jpg",
            label_of[row["gold_label"]],
            text=Text(row["sentence2"], identifier=row.get("pairID")),
        )
        for row in _lines(annotation_file, ("Flickr30K_ID", "sentence2", "gold_label"), ENTAILMENT, "gold_label")
    ]
    return Index("snli-ve", split, "snli-ve", ENTAILMENT, root, tuple(records))


@collector_paused()
def read_nlvr2(annotation_file: Path, root: Path, split: str) -> Index:
    """Read one of NLVR2's files in its order: `path` is the left image, `text.second_path` the right one.

    Args:
        annotation_file: train.json, dev.json, test1.json, or a balanced or unbalanced part: a JSON object a line.
        root: holds train/0/ to train/99/, dev/ and test1/, any of them perhaps below images/.

    Raises:
        DataError: the file is missing or damaged, or a label is neither True nor False.
    """
    folders: dict[str, str] = {}
    keys = ("identifier", "sentence", "label", *(("directory",) if split == "train" else ()))
    records = []
    for row in _lines(annotation_file, keys, TRUTH, "label"):
        pair = row["identifier"].rpartition("-")[0]
        if not pair:
            raise DataError(f"{annotation_file}: identifier {shown(row['identifier'])} is not PAIR-NUMBER")
        kind = pair.partition("-")[0]
        if kind not in folders:
            folders[kind] = f"images/{kind}" if (root / "images" / kind).is_dir() else kind
        stem = f"{folders[kind]}/{row['directory']}/{pair}" if split == "train" else f"{folders[kind]}/{pair}"
        text = Text(row["sentence"], second_path=f"{stem}-img1.png", identifier=row["identifier"])
        records.append(Record(f"{stem}-img0.png", TRUTH.index(row["label"]), text=text))
    return Index("nlvr2", split, "nlvr2", TRUTH, root, tuple(records))


def prepare_snli_ve(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read snli_ve_{train,dev,test}.jsonl over Flickr30k's images."""
    images = first_existing([source / name for name in ("flickr30k-images", "Flickr30K/images", "flickr30k_images")])
    files = {split: source / f"snli_ve_{split}.jsonl" for split in info.splits}
    if images is None or not any(path.is_file() for path in files.values()):
        raise DataError(f"{source} holds no SNLI-VE; expected {info.layout}")
    options.progress(f"reading {source.name}", 0, 1)
    location = images.relative_to(source).as_posix()
    return _reading(
        info, [read_snli_ve(path, location, source, split) for split, path in files.items() if path.is_file()]
    )


def prepare_nlvr2(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the files of nlvr2/data/ over the images."""
    folder = first_existing([source / location for location in ("nlvr2/data", "nlvr/nlvr2/data", "data")]) or source
    files = {split: folder / file for split, file in NLVR2_FILES.items()}
    if not any(path.is_file() for path in files.values()):
        raise DataError(f"{source} holds no NLVR2; expected {info.layout}")
    options.progress(f"reading {source.name}", 0, 1)
    return _reading(info, [read_nlvr2(path, source, split) for split, path in files.items() if path.is_file()])


def _reading(info: DatasetInfo, indexes: list[Index]) -> Reading:
    words = word_tokenizer(record.text.sentence for record in indexes[0].records if record.text)
    return Reading(indexes, check_counts(info, indexes), files=words)


def _lines(path: Path, keys: tuple[str, ...], labels: tuple[str, ...], label: str) -> Iterator[Json]:
    """The JSON object on each line of a file, checked to hold the keys and one of the labels."""
    try:
        lines = read_text(path, LARGEST_ANNOTATIONS).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"annotation file {path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: no JSON object ({error}); is the file cut short?") from None
        if not isinstance(row, dict) or not set(keys) <= set(row):
            raise DataError(f"{path}:{number}: expected a JSON object with {', '.join(keys)}")
        for key in (*keys, "pairID"):
            if type(row.get(key, "")) not in ((str, int) if key in NUMBERED else (str,)):
                raise DataError(f"{path}:{number}: {key} is {shown(row[key])}, expected a text")
        if row[label] not in labels:
            raise DataError(f"{path}:{number}: {label} is {shown(row[label])}, expected one of {', '.join(labels)}")
        yield row
