"""CIFAR-10, CIFAR-100 and STL-10, read into memory straight from the archives that torchvision downloads."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbias.data.errors import DataError
from attnbias.data.reading import Json, shown


class _Batches(NamedTuple):
    """Where a CIFAR archive keeps what."""

    folder: str
    members: dict[str, tuple[str, ...]]
    """Split -> its batches."""
    labels: str
    meta: str
    names: str


CIFAR = {
    "cifar10": _Batches(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        "labels",
        "batches.meta",
        "label_names",
    ),
    "cifar100": _Batches(
        "cifar-100-python", {"train": ("train",), "test": ("test",)}, "fine_labels", "meta", "fine_label_names"
    ),
}


UNPICKLING = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What a pickle raises that is damaged, or holds something else than arrays."""


class Archived(NamedTuple):
    """One split in memory."""

    pixels: NDArray[np.uint8]
    """(N, H, W, 3)."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


STL10 = "stl10_binary"
# The archive names them too, but only behind 2.7 GB of unlabelled images.
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@lru_cache(maxsize=4)
def read_archive(archive: Path, split: str) -> Archived:
    """Read one split ("train" or "test") out of cifar-10-python, cifar-100-python or stl10_binary .tar.gz.

    The answer is kept: training and evaluation of a process share one copy.

    Raises:
        DataError: the archive is missing, damaged or another one.
    """
    try:
        with tarfile.open(archive, "r:gz") as file:
            first = file.next()
            top = first.name.split("/")[0] if first else ""
            if top == STL10:
                return _stl10(file, split)
            for layout in CIFAR.values():
                if top == layout.folder:
                    return _cifar(file, layout, split)
    except FileNotFoundError:
        raise DataError(f"archive {archive} is missing; fetch it with prepare-data --download") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error, *UNPICKLING) as error:
        raise DataError(f"archive {archive} is damaged ({error or 'it is cut short'}); fetch it again") from None
    raise DataError(f"archive {archive} holds '{top}', expected CIFAR-10, CIFAR-100 or STL-10")


def _cifar(file: tarfile.TarFile, layout: _Batches, split: str) -> Archived:
    *batches, meta = (
        _unpickle(content) for content in _members(file, layout.folder, (*layout.members[split], layout.meta))
    )
    planes = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])  # (N, 3 * 32 * 32)
    labels = np.concatenate([np.asarray(batch[layout.labels], dtype=np.int64) for batch in batches])
    names = meta[layout.names]
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise ValueError(f"its class names are {shown(names)}")
    if not all(isinstance(batch["data"], np.ndarray) and batch["data"].dtype == np.uint8 for batch in batches):
        raise ValueError("its pixels are no bytes")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(names):
        raise ValueError(f"it numbers {len(names)} classes up to {labels.max()}")
    pixels = np.ascontiguousarray(planes.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1))  # (N, 32, 32, 3)
    return Archived(pixels, labels, tuple(names))


def _stl10(file: tarfile.TarFile, split: str) -> Archived:
    planes, labels = (
        np.frombuffer(content, np.uint8) for content in _members(file, STL10, (f"{split}_X.bin", f"{split}_y.bin"))
    )
    # Each plane is stored column by column: (N, 3, x, y) -> (N, y, x, 3).
    pixels = np.ascontiguousarray(planes.reshape(len(labels), 3, 96, 96).transpose(0, 3, 2, 1))
    return Archived(pixels, labels.astype(np.int64) - 1, STL10_CLASSES)


def _members(file: tarfile.TarFile, folder: str, names: Sequence[str]) -> list[bytes]:
    """Contents of members, in one pass that ends with the last of them: gzip cannot go back without starting over."""
    found: dict[str, bytes] = {}
    for info in file:
        name = info.name.removeprefix(f"{folder}/")
        if name in names and (content := file.extractfile(info)) is not None:
            found[name] = content.read()
        if len(found) == len(names):
            break
    return [found[name] for name in names]


class _ArraysOnly(pickle.Unpickler):
    """Unpickles what the CIFAR batches hold, dictionaries with NumPy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        reconstruct: object = np.zeros(0).__reduce__()[0]
        allowed = {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")


def _unpickle(content: bytes) -> Json:
    batch: Json = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    return batch
