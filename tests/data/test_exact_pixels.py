"""Batches hold the pixels that the papers' programs see, bit for bit, however they are read and moved.

The other way is written here plainly: Pillow decodes, the pipeline's own steps follow, torchvision's first version
makes the tensor and normalises it, one image after the other.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as first_transforms
from torchvision.transforms import v2

from attnbias.data.datasets import ImageDataset, SampleKey
from attnbias.data.in_memory import InMemoryImages
from attnbias.data.index import Index, Orientation, Record, Text
from attnbias.data.language import LanguageDataset
from attnbias.data.segmentation import LabelMapDataset
from attnbias.data.transforms.basic import NORMALIZATIONS, ToNormalizedTensor, eval_transform
from attnbias.data.transforms.batched import BatchedTransform
from attnbias.data.transforms.corruptions import Corrupted
from attnbias.data.transforms.language import PIPELINES, language_transform
from attnbias.data.transforms.opencv import rescaled
from attnbias.data.transforms.segmentation import MEAN, STD, EvalTransform, TrainTransform
from attnbias.methods.engine.batches import batches, on_device
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method

CPU = torch.device("cpu")
SEED, EPOCH, SIDE = 5, 2, 64
BROKEN = "broken.jpg"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each kind that a set may hold, each of a size of its own."""
    folder = tmp_path_factory.mktemp("kinds")
    rng, sizes = np.random.default_rng(0), iter([(90 + 7 * k, 130 - 5 * k) for k in range(14)])

    def drawn() -> Image.Image:
        width, height = next(sizes)
        coarse = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        fine = rng.integers(-20, 21, (height, width, 3))
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        return Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8))

    turned = Image.Exif()
    turned[0x0112] = 6
    drawn().save(folder / "420.jpg", subsampling="4:2:0")
    drawn().save(folder / "422.jpg", subsampling="4:2:2", quality=95)
    drawn().save(folder / "444.jpg", subsampling="4:4:4", quality=60)
    drawn().save(folder / "progressive.jpg", progressive=True)
    drawn().save(folder / "turned.jpg", exif=turned)
    drawn().convert("L").save(folder / "grey.jpg")
    drawn().convert("CMYK").save(folder / "cmyk.jpg")
    (clear := drawn()).putalpha(Image.fromarray(rng.integers(0, 256, clear.size[::-1], dtype=np.uint8)))
    clear.save(folder / "alpha.png")
    drawn().quantize(16).save(folder / "palette.png")
    drawn().quantize(16).save(folder / "clear_palette.png", transparency=b"\x00\x80")
    drawn().convert("L").save(folder / "grey.png")
    drawn().save(folder / "mapped.bmp")
    drawn().save(folder / BROKEN)
    (folder / BROKEN).write_bytes((folder / BROKEN).read_bytes()[:900])
    return folder


def index_of(folder: Path, orientation: Orientation = "stored") -> Index:
    paths = [path.name for path in sorted(folder.iterdir())]
    crop = Record("420.jpg", (1,), crop=(19.6, -4.4, 90.0, 60.2))
    records = (*(Record(path, (1,)) for path in paths), crop)
    return Index("kinds", "train", "multilabel", ("a",), folder, records, orientation=orientation)


def decoded(index: Index, position: int) -> Image.Image:
    """An image as RGB, by Pillow alone."""
    record = index.records[position]
    with Image.open(index.root / record.path) as file:
        image: Image.Image = file
        if index.orientation == "upright":
            image = ImageOps.exif_transpose(image)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB")
    if record.crop is not None:
        left, top, width, height = record.crop
        image = image.crop((left, top, left + width, top + height))
    return image


def seed_by(*key: int) -> None:
    first, second, third = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    random.seed(first), np.random.seed(second), torch.manual_seed(third)


def plainly(transform: Any, image: Any) -> Tensor:
    """The image through the pipeline's steps one by one, those that normalise by torchvision's first version."""
    for step in getattr(transform, "transforms", [transform]):
        if isinstance(step, v2.Compose | first_transforms.Compose):
            image = plainly(step, image)
        elif isinstance(step, ToNormalizedTensor):
            image = first_transforms.Normalize(step.mean, step.std)(first_transforms.ToTensor()(image))
        else:
            image = step(image)
    return image


def read(dataset: ImageDataset, workers: int = 0, size: int = 5) -> Iterator[dict[str, Any]]:
    """The batches of a dataset as training and evaluation read them."""
    keys = [SampleKey(position, EPOCH) for position in range(len(dataset))]
    cuts = [keys[start : start + size] for start in range(0, len(keys), size)]
    for batch in batches(dataset, cuts, workers=workers, device=CPU):
        yield on_device(batch, dataset, CPU)


def check(dataset: ImageDataset, index: Index, workers: int = 0) -> None:
    """Every batch, and every sample by its number, is what the plain way makes of the files."""
    errors, seen = [], []
    for batch in read(dataset, workers):
        errors += batch["errors"]
        assert batch["image"].dtype == torch.float32
        assert batch["image"].is_contiguous()
        for position, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            seed_by(SEED, EPOCH, position)
            expected = plainly(dataset.transform, decoded(index, position))
            assert torch.equal(image, expected), index.records[position].path
            assert torch.equal(dataset[SampleKey(position, EPOCH)]["image"], expected)
            seen.append(position)
    broken = next(number for number, record in enumerate(index.records) if record.path == BROKEN)
    assert seen == [position for position in range(len(index.records)) if position != broken]
    assert [BROKEN in error for error in errors] == [True]


