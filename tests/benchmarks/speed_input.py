"""From files to batches: against the way of before, which is kept here, and beside timm's and torchvision's.

Before: Pillow decodes and copies, each image becomes floats in the worker, `torch.stack` makes the batch, which is
copied once more into shared memory. `fast` needs the extra of that name.

The floor of a row is what is left where everything else costs nothing: libjpeg-turbo decodes (through simplejpeg, which
hands its pixels on without a copy), and Pillow or torch resize and distort, as often and to the sizes that the
pipeline asks for. No random state, choice of a crop, flip, batch or shared memory is in it.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from accelerate import Accelerator
from harness import Figure, compare, ratio_of
from PIL import Image
from speed_data import photographs
from timm.data.loader import fast_collate
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as first_transforms
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import _geometry as v2_geometry
from torchvision.transforms.v2.functional import pil_to_tensor

from attnbias.data.datasets import ImageDataset, SampleKey, begin_batch, collate, seeded
from attnbias.data.images import Decode, read_image
from attnbias.data.index import Index, Record
from attnbias.data.members import Member, keep
from attnbias.data.transforms import opencv
from attnbias.data.transforms import segmentation as segmentation_transforms
from attnbias.data.transforms.basic import NORMALIZATIONS, ToNormalizedTensor
from attnbias.data.transforms.segmentation import EvalTransform, TrainTransform
from attnbias.methods.engine.batches import Loader, batches, loader
from attnbias.methods.engine.evaluation.cache import KeptImages, use_cache
from attnbias.methods.engine.registry import get_method

CPU = torch.device("cpu")
BATCH, PASSES = 8, 4
IMAGENET = 1_281_167
"""Images of its training split."""


# The way of before ----------------------------------------------------------------------------------------------------


class Before(ImageDataset):
    """The same samples as the way of before makes them, one by one: `transform` ends with floats."""

    __getitems__ = None  # type: ignore[assignment]

    def __getitem__(self, key: SampleKey | int) -> dict[str, Any]:
        position, epoch = key if isinstance(key, tuple) else (key, 0)
        with Image.open(self.file(position)) as image:
            image.load()
            original = image.convert("RGB")
        with seeded(self.seed, epoch, position):
            return {"image": self.transform(original), "target": self.target(position), "index": position}

    def collate(self, samples: Sequence[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
        assert not isinstance(samples, dict)
        good, batch = begin_batch(samples)
        return batch | {name: torch.stack([sample[name] for sample in good]) for name in ("image", "target")}


def floats(step: ToNormalizedTensor) -> Callable[[Image.Image], Tensor]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (step.mean, step.std))

    def normalized(image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(mean).div_(std)

    return normalized


def before_of(dataset: ImageDataset, timm: bool = False) -> ImageDataset:
    """The dataset with the way of before; `timm`: whose two steps made the floats of AbSViT's training."""
    steps: list[Any] = []
    for step in dataset.transform.transforms:
        if not isinstance(step, ToNormalizedTensor):
            steps.append(step)
        elif timm:
            steps += [first_transforms.ToTensor(), first_transforms.Normalize(step.mean, step.std)]
        else:
            steps.append(floats(step))
    return Before(dataset.index, first_transforms.Compose(steps), seed=dataset.seed)


