"""Sets of captions for retrieval, one record a (image, caption) pair: Karpathy's splits, and captions of the web."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record, Text, collector_paused
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import LARGEST_ANNOTATIONS, NOTHING, Unfit, check_entries, in_words, read_json
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, first_existing
from attnbias.data.sets.words import word_tokenizer

FILES = {"flickr30k": "dataset_flickr30k.json", "coco-captions": "dataset_coco.json"}
IMAGES = {
    "flickr30k": ("flickr30k-images", "flickr30k_images", "images"),
    "coco-captions": ("train2014", "val2014", "images/train2014", "images/val2014"),
}
"""Set -> folders that its images may stand in."""
IMAGE: dict[str, tuple[type, ...]] = {
    "filename": (str,),
    "split": (str,),
    "sentences": (list,),
    "cocoid": (int, NOTHING),
}
"""What an image of Karpathy's files must have."""
NAMES = {"train": "karpathy-train", "val": "karpathy-val"}
"""Karpathy's name of a split -> ours, where they differ: `train` and `val` are the parts that splits play."""
UNITED = {
    "flickr30k": ("trainval", "karpathy-train", "karpathy-val"),
    "coco-captions": ("trainrestval", "karpathy-train", "restval"),
}
"""Set -> the split that METER's program trains on, and the two that it unites. COCO's val takes no part."""


@collector_paused()
def read_karpathy(
    annotation_file: Path, folders: Sequence[Path], root: Path, *, dataset: str = "flickr30k"
) -> dict[str, Index]:
    """Read a file of Karpathy's: a split each, images in the order of their file names, captions in that of the file.

    Args:
        annotation_file: dataset_flickr30k.json or dataset_coco.json.
        folders: where images are looked for by their names.
        root: the folder above, which record paths are relative to.

    Raises:
        DataError: the file is missing, or no such file.
    """
    folder_of = {path.name: folder for folder in folders if folder.is_dir() for path in folder.iterdir()}
    found: dict[str, list[Record]] = {}
    try:
        content = read_json(annotation_file, LARGEST_ANNOTATIONS)
        images = check_entries(content["images"], "images", **IMAGE)
        for image in sorted(images, key=lambda image: str(image["filename"])):
            name = image["filename"]
            path = (folder_of.get(name, folders[0]) / name).relative_to(root).as_posix()
            found.setdefault(image["split"], []).extend(
                Record(path, 0, image_id=image.get("cocoid"), text=Text(sentence["raw"], identifier=_id(sentence)))
                for sentence in check_entries(image["sentences"], "sentences", raw=(str,), sentid=(int, str, NOTHING))
            )
    except ValueError as error:
        raise DataError(f"{annotation_file} is damaged or no file of Karpathy's: {in_words(error)}") from None
    except (OSError, KeyError, TypeError) as error:
        raise DataError(
            f"{annotation_file} is missing, damaged or no file of Karpathy's ({type(error).__name__} {error})"
        ) from None
    return {split: Index(dataset, split, "retrieval", (), root, tuple(records)) for split, records in found.items()}


@collector_paused()
def read_annotated(annotation_file: Path, root: Path, split: str, *, dataset: str) -> Index:
    """Read a JSON list of [image's path or URL, caption]: those whose image is there, in the order of their names.

    Images that have vanished from the web are the rule in these sets, so they are passed over. Of an image's
    captions the last counts.

    Args:
        annotation_file: annot.json of SBU, train_annot.json or val_annot.json of Conceptual Captions.
        root: holds images_SPLIT/0000/ and so on, folders of images.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        pairs = read_json(annotation_file, LARGEST_ANNOTATIONS)
        if any(not isinstance(text, str) for pair in pairs for text in pair):
            raise Unfit("expected pairs of two texts")
        captions = {path.rpartition("/")[2]: caption for path, caption in pairs}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{annotation_file} is missing, damaged or no list of captions ({error})") from None
    paths = sorted((root / f"images_{split}").glob("*/*"), key=lambda path: path.name)
    records = [
        Record(path.relative_to(root).as_posix(), 0, text=Text(captions[path.name], identifier=path.name))
        for path in paths
        if path.name in captions
    ]
    return Index(dataset, split, "retrieval", (), root, tuple(records))


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read Karpathy's file of a set and add the split that METER's program trains on."""
    name = FILES[info.name]
    path = first_existing([source / name, source / "karpathy" / name, source / "annotations" / name])
    folders = [source / location for location in IMAGES[info.name] if (source / location).is_dir()]
    if path is None or not folders:
        raise DataError(f"{source} holds no {name if path is None else 'images'}; expected {info.layout}")
    options.progress(f"reading {name}", 0, 1)
    read = read_karpathy(path, folders, source, dataset=info.name)
    found = {NAMES.get(split, split): replace(index, split=NAMES.get(split, split)) for split, index in read.items()}
    united, *parts = UNITED[info.name]
    if all(part in found for part in parts):
        records = tuple(record for part in parts for record in found[part].records)
        found[united] = replace(found[parts[0]], split=united, records=records)
    indexes = [found[split] for split in info.splits if split in found]
    if not indexes:
        raise DataError(f"{path} names no known split; expected {', '.join(info.splits)}")
    files = word_tokenizer(record.text.sentence for record in indexes[0].records if record.text)
    return Reading(indexes, check_counts(info, indexes), files=files)


def _id(sentence: dict[str, object]) -> str | None:
    return str(sentence["sentid"]) if "sentid" in sentence else None


def prepare_annotated(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the files of web captions (SBU, Conceptual Captions) as the pretraining programs lay them out."""
    found = {
        split: path
        for split in info.splits
        if (path := first_existing([source / f"{split}_annot.json", source / "annot.json"])) is not None
        and (source / f"images_{split}").is_dir()
    }
    if not found:
        raise DataError(f"{source} holds no {info.title}; expected {info.layout}")
    options.progress(f"reading {source.name}", 0, 1)
    indexes = [read_annotated(path, source, split, dataset=info.name) for split, path in found.items()]
    files = word_tokenizer(record.text.sentence for record in indexes[0].records if record.text)
    return Reading(indexes, files=files)