def opened(method: Method[Any, Any], recipe: Recipe, index: Index, train: bool) -> ImageDataset:
    return method.open_dataset(override(recipe, {"seed": SEED}), index, train=train, on_bad_image="skip")


def recipes_of(method: Method[Any, Any]) -> Iterator[tuple[Recipe, bool]]:
    """A recipe for each of a method's pipelines, at small images; and whether it is that of training."""
    seen = set()
    for named in method.recipes.values():
        for train in (True, False):
            changes = {"image_size": SIDE} if named.recipe.image_size > SIDE else {}
            recipe = override(named.recipe, changes)
            described = repr(method.transform(recipe, train))
            if described not in seen:
                seen.add(described)
                yield recipe, train


@pytest.mark.parametrize("name", ["csra", "ida", "lsas", "absvit", "llb", "plain"])
def test_every_pipeline_gives_the_pixels_of_the_published_programs(name: str, images: Path) -> None:
    method, index = get_method(name), index_of(images)
    for recipe, train in recipes_of(method):
        dataset = opened(method, recipe, index, train)
        if isinstance(dataset, InMemoryImages):  # images of one size; those have a test of their own
            continue
        check(dataset, index)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_pixels(workers: int, images: Path) -> None:
    method, index = get_method("csra"), index_of(images)
    for train in (True, False):
        recipe = override(method.named_recipe("demo").recipe, {"image_size": SIDE})
        check(opened(method, recipe, index, train), index, workers)


def test_upright_images_are_those_that_pillow_turns(images: Path) -> None:
    index = index_of(images, "upright")
    check(ImageDataset(index, eval_transform(SIDE, "imagenet"), seed=SEED, on_bad_image="skip"), index)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_every_level_is_normalised_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """All 256 levels of each channel, in rows whose length no vector unit divides."""
    levels = np.arange(256 * 3, dtype=np.uint8).reshape(-1, 3)[:, ::-1]
    rows = np.concatenate([levels, np.roll(levels, 1, axis=1), levels[:251]])[None].repeat(3, axis=0)
    Image.fromarray(rows).save(tmp_path / "levels.png")
    index = Index("levels", "val", "multilabel", ("a",), tmp_path, (Record("levels.png", (1,)),) * 2)
    dataset = ImageDataset(index, v2.Compose([ToNormalizedTensor(*NORMALIZATIONS[name])]), seed=SEED)
    (batch,) = read(dataset)
    expected = plainly(dataset.transform, Image.fromarray(rows))
    assert torch.equal(batch["image"], torch.stack([expected, expected]))
    pixels = torch.from_numpy(rows).permute(2, 0, 1)[None]
    batched = BatchedTransform(ToNormalizedTensor(*NORMALIZATIONS[name]))
    assert torch.equal(batched(pixels, torch.zeros(1, dtype=torch.int64), 0)[0], expected)


def test_images_travel_as_bytes_where_nothing_follows_their_normalisation(images: Path) -> None:
    """Beyond it, random erasing puts noise between normalised pixels, and a corruption is one of the sizes seen."""
    index, absvit = index_of(images), get_method("absvit")

    def travels_as(dataset: ImageDataset) -> torch.dtype:
        return next(iter(batches(dataset, [[0, 1]], workers=0, device=CPU)))["image"].dtype

    for name in ("csra", "ida", "lsas", "llb", "plain"):
        method = get_method(name)
        recipe = override(method.named_recipe("demo").recipe, {"image_size": SIDE})
        for train in (True, False):
            assert travels_as(opened(method, recipe, index, train)) == torch.uint8, name
    recipe = override(absvit.named_recipe(absvit.default_recipe("imagenet")).recipe, {"image_size": SIDE})
    assert travels_as(opened(absvit, recipe, index, False)) == torch.uint8
    assert travels_as(opened(absvit, recipe, index, True)) == torch.float32
    corrupted = Corrupted(eval_transform(SIDE, "imagenet"), "fog", 2, "imagenet")
    assert travels_as(ImageDataset(index, corrupted)) == torch.float32


def test_a_worker_stacks_into_the_memory_that_it_shares(images: Path) -> None:
    dataset = opened(get_method("csra"), get_method("csra").named_recipe("demo").recipe, index_of(images), True)

    def shared(samples: Any) -> list[bool]:
        batch = dataset.collate(samples)
        return [batch["image"].is_shared(), batch["target"].is_shared()]

    assert next(iter(DataLoader(dataset.as_bytes(), 4, num_workers=1, collate_fn=shared))) == [True, True]