def resized_before(
    image: Any, size: Any, rows: slice = slice(None), columns: slice = slice(None), flip: bool = False
) -> Any:
    """OpenCV's resize as it was."""
    if image.shape[:2] == size:
        return image[rows, columns][:, :: -1 if flip else 1]
    top, bottom, up, down = opencv._taps(image.shape[0], size[0], np.arange(size[0])[rows])
    left, right, near, far = opencv._taps(image.shape[1], size[1], np.arange(size[1])[columns][:: -1 if flip else 1])
    source = image[top[0] : bottom[-1] + 1]
    wide = source[:, left] * near[:, None] + source[:, right] * far[:, None]
    wide >>= 4
    mixed = ((wide[top - top[0]] * up[:, None, None]) >> 16) + ((wide[bottom - top[0]] * down[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def from_hsv_before(hue: Any, saturation: Any, value: Any) -> Any:
    """From HSV as it was."""
    rest, strength, bright = opencv._REST[hue], opencv._UNIT[saturation], opencv._UNIT[value]
    shares = (bright, bright * (1 - strength), bright * (1 - strength * rest), bright * (1 - strength * (1 - rest)))
    levels = [opencv._truncated(share * np.float32(255)) for share in shares]
    return np.stack([np.choose(opencv._MIXES[hue, channel], levels) for channel in range(3)], axis=2)


# What is measured -----------------------------------------------------------------------------------------------------


def index_of(files: Sequence[Path], task: Any = "multilabel") -> Index:
    target: Any = (1,) if task == "multilabel" else 0
    return Index("some", "train", task, ("a",), Path("/"), tuple(Record(str(file), target) for file in files))


def opened(method_name: str, data: str, files: Sequence[Path], train: bool, decode: Decode = "exact") -> ImageDataset:
    """The files as the recipe of a method for a set reads them."""
    method = get_method(method_name)
    recipe = method.named_recipe(method.default_recipe(data)).recipe
    return method.open_dataset(recipe, index_of(files), train=train, decode=decode)


def cuts(dataset: Any) -> list[list[int]]:
    return [list(range(start, min(start + BATCH, len(dataset)))) for start in range(0, len(dataset), BATCH)]


def least(dataset: ImageDataset, files: Sequence[Path]) -> Callable[[], None]:
    """What no way to a dataset's pixels can do without: to decode its files, and to resize and distort them as its
    pipeline does, by calls that are listed once and made again on the same images. Exact ones are Pillow's, which is
    given the pixels, and gives them back."""
    calls: list[Callable[[], Any]] = []

    def listed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls.append(partial(function, *given, **named))
            return function(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for place, name in ((Image.Image, "resize"), (Image.Image, "transform"), (v2_geometry, "interpolate")):
            patched.setattr(place, name, listed(getattr(place, name)))
        images = [dataset[position]["image"] for position in range(len(dataset))]
    contents = [file.read_bytes() for file in files]
    made = [Image.new("RGB", (image.shape[2], image.shape[1])) for image in images if dataset.decode == "exact"]

    def work() -> None:
        for content in contents:
            pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False)
            if made:
                Image.fromarray(pixels)
        for call in calls:
            call()
        for image in made:
            np.asarray(image)

    return work


def read(dataset: Any, passes: int = 1) -> None:
    """Make all batches in this process."""
    for _ in loader(dataset, cuts(dataset) * passes, getattr(dataset, "collate", collate), workers=0):
        pass


def through_a_worker(dataset: ImageDataset) -> tuple[float, float]:
    """CPU seconds of a worker that makes all batches `PASSES` times, and of this process, which receives them: a touch
    of each page as the copy to a device has it, and without the start of the worker."""
    of_workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    reading = iter(batches(dataset, cuts(dataset) * PASSES, workers=1, device=CPU))
    next(reading)
    start = time.process_time()
    for batch in reading:
        batch["image"].clone()
    spent = time.process_time() - start
    reading.close()  # it waits for its worker
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - of_workers.ru_utime - of_workers.ru_stime, spent


def inputs(rounds: int) -> Iterator[Figure]:
    """Every pipeline in this process, CSRA's also through a worker."""
    with tempfile.TemporaryDirectory() as folder:
        (words, files), (large, one) = photographs(Path(folder)).items()
        for name, data, train, decode, target in (
            ("csra", "coco", True, "exact", 0.65),
            ("csra", "coco", False, "exact", 0.63),
            ("ida", "coco", True, "exact", 0.69),
            ("lsas", "imagenet", True, "exact", 0.78),
            ("lsas", "imagenet", False, "exact", None),
            ("csra", "coco", True, "fast", 0.5),
            ("csra", "coco", False, "fast", 0.42),
            ("lsas", "imagenet", True, "fast", 0.55),
            ("lsas", "imagenet", False, "fast", 0.45),
        ):
            dataset = opened(name, data, files, train, decode)
            what = f"{name} {data} {'training' if train else 'evaluation'}, {words}, {decode} / before"
            pair = partial(read, dataset.as_bytes()), partial(read, before_of(opened(name, data, files, train)))
            yield compare(what, *pair, rounds, target, per=len(files), least=least(dataset, files))
        absvit = opened("absvit", "imagenet", files, True)
        pair = partial(read, absvit.as_bytes()), partial(read, before_of(absvit, timm=True))
        what = f"absvit imagenet training, {words}, exact / before"
        yield compare(what, *pair, rounds, per=len(files), least=least(absvit, files))
        for decode, target in (("exact", 0.9), ("fast", 0.35)):
            dataset, before = opened("csra", "coco", one, False, decode), before_of(opened("csra", "coco", one, False))
            pair = partial(read, dataset.as_bytes()), partial(read, before)
            yield compare(f"csra coco evaluation, {large}, {decode} / before", *pair, rounds, target)
        yield from workers(rounds, words, files)
        yield from segmentation(rounds, words, files)
        yield from peers(rounds, words, files)
        yield from elsewhere(rounds, words, files, Path(folder))
    yield memory()


def elsewhere(rounds: int, words: str, files: Sequence[Path], folder: Path) -> Iterator[Figure]:
    """Images that are not read from files of their own: those of `--cache`, and those of an archive (`--in-place`)."""
    dataset = opened("csra", "coco", files, False)
    use_cache(folder, dataset, Accelerator(cpu=True), 0)
    assert isinstance(dataset.kept, KeptImages)
    from_files = opened("csra", "coco", files, False).as_bytes()
    what = f"csra coco evaluation, {words}, from --cache / from files"
    pair = (partial(read, each, PASSES) for each in (dataset.kept, from_files))
    yield compare(what, *pair, rounds, 0.014, per=PASSES * len(files))

    archive, unpacked = folder / "images.tar", folder / "unpacked"
    unpacked.mkdir()
    with tarfile.open(archive, "w") as packed:
        for file in files:
            packed.add(file, file.name)
            shutil.copy(file, unpacked / file.name)
    with tarfile.open(archive) as packed:
        members = [Member(info.name, info.offset_data, info.size) for info in packed]
    (folder / "in-place").mkdir()
    keep(folder / "in-place", archive, members)
    names, where = [file.name for file in files], {"ours": folder / "in-place", "base": unpacked}

    def decoded(root: Path) -> None:
        for name in names:
            read_image(root / name)

    pair = (partial(decoded, root) for root in where.values())
    yield compare(f"decoding {words}, in an archive / in files", *pair, rounds, 1.1, per=len(files))
    times: dict[str, list[float]] = {name: [] for name in where}
    for _ in range(rounds):
        for name, root in where.items():
            for file in (archive, *unpacked.iterdir()):
                _forget(file)
            start = time.perf_counter()
            decoded(root)
            times[name].append(time.perf_counter() - start)
    what = f"decoding {words} that memory does not hold, in an archive / in files, by the clock"
    yield ratio_of(what, times["ours"], times["base"], None, per=len(files))


def _forget(file: Path) -> None:
    """Have the system drop what it keeps of a file in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def workers(rounds: int, words: str, files: Sequence[Path]) -> Iterator[Figure]:
    """What a worker and the main process do for CSRA's training."""
    dataset = opened("csra", "coco", files, True)
    before = before_of(dataset)
    before.as_bytes = lambda: before  # type: ignore[method-assign]
    work = least(dataset, files)
    spent: dict[str, list[tuple[float, float]]] = {"ours": [], "before": []}
    alone = []
    for turn in range(rounds + 1):
        for name in ("ours", "before") if turn % 2 else ("before", "ours"):
            spent[name].append(through_a_worker(dataset if name == "ours" else before))
        start = time.process_time()
        work()
        alone.append(PASSES * (time.process_time() - start))
    for part, what, target in ((0, "in a worker", 0.57), (1, "in the main process, which receives them", 0.31)):
        ours, base = ([times[part] for times in spent[name][1:]] for name in ("ours", "before"))
        words_of = f"csra coco training, {words}, {what}, exact / before"
        yield ratio_of(words_of, ours, base, target, PASSES * len(files), alone[1:] if part == 0 else None)


def segmentation(rounds: int, words: str, files: Sequence[Path]) -> Iterator[Figure]:
    """AbSViT's transforms alone, of decoded images, with the resize and the colours of before in their place."""
    originals = [np.asarray(read_image(file)) for file in files[:8]]
    labels = [np.random.default_rng(0).integers(0, 3, image.shape[:2], dtype=np.uint8) for image in originals]

    def transformed(transform: Any) -> None:
        for position, (image, label) in enumerate(zip(originals, labels, strict=True)):
            with seeded(0, 0, position):
                transform(image, label)

    def as_before(transform: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(segmentation_transforms, "resize_image", resized_before)
            patched.setattr(segmentation_transforms, "from_hsv", from_hsv_before)
            transformed(transform)

    for name, transform, target in (("training", TrainTransform(), 0.79), ("evaluation", EvalTransform(), 0.34)):
        pair = partial(transformed, transform), partial(as_before, transform)
        yield compare(f"segmentation {name}, {words}, / before", *pair, rounds, target, per=len(originals))


def peers(rounds: int, words: str, files: Sequence[Path]) -> Iterator[Figure]:
    """ImageNet's evaluation (256 -> 224, bilinear), to a batch as a worker hands it on."""
    mean, std = NORMALIZATIONS["imagenet"]
    options = {"interpolation": "bilinear", "crop_pct": 224 / 256, "mean": mean, "std": std}
    square = [v2.Resize(256, antialias=True), v2.CenterCrop(224)]
    to_floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "timm, floats": (create_transform(224, **options), torch.stack),
        "timm, bytes (fast_collate)": (create_transform(224, use_prefetcher=True, **options), _timm_batch),
        "torchvision v2, Pillow": (v2.Compose([*square, v2.PILToTensor(), *to_floats]), torch.stack),
        "torchvision v2, tensors": (v2.Compose([pil_to_tensor, *square, *to_floats]), torch.stack),
    }

    def peer(transform: Callable[..., Any], stack: Callable[..., Any]) -> None:
        for start in range(0, len(files), BATCH):
            images = []
            for file in files[start : start + BATCH]:
                with Image.open(file) as image:
                    images.append(transform(image.convert("RGB")))
            stack(images)

    for decode in ("exact", "fast"):
        dataset = opened("lsas", "imagenet", files, False, decode).as_bytes()
        for name, way in ways.items():
            what = f"ImageNet's evaluation, {words}, {decode} / {name}"
            yield compare(
                what,
                partial(read, dataset),
                partial(peer, *way),
                rounds,
                None if decode == "exact" else 0.85,
                per=len(files),
            )


def _timm_batch(images: Iterable[Any]) -> Any:
    return fast_collate([(image, 0) for image in images])


def memory() -> Figure:
    """What a worker that reads all of ImageNet's training index makes its own, over a worker of a small one."""
    records = tuple(Record(f"n{k % 1000:08d}/n{k % 1000:08d}_{k}.JPEG", k % 1000) for k in range(IMAGENET))
    whole = replace(index_of((), "singlelabel"), classes=tuple(map(str, range(1000))), records=records)

    def grown(index: Index, before: bool) -> float:
        dataset = ImageDataset(index, lambda image: image)

        def read_all(keys: Sequence[int]) -> float:
            for position in range(len(dataset)):
                if before:
                    index.root / index.records[position].path, index.records[position].target
                else:
                    dataset.file(position), dataset.target(position)
            gc.collect()
            told = Path("/proc/self/smaps_rollup").read_text()
            return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", told, re.MULTILINE))) / 1024

        kind: type[DataLoader[Any]] = DataLoader if before else Loader
        return float(next(iter(kind([0], 1, num_workers=1, collate_fn=read_all))))

    small = grown(replace(whole, records=records[:100]), False)
    ours, base = grown(whole, False) - small, grown(whole, True) - small
    return Figure(f"memory of a worker, {IMAGENET:,} images over 100", ours, "MB", base, ours / base, target=0.15)
