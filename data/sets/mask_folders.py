"""masks/ beside a person's own images: which folder it is, and which of its files belongs to which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.index import Index
from attnbias.data.label_maps import read_label_map
from attnbias.data.splits import part_named
from attnbias.data.tally import Tally
from attnbias.data.walk import is_image, list_folder, walk_images

IMAGES, MASKS = "images", "masks"
SUFFIX = ".png"
STRAY = "mask of no image"
OTHER_KIND = "file in masks/ that is not a PNG"
LOOKED_AT = 100
"""Masks that are looked into to tell what a folder holds."""


def masks_among(folder: Path, names: Sequence[str]) -> str | None:
    """The folder of masks among the folders of a folder, which are classes or splits; None where there is none.

    It has the same folders as its neighbours, or none and nothing but PNG files of one channel: photographs are those
    of a class that is called so.
    """
    if MASKS not in names or len(names) == 1:
        return None
    inside, files = list_folder(folder / MASKS, Tally())
    images = [name for name in files if is_image(name)]
    if inside:
        return MASKS if not images and set(inside) <= set(names) - {MASKS} else None
    return MASKS if images and all(_one_channel(folder / MASKS / name) for name in images) else None


def holds_classes_with_masks(source: Path) -> bool:
    """Whether images/ holds a folder for each class, and masks/ the objects of their images, by the same folders.

    Label maps lie in the same folders; they name their classes in classes.txt, or hold several values above zero.
    """
    if not all((source / name).is_dir() for name in (IMAGES, MASKS)) or (source / "classes.txt").exists():
        return False
    folders, files = list_folder(source / IMAGES, Tally())
    classes = set(folders)
    if any(part_named(name, whole=True) for name in folders):
        below = [list_folder(source / IMAGES / name, Tally()) for name in folders]
        classes = {name for listing in below for name in listing.folders}
        files = [*files, *(name for listing in below for name in listing.files)]
    if not classes or any(is_image(name) for name in files):
        return False
    masks = [path for path in walk_images(source / MASKS, Tally()) if path.lower().endswith(SUFFIX)]
    if not any(classes & set(Path(path).parent.parts) for path in masks):
        return False
    try:
        values = [set(read_label_map(source / MASKS / path).ravel().tolist()) - {0} for path in masks[:LOOKED_AT]]
    except DataError:  # colours: no label maps
        return True
    return all(len(some) < 2 for some in values)


def find_masks(indexes: Sequence[Index], left_out: Tally) -> dict[int, Path]:
    """Masks by image id: the PNG of the same name below masks/, beside images/ or else beside the classes or splits.

    Args:
        indexes: all splits, numbered.
        left_out: gains masks of no image, and files of another kind.

    Raises:
        DataError: a mask without a folder could be that of several images.
    """
    folders: dict[Path, dict[str, Path]] = {}
    called: dict[Path, dict[str, set[Path]]] = defaultdict(lambda: defaultdict(set))
    places: list[tuple[int | None, Path, list[tuple[Path, str]]]] = []
    # Many rows may be of one image.
    paths = [list(dict.fromkeys(record.path for record in index.records)) for index in indexes]
    holding = {(index.root / path).parent for index, own in zip(indexes, paths, strict=True) for path in own}
    classes = holding.union(*(folder.parents for folder in holding))  # one called masks is not a folder of masks
    for index, own in zip(indexes, paths, strict=True):
        tried_of: dict[str, list[tuple[Path, str]]] = {}
        for below in own:
            tried_of[below] = [
                (folder, name)
                for folder, name in _places(index, below)
                if folder not in classes and _listed(folder, folders, left_out)
            ]
            for folder, _ in tried_of[below]:
                for key in _keys(Path(below).name):
                    called[folder][key].add(index.root / below)
        of_some = [record for record in index.records if tried_of[record.path]]
        places += [(record.image_id, index.root / record.path, tried_of[record.path]) for record in of_some]
    found: dict[int, Path] = {}
    for image_id, path, tried in places:
        for folder, name in tried:
            listing = folders[folder]
            by_path = [key for key in _keys(name) if key in listing]
            by_name = [key for key in _keys(path.name) if key in listing]
            if not by_path and by_name and len(alike := sorted(called[folder][by_name[0]])) > 1:
                raise DataError(
                    f"{listing[by_name[0]]} could be the mask of {len(alike):,} images, such as {alike[0]} and "
                    f"{alike[1]}; put masks below {folder} into the same folders as the images"
                )
            if image_id is not None and (keys := by_path or by_name):
                found[image_id] = listing[keys[0]]
                break
    used = set(found.values())
    left_out.add(STRAY, *(str(path) for listing in folders.values() for path in listing.values() if path not in used))
    return found


def numbered(indexes: Sequence[Index]) -> list[Index]:
    """The same splits with image ids, counted through all of them."""
    ids = count(1)
    return [replace(index, records=tuple(r._replace(image_id=next(ids)) for r in index.records)) for index in indexes]


def _places(index: Index, below: str) -> Iterator[tuple[Path, str]]:
    """Folders that may hold the masks, and the path below each of an image that lies `below` the index's."""
    path = index.root / below
    above = next((folder for folder in path.parents if folder.name == IMAGES), None)
    if above is not None and above.is_relative_to(index.root.parent):
        yield above.parent / MASKS, path.relative_to(above).as_posix()
    yield index.root / MASKS, below
    if index.root.name == index.split:
        yield index.root.parent / MASKS, f"{index.split}/{below}"


def _listed(folder: Path, known: dict[Path, dict[str, Path]], left_out: Tally) -> bool:
    """List a folder of masks once, by path without the ending; whether it holds any."""
    if folder not in known:
        known[folder] = {}
        for name in walk_images(folder, left_out, f"{MASKS}/") if folder.is_dir() else ():
            if name.lower().endswith(SUFFIX):
                known[folder][name[: -len(SUFFIX)]] = folder / name
            else:
                left_out.add(OTHER_KIND, f"{MASKS}/{name}")
    return bool(known[folder])


def _keys(name: str) -> tuple[str, str]:
    """What a mask may be called without its ending: as the image without its own, or with it."""
    return Path(name).with_suffix("").as_posix(), name


def _one_channel(path: Path) -> bool:
    if path.suffix.lower() != SUFFIX:
        return False
    try:
        with Image.open(path) as image:
            return len(image.getbands()) == 1
    except Exception:  # damaged files make Pillow's decoders raise nearly any type
        return False