def test_a_loader_that_is_left_early_leaves_no_shared_memory(images: Path) -> None:
    dataset = opened(get_method("csra"), get_method("csra").named_recipe("demo").recipe, index_of(images), True)
    loader = batches(dataset, [[number % 4] * 8 for number in range(40)], workers=2, device=CPU)
    reading = iter(loader)
    kept = next(reading)["image"]
    makers = {child.pid for child in multiprocessing.active_children()}
    reading.close()
    assert kept.is_shared()
    names = [path.name.split("_") for path in Path("/dev/shm").glob("torch_*")]
    assert makers
    assert not makers & {int(number) for _, number, *_ in names}


# Images with texts ----------------------------------------------------------------------------------------------------


class NoWords:
    """A tokenizer of texts that do not matter here."""

    def __call__(self, sentences: Sequence[str], **_: Any) -> Any:
        ids = torch.zeros(len(sentences), 4, dtype=torch.int64)
        return type("Encoded", (), {"data": {"input_ids": ids, "attention_mask": ids}})()


@pytest.mark.parametrize("name", PIPELINES)
def test_images_with_texts_too_padded_after_they_are_normalised(name: str, images: Path) -> None:
    names = [path.name for path in sorted(images.iterdir()) if path.name != BROKEN]
    texts = [Text("are they alike?", second_path=other) for other in reversed(names)]
    records = tuple(Record(path, 0, text=text) for path, text in zip(names, texts, strict=True))
    index = Index("pairs", "train", "nlvr2", ("no", "yes"), images, records)
    tokenizer: Any = NoWords()
    dataset = LanguageDataset(
        index, language_transform(name, SIDE), tokenizer=tokenizer, max_length=4, seed=SEED, on_bad_image="skip"
    )
    position = {path: number for number, path in enumerate(names)}
    for batch in read(dataset):
        for key in ("image", "image2"):
            for number, image in zip(batch["index"].tolist(), batch[key], strict=True):
                seed_by(*((SEED, EPOCH, number) if key == "image" else (SEED, EPOCH, number, 1)))
                path = names[number] if key == "image" else texts[number].second_path
                expected = plainly(dataset.transform, decoded(index, position[str(path)]))
                height, width = expected.shape[1:]
                assert torch.equal(image[:, :height, :width], expected)
                assert not image[:, height:].any()
                assert not image[:, :, width:].any()


# Segmentation ---------------------------------------------------------------------------------------------------------


def taps(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    centre = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    before = np.floor(centre).astype(np.int64)
    share = centre - before
    weights = (np.rint(part * 2048).astype(np.int64) for part in (1 - share, share))
    return np.clip(before, 0, length - 1), np.clip(before + 1, 0, length - 1), *weights


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR of the whole image, on 64-bit integers."""
    if image.shape[:2] == size:
        return image
    (top, bottom, up, down), (left, right, near, far) = (taps(image.shape[side], size[side]) for side in (0, 1))
    wide = (image[:, left].astype(np.int64) * near[:, None] + image[:, right].astype(np.int64) * far[:, None]) >> 4
    mixed = ((wide[top] * up[:, None, None]) >> 16) + ((wide[bottom] * down[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def normalised(image: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def labelled(folder: Path, images: Path) -> Index:
    """The images that can be read, each with a map of six classes."""
    rng, records = np.random.default_rng(1), []
    for path in sorted(images.iterdir()):
        if path.name != BROKEN:
            with Image.open(path) as image:
                width, height = image.size
            coarse = Image.fromarray(rng.integers(0, 6, (5, 6), dtype=np.uint8))
            coarse.resize((width, height), Image.Resampling.NEAREST).save(folder / f"{path.name}.png")
            records.append(Record(path.name, 0, label_map=str(folder / f"{path.name}.png")))
    classes = tuple("abcdef")
    return Index("maps", "train", "segmentation", classes, images, tuple(records))


@pytest.mark.parametrize("scale", [(512, 128), (180, 90), (77, 41)])
def test_segmentation_sees_the_pixels_of_opencv(scale: tuple[int, int], images: Path, tmp_path: Path) -> None:
    index = labelled(tmp_path, images)
    train, evaluation = TrainTransform(scale, crop=(96, 96)), EvalTransform(scale, (0.5, 1.0, 1.75))
    training = LabelMapDataset(index, train, seed=SEED)
    for batch in read(training):
        for position, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            original, labels = np.asarray(decoded(index, position)), training.label_map(position)
            seed_by(SEED, EPOCH, position)
            drawn = train.draw(labels)
            rows, columns = train.window(drawn.corner)
            pixels = resized(original, drawn.size)[rows, columns][:, :: -1 if drawn.flip else 1]
            expected = torch.zeros(3, 96, 96)
            expected[:, : pixels.shape[0], : pixels.shape[1]] = normalised(drawn.distortion(pixels))
            assert torch.equal(image, expected), index.records[position].path
    for batch in read(LabelMapDataset(index, evaluation, seed=SEED)):
        for position, views in zip(batch["index"].tolist(), batch["image"], strict=True):
            original = np.asarray(decoded(index, position))
            for ratio, view in zip(evaluation.ratios, views, strict=True):
                whole = int(scale[0] * ratio), int(scale[1] * ratio)
                assert torch.equal(view, normalised(resized(original, rescaled(original.shape[:2], whole))))
