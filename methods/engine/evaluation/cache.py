"""`--cache DIR`: the images of an evaluation as they are before they are normalised, made once, then kept in a file.

The file holds the images in the order of the samples, (N, H, W, 3) bytes, which processes map into their memory and
share; behind them, as JSON, everything that decided them. It is used where all of that is still so, else made anew.
"""

from __future__ import annotations

import hashlib
import os
import time
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import model_validator
from torch.utils.data import Dataset

from attnbias.data.atomic import replacing_bytes
from attnbias.data.datasets import ImageDataset, Sample, SampleKey
from attnbias.data.errors import DataError
from attnbias.data.fetch.download import readable_size
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.members import state_of
from attnbias.data.reading import Items, StoredModel, is_whole_number, parse_json
from attnbias.data.transforms.basic import last_normalization, without_normalization
from attnbias.methods.engine.batches import loader
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.output_files import check_location, check_writable
from attnbias.methods.engine.screen import counted, say
from attnbias.methods.engine.types import LABELLED

END = b"attnbias images\n"
"""The last bytes of a whole file, behind the length of the JSON in eight bytes."""
DECODERS = ("attnbias", "pillow", "torchvision", "torch", "numpy", "simplejpeg")
"""Packages that pixels come from."""
CHUNK = 16
"""Images that a worker decodes at once."""


class Decided(StoredModel):
    """What decides the pixels of a split in an evaluation."""

    pipeline: str
    decode: str
    orientation: str
    versions: dict[str, str]
    samples: int
    files: str
    """SHA-256 of the path, crop, size and time of each image's file."""


class Contents(StoredModel):
    """What stands behind the images of a file."""

    decided: Decided
    shape: Items[int]
    errors: dict[str, str]
    """Samples that could not be read, and why; their images are black."""
    made: str
    written: int
    """The file's time of change, in whole seconds as nanoseconds: bytes that were changed since have another."""

    @model_validator(mode="after")
    def _fits(self) -> Contents:
        if len(self.shape) != 4 or min(self.shape) < 1 or (self.shape[0], self.shape[3]) != (self.decided.samples, 3):
            raise ValueError("its shape is not that of its samples")
        if not all(is_whole_number(sample) and int(sample) < self.decided.samples for sample in self.errors):
            raise ValueError("it names samples that it does not have")
        return self


class KeptImages(Dataset[Sample]):
    """The samples of a dataset for a loader, as `ImageDataset.as_bytes` gives them, from a file."""

    def __init__(self, dataset: ImageDataset, path: Path, contents: Contents) -> None:
        self.dataset, self.path = dataset, path
        self.errors = {int(sample): error for sample, error in contents.errors.items()}
        # Copied where it is written to, which nothing does: a tensor must be able to.
        self.pixels: NDArray[np.uint8] = np.memmap(path, np.uint8, "c", shape=tuple(contents.shape))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        sample = key[0] if isinstance(key, tuple) else key
        if sample in self.errors:
            if self.dataset.on_bad_image == "error":
                raise DataError(self.errors[sample])
            return {"index": sample, "error": self.errors[sample]}
        image = torch.from_numpy(self.pixels[sample]).permute(2, 0, 1)
        return {"image": image, "target": self.dataset.target(sample), "index": sample}


def use_cache(folder: Path, dataset: ImageDataset, accelerator: Accelerator, workers: int) -> None:
    """Have a dataset's batches read from its file in a folder, made now where it is missing or anything differs.

    The main process makes it, and says which it is.

    Raises:
        UsageError: its images are not kept so, or no file can, or must, be made there. DataError: an image cannot be
            read, or the disk is full; then nothing is left of the file.
    """
    decided, index = _decided(dataset), dataset.index
    apart = f"{decided.pipeline} {decided.decode} {index.root.absolute()} {index.how_drawn}"  # a file for each of these
    path = folder / f"{index.dataset}-{index.split}-{hashlib.sha256(apart.encode()).hexdigest()[:8]}.images"
    made = ""
    if accelerator.is_main_process:
        contents = _current(path, decided)
        made = "made now" if contents is None else f"made {contents.made}"
        if made == "made now":
            _make(path, dataset, decided, workers)
        say(f"images of {index.dataset}/{index.split} from the cache at {path}, {made}", error=True)
    Control().gather(made)  # the others wait for it
    contents = _current(path, decided)
    if contents is None:
        raise DataError(f"{path} was replaced meanwhile; give each command a --cache of its own")
    dataset.kept = KeptImages(dataset, path, contents)


