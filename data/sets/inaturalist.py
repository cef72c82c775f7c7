"""iNaturalist 2018 and 2019: COCO-like annotation files joined on the image id, species as classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attnbias.data.errors import DataError
from attnbias.data.index import Index, Record
from attnbias.data.info import DatasetInfo
from attnbias.data.reading import LARGEST_ANNOTATIONS, Json, Unfit, check_entries, in_words, read_json, whole_number
from attnbias.data.sets.contract import PrepareOptions, Reading, check_counts, chosen_settings

LEVELS = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")
"""Keys of categories.json, from the widest group to the species."""


def read_inaturalist(
    root: Path, split: str, *, level: str | None = None, dataset: str = "inat2018", year: int = 2018
) -> Index:
    """Read one split: one record an image, in the order of SPLIT2018.json.

    Without `level`, the class of an image is its category id, as in LLB. With it, classes are the groups of that level
    in the order of their first appearance in the training annotations, and an image's category is its folder's name,
    as in AbSViT (DeiT's loader). Annotations are joined on image_id; the published programs rely on their order. A
    split without annotations, such as the challenge's test, has class -1.

    Args:
        root: the folder with train2018.json, val2018.json, for a level categories.json, and the images' folder. The
            images may also stand without their super-category: train_val2018/CATEGORY/.
        level: one of `LEVELS`.

    Raises:
        DataError: a file is missing or damaged, or annotations, images and folders contradict each other.
    """
    path = root / f"{split}{year}.json"
    content = _load(path)
    try:
        images = check_entries(content["images"], "images", id=(int,), file_name=(str,))
        category_of = _join(content, path)
        if level is None:
            names = _names(root, content, category_of)
            label_of = {category: category for category in range(len(names))}
        else:
            names, label_of = _groups(root, level, year)
            category_of = _folder_categories(images, category_of, path)
        placed = _placed(root, images)
        records = tuple(
            Record(placed(image["file_name"]), _label(image["id"], category_of, label_of), image_id=image["id"])
            for image in images
        )
    except Unfit as error:
        raise DataError(f"{path} is not an iNaturalist file: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is not an iNaturalist file, or a part of it is missing: {type(error).__name__} {error}"
        ) from None
    return Index(dataset, split, "singlelabel", names, root, records)


def prepare(info: DatasetInfo, source: Path, folder: Path, options: PrepareOptions) -> Reading:
    """Read the training and the validation split of the year in the set's name."""
    year, settings = int(info.name.removeprefix("inat")), chosen_settings(info, options)
    indexes = []
    for done, split in enumerate(info.splits):
        options.progress(f"reading {split}{year}.json", done, len(info.splits))
        indexes.append(read_inaturalist(source, split, level=settings.get("level"), dataset=info.name, year=year))
    return Reading(indexes, check_counts(info, indexes), settings)


def _join(content: Json, path: Path) -> dict[int, int]:
    """Image id -> category id; each image must have one annotation where the file has any."""
    annotations = content.get("annotations") or []
    check_entries(annotations, "annotations", image_id=(int,), category_id=(int, str))
    category_of = {annotation["image_id"]: whole_number(str(annotation["category_id"])) for annotation in annotations}
    if len(category_of) != len(annotations):
        raise DataError(f"{path}: {len(annotations) - len(category_of)} images have more than one annotation")
    if annotations and (missing := [image["id"] for image in content["images"] if image["id"] not in category_of]):
        raise DataError(f"{path}: {len(missing)} images have no annotation (id {missing[0]})")
    return category_of


def _names(root: Path, content: Json, category_of: Mapping[int, int]) -> tuple[str, ...]:
    """Species by category id, from categories.json or the file's own list; numbers where neither is there."""
    listed = _load(root / "categories.json") if (root / "categories.json").is_file() else content.get("categories", ())
    check_entries(listed or [], "categories", id=(int, str), name=(int, str))
    name_of = {whole_number(str(category["id"])): str(category["name"]) for category in listed}
    count = 1 + max([*name_of, *category_of.values()], default=-1)
    return tuple(name_of.get(category, str(category)) for category in range(count))


def _groups(root: Path, level: str, year: int) -> tuple[tuple[str, ...], dict[int, int]]:
    """Classes of a taxonomic level, and category id -> class."""
    if level not in LEVELS:
        raise DataError(f"'{level}' is not a taxonomic level; one of: {', '.join(LEVELS)}")
    categories = check_entries(_load(root / "categories.json"), "categories", id=(int, str), **{level: (int, str)})
    group_of = {whole_number(str(category["id"])): str(category[level]) for category in categories}
    annotations = check_entries(_load(root / f"train{year}.json")["annotations"], "annotations", category_id=(int, str))
    seen = [group_of[whole_number(str(annotation["category_id"]))] for annotation in annotations]
    number = {group: label for label, group in enumerate(dict.fromkeys(seen))}
    return tuple(number), {category: number[group] for category, group in group_of.items() if group in number}


def _folder_categories(images: Sequence[Json], category_of: Mapping[int, int], path: Path) -> dict[int, int]:
    """Image id -> the category its folder is named after, checked against the annotation where it has one."""
    folders = {image["id"]: whole_number(PurePosixPath(image["file_name"]).parts[2]) for image in images}
    wrong = [image for image, category in category_of.items() if image in folders and folders[image] != category]
    if wrong:
        raise DataError(f"{path}: {len(wrong)} images stand in another category's folder (id {wrong[0]})")
    return folders


def _label(image: int, category_of: Mapping[int, int], label_of: Mapping[int, int]) -> int:
    return label_of[category_of[image]] if category_of else -1


def _placed(root: Path, images: Sequence[Json]) -> Callable[[str], str]:
    """How a file_name becomes a path below root: as it is, or without its super-category where the tree does not have
    those."""
    parts = PurePosixPath(images[0]["file_name"]).parts if images else ()
    if len(parts) == 4 and not (root / parts[0] / parts[1]).is_dir() and (root / parts[0] / parts[2]).is_dir():
        return lambda name: "/".join(part for i, part in enumerate(name.split("/")) if i != 1)
    return lambda name: name


def _load(path: Path) -> Any:
    try:
        return read_json(path, LARGEST_ANNOTATIONS)
    except OSError as error:
        raise DataError(f"annotation file {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"annotation file {path} is not a JSON, or cut short ({in_words(error)})") from None
