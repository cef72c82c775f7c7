"""Label maps: files with the class of each pixel, read alike whatever the set, and counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.errors import DataError
from attnbias.data.images import read_header
from attnbias.data.index import Index
from attnbias.data.progress import ProgressCallback, silent

IGNORE = 255
"""The label of pixels that belong to no class: they count neither in the loss nor in the measures."""


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """Read the values of a label map, (H, W) uint8: indices of a palette PNG, levels of a grey one.

    SBD's MATLAB files (*.mat) are read too.

    Raises:
        DataError: the file is missing, broken, or an image of colours.
    """
    if path.suffix == ".mat":
        return _read_sbd(path)
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"label map {path} is missing; run prepare-data again with the folder it is in") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"label map {path} cannot be read ({error})") from None
    if values.ndim != 2 or values.max(initial=0) > IGNORE:
        kind = "colours" if values.ndim != 2 else f"the value {values.max()}"
        raise DataError(f"label map {path} holds {kind}; expected an indexed or grey PNG with class numbers up to 255")
    return values.astype(np.uint8)


def open_label_map(index: Index, sample: int) -> NDArray[np.uint8]:
    """Read the class of each pixel of one sample, (H, W) uint8, 255 = ignored.

    A record without a file has its masks drawn from the set's COCO annotations.

    Raises:
        DataError: the file cannot be read, or holds a class that the set does not have.
    """
    record = index.records[sample]
    location: Path | str
    if record.label_map is not None:
        location = index.root / record.label_map
        values = read_label_map(location)
    else:
        if index.annotations is None or record.image_id is None:
            raise DataError(f"{index.dataset}/{index.split} has no label maps; expected a segmentation dataset")
        from attnbias.data.masks import draw_masks  # pycocotools is of no use to the other sets

        location = f"of {record.path} in {index.annotations}"
        size = read_header(index.root / record.path).size(index.orientation)
        values = draw_masks(index.annotations, record.image_id, size)
    labels = values if index.label_values is None else np.array(index.label_values, np.uint8)[values]
    if (strange := _largest(labels)) >= len(index.classes):
        raise DataError(
            f"label map {location} holds class {strange}; "
            f"{index.dataset} has 0 to {len(index.classes) - 1}, and 255 for pixels that do not count"
        )
    return labels


def count_pixels(index: Index, workers: int = 1, progress: ProgressCallback = silent) -> NDArray[np.int64]:
    """Count the pixels of each class in each sample, (N, C + 1); the last column counts the ignored ones.

    Raises:
        DataError: a label map cannot be read, holds an unknown class, or has another size than its image.
    """
    values_counted = [*range(len(index.classes)), IGNORE]

    def counted(sample: int) -> NDArray[np.int64]:
        labels = open_label_map(index, sample)
        check_size(index, sample, read_header(index.root / index.records[sample].path).size(index.orientation), labels)
        return np.bincount(labels.ravel(), minlength=256)[values_counted]

    counts = np.zeros((len(index.records), len(values_counted)), np.int64)
    with ThreadPoolExecutor(workers) as pool:  # Pillow decodes outside the interpreter lock
        for done, row in enumerate(pool.map(counted, range(len(counts)))):
            counts[done] = row
            progress(f"counting pixels of {index.split}", done + 1, len(counts))
    return counts


def check_size(index: Index, sample: int, size: tuple[int, int], labels: NDArray[np.uint8]) -> None:
    """Hold a label map (H, W) against its image's (width, height).

    Raises:
        DataError: they differ.
    """
    height, width = labels.shape
    if size != (width, height):
        hint = ""
        if size == (height, width):
            rest = "stored" if index.orientation == "upright" else "upright"
            hint = f"; images are read {index.orientation}: was it labelled {rest} (prepare-data --orientation {rest})?"
        raise DataError(
            f"image {index.root / index.records[sample].path} and its label map differ in size: "
            f"{size[0]} x {size[1]} and {width} x {height}{hint}"
        )


def _largest(labels: NDArray[np.uint8]) -> int:
    """The largest class number, -1 where every pixel is ignored."""
    return int((labels + np.uint8(1)).max(initial=0)) - 1  # 255 wraps around to 0


def _read_sbd(path: Path) -> NDArray[np.uint8]:
    """Label map of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011): GTcls.Segmentation."""
    from scipy.io import loadmat  # of no use to the other sets

    try:
        values: NDArray[np.uint8] = loadmat(path, squeeze_me=True)["GTcls"]["Segmentation"].item()
        return values
    except FileNotFoundError:
        raise DataError(f"label map {path} is missing; run prepare-data again with the folder it is in") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"label map {path} is damaged ({error})") from None
