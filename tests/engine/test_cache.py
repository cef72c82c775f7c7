"""`--cache`: images of an evaluation kept as bytes are those that would be read, or are made anew, or are refused."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from torchvision.transforms import v2

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.index import Index, Record
from attnbias.data.transforms.basic import NORMALIZATIONS, ToNormalizedTensor, eval_transform
from attnbias.methods.engine.batches import batches
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.cache import END, KeptImages, use_cache
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model
from tests.helpers.tiny_runs import CPU, TINY

COUNT, MEAN = 5, NORMALIZATIONS["imagenet"]


def opened(folder: Path, side: int = 16, limit: int | None = None, **how: Any) -> ImageDataset:
    records = tuple(Record(f"{number}.jpg", (1, 0)) for number in range(COUNT))
    index = Index("pets", "val", "multilabel", ("a", "b"), folder, records).drawn(limit)
    return ImageDataset(index, eval_transform(side, "imagenet"), **how)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 255, (20, 30 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def read(dataset: ImageDataset) -> list[tuple[bytes, list[float], list[str]]]:
    """The pixels, labels and errors of each batch of a loader."""
    cuts, device = [[0, 1, 2], [3, 4]], Accelerator(cpu=True).device
    return [
        (batch["image"].numpy().tobytes(), batch["target"].tolist(), batch["errors"])
        for batch in batches(dataset, cuts, workers=0, device=device)
    ]


def kept(cache: Path, dataset: ImageDataset, workers: int = 0) -> ImageDataset:
    use_cache(cache, dataset, Accelerator(cpu=True), workers)
    assert isinstance(dataset.kept, KeptImages)
    return dataset


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_images_are_those_that_would_be_read(
    images: Path, tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, cache = read(opened(images)), tmp_path / "cache"
    assert read(kept(cache, opened(images), workers)) == expected
    (file,) = cache.iterdir()
    assert capsys.readouterr().err == f"images of pets/val from the cache at {file}, made now\n"
    for number in range(COUNT):  # nothing of them is read again: they keep size and time, and are no images
        path = images / f"{number}.jpg"
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(kept(cache, opened(images))) == expected
    assert capsys.readouterr().err.startswith(f"images of pets/val from the cache at {file}, made 20")


def test_whatever_decides_the_pixels_makes_them_anew(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"

    def made_now(**how: Any) -> bool:
        expected = read(opened(images, **how))
        assert read(kept(cache, opened(images, **how))) == expected
        return capsys.readouterr().err.endswith("made now\n")

    assert made_now()
    assert not made_now()
    assert made_now(side=24)
    assert made_now(decode="fast")
    kept(cache, opened(images, limit=2))
    assert capsys.readouterr().err.endswith("made now\n")
    assert not made_now()  # which has another file, as some of the images have
    state = (images / "3.jpg").stat()
    os.utime(images / "3.jpg", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert made_now()
    Image.new("RGB", (9, 9)).save(images / "3.jpg")
    assert made_now()
    assert len([*cache.iterdir()]) == 4


def test_what_cannot_be_read_is_said_as_without_a_cache(images: Path, tmp_path: Path) -> None:
    (images / "1.jpg").write_bytes(b"no image")
    expected, cache = read(opened(images, on_bad_image="skip")), tmp_path / "cache"
    with pytest.raises(DataError, match=r"1\.jpg cannot be read"):
        kept(cache, opened(images))
    assert not [*cache.iterdir()]
    for _ in range(2):
        assert read(kept(cache, opened(images, on_bad_image="skip"))) == expected
    with pytest.raises(DataError, match=r"1\.jpg cannot be read"):
        read(kept(cache, opened(images)))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_whole_or_not_there_and_no_other_file_is_replaced(images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for size in (100, 3 * 16 * 16 * COUNT + 10):  # room for not one image, and for all but what stands behind them
        with (
            files_of_at_most(size),
            pytest.raises(DataError, match=r"cannot be written \(File too large\): it takes 3.84 kB"),
        ):
            kept(cache, opened(images))
        assert not [*cache.iterdir()]
    kept(cache, opened(images))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for other in (whole[:-1], b"mine", whole[1:]):
        file.write_bytes(other)
        with pytest.raises(DataError, match="is no cache of images; move it away"):
            kept(cache, opened(images))
        assert file.read_bytes() == other


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", [COUNT * 16, 1, 16, 3]),
        ("shape", [COUNT, 16, 48, 1]),
        ("shape", [-COUNT, -16, 16, 3]),
        ("shape", [COUNT, 2**40, 2**40, 3]),
        ("errors", {"x": "not read"}),
        ("errors", {str(COUNT): "not read"}),
        ("errors", {"-1": "not read"}),
    ],
)
def test_what_stands_behind_the_images_has_to_fit_them(name: str, value: Any, images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kept(cache, opened(images))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    place = len(whole) - len(END) - 8
    begin = place - int.from_bytes(whole[place : place + 8], "big")
    changed = json.dumps(json.loads(whole[begin:place]) | {name: value}).encode()
    file.write_bytes(whole[:begin] + changed + len(changed).to_bytes(8, "big") + END)
    with pytest.raises(DataError, match="is no cache of images; move it away"):
        kept(cache, opened(images))
    file.write_bytes(whole[:place] + b"\xff" * 8 + END)
    with pytest.raises(DataError, match="is no cache of images; move it away"):
        kept(cache, opened(images))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="is no cache of images; move it away"):
        kept(cache, opened(images))


def test_images_that_were_changed_since_they_were_kept_are_made_anew(images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kept(cache, opened(images))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 255]) + whole[1:])
    kept(cache, opened(images))
    assert file.read_bytes()[: 3 * 16 * 16 * COUNT] == whole[: 3 * 16 * 16 * COUNT]


def test_scores_and_runs_are_the_same_to_the_byte(demo_root: Path, tmp_path: Path) -> None:
    model, common = write_model(tmp_path / "model.safetensors"), (*CPU, "--data-root", demo_root)
    options = {"plain": (), "made": ("--cache", tmp_path / "cache"), "kept": ("--cache", tmp_path / "cache")}
    for name, typed in options.items():
        table = tmp_path / f"{name}.csv"
        attnbias("val", "csra", "--load-from", model, *common, "--csv", table, *typed, expect=0)
        attnbias(
            "train", "csra", *TINY, *common, "--out", tmp_path / name, "--eval-splits", "val,counter", *typed, expect=0
        )
    for file in ("{}.csv", "{}/metrics.jsonl"):
        plain, *others = ((tmp_path / file.format(name)).read_bytes() for name in options)
        assert others == [plain, plain]
    assert len([*(tmp_path / "cache").iterdir()]) == 3  # of val at two sizes, and of counter


def test_what_is_not_kept_so_is_refused(images: Path, tmp_path: Path) -> None:
    known, cache = opened(images), tmp_path / "cache"
    small = InMemoryImages(known.index, known.transform, batched=lambda pixels, *_: pixels)
    noisy = ImageDataset(known.index, v2.Compose([v2.Resize((16, 16)), ToNormalizedTensor(*MEAN), v2.GaussianNoise()]))
    silent = ImageDataset(known.index, v2.Compose([lambda image: image.resize((16, 16)), ToNormalizedTensor(*MEAN)]))
    uneven = ImageDataset(known.index, v2.Compose([v2.RandomHorizontalFlip(0), ToNormalizedTensor(*MEAN)]))
    refusals = {
        "are in memory as they are; leave it out": small,
        "are not bytes of one size before they are normalised; leave it out": noisy,
        "pass a step that does not tell its settings": silent,
        r"images of the split have several sizes, \(20, 30\) and \(20, 31\)": uneven,
    }
    for words, dataset in refusals.items():
        with pytest.raises(UsageError, match=f"^--cache: .*{words}"):
            use_cache(cache, dataset, Accelerator(cpu=True), 0)
        assert not cache.exists() or not [*cache.iterdir()]