def _decided(dataset: ImageDataset) -> Decided:
    """What decides the bytes of a dataset's images now.

    Raises:
        UsageError: they are in memory already, of several sizes, or not bytes.
    """
    index = dataset.index
    name = f"--cache: images of '{index.dataset}/{index.split}'"
    if dataset.archived or isinstance(dataset, InMemoryImages):
        raise UsageError(f"{name} are in memory as they are; leave it out")
    if index.task not in LABELLED or last_normalization(dataset.transform) is None:
        raise UsageError(f"{name} are not bytes of one size before they are normalised; leave it out")
    pipeline = str(without_normalization(dataset.transform))
    if " at 0x" in pipeline:
        raise UsageError(f"{name} pass a step that does not tell its settings, {pipeline}; leave it out")
    files = hashlib.sha256()
    for sample in range(len(dataset)):
        files.update(f"{dataset.paths[sample]} {dataset.crop(sample)} {state_of(dataset.file(sample))}\n".encode())
    return Decided(
        pipeline=pipeline,
        decode=dataset.decode,
        orientation=index.orientation,
        versions={name: _version(name) for name in DECODERS},
        samples=len(dataset),
        files=files.hexdigest(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _make(path: Path, dataset: ImageDataset, decided: Decided, workers: int) -> None:
    """Write the file, which is whole or not there; the room for it is taken before the first image is read."""
    if path.exists() and _read(path) is None:
        raise DataError(f"{path} is no cache of images; move it away, or name another folder")
    check_location(path)
    check_writable(path)
    as_bytes, errors = dataset.as_bytes(), {}
    shape = next((tuple(as_bytes[s]["image"].shape[1:]) for s in range(len(dataset)) if "image" in as_bytes[s]), None)
    if shape is None:
        raise DataError(f"no image of {dataset.index.dataset}/{dataset.index.split} could be read")
    blank = bytes(3 * shape[0] * shape[1])
    size = len(dataset) * len(blank)
    cuts = [list(range(len(dataset)))[start : start + CHUNK] for start in range(0, len(dataset), CHUNK)]
    try:
        with replacing_bytes(path) as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            with counted(loader(as_bytes, cuts, list, workers), "images of the cache", of=len(cuts)) as each_cut:
                for samples in each_cut:
                    for sample in samples:
                        if "error" in sample:
                            errors[str(sample["index"])] = sample["error"]
                        file.write(_bytes(sample["image"], shape) if "image" in sample else blank)
            now = int(time.time())
            contents = Contents(
                decided=decided,
                shape=(len(dataset), *shape, 3),
                errors=errors,
                made=time.strftime("%Y-%m-%d %H:%M", time.localtime(now)),
                written=now * 10**9,
            )
            text = contents.model_dump_json().encode()
            file.write(text + len(text).to_bytes(8, "big") + END)
            file.flush()
            os.utime(file.fileno(), ns=(contents.written, contents.written))
    except OSError as error:
        raise DataError(
            f"the cache {path} cannot be written ({error.strerror}): it takes {readable_size(size)}; name another "
            "folder"
        ) from None


def _bytes(image: torch.Tensor, shape: tuple[int, ...]) -> bytes:
    """The bytes of an image (3, H, W), channels side by side."""
    if tuple(image.shape[1:]) != shape:
        raise UsageError(f"--cache: images of the split have several sizes, {shape} and {tuple(image.shape[1:])}")
    return image.permute(1, 2, 0).contiguous().numpy().tobytes()


def _current(path: Path, decided: Decided) -> Contents | None:
    """What stands in a file whose images are those of `decided`, as they were written; None where that is not so."""
    contents = _read(path)
    if contents is None or contents.decided != decided or path.stat().st_mtime_ns != contents.written:
        return None
    return contents


def _read(path: Path) -> Contents | None:
    """What stands behind the images of a file; None where there is none, or it is not such a file."""
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with path.open("rb") as file:
            file.seek(-len(END) - 8, os.SEEK_END)
            length, end = int.from_bytes(file.read(8), "big"), file.read()
            size = file.seek(-len(END) - 8 - length, os.SEEK_END)
            contents = Contents.model_validate(parse_json(file.read(length).decode()))
    except (OSError, ValueError, OverflowError):  # the last of a length that no file has
        return None
    return contents if end == END and size == prod(contents.shape) else None
