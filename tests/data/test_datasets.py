"""Samples: the same key gives the same sample anywhere; label policies; images as stored; boxes that move along."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as first_transforms
from torchvision.transforms import v2

from attnbias.data.datasets import ImageDataset, SampleKey, collate, seeded
from attnbias.data.errors import DataError
from attnbias.data.images import read_image
from attnbias.data.index import Box, Index, Record
from attnbias.data.transforms.basic import RandomShift, eval_transform, normalization, train_transform
from tests.helpers.boxes import moved_together


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (5 + k + seed)) * np.cos(columns / (7 + k)) for k in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).astype(np.uint8))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    targets = [(1, 0, 0), (0, -1, 0), (1, 1, -1), (0, 0, 0)]
    for number in range(4):
        photograph(40, 60, number).save(tmp_path / f"{number}.png")
    boxes = (Box(0, 10, 5, 20, 10), Box(1, 0, 0, 60, 40, crowd=True))
    records = tuple(Record(f"{number}.png", target, boxes) for number, target in enumerate(targets))
    return Index("some", "train", "multilabel", ("a", "b", "c"), tmp_path, records)


def test_a_sample_depends_on_its_key_alone(index: Index) -> None:
    dataset = ImageDataset(index, train_transform(32, "unit", color_jitter=True), seed=3)
    first = dataset[SampleKey(2, 5)]["image"]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    dataset[0]
    assert torch.equal(dataset[SampleKey(2, 5)]["image"], first)
    others = [dataset[SampleKey(2, 6)], dataset[SampleKey(1, 5)]]
    others.append(ImageDataset(index, dataset.transform, seed=4)[SampleKey(2, 5)])
    assert not any(torch.equal(other["image"], first) for other in others)
    assert torch.equal(dataset[2]["image"], dataset[SampleKey(2, 0)]["image"])
    twice = ImageDataset(replace(index, records=(index.records[2],) * 2), dataset.transform, seed=3)
    assert not torch.equal(twice[0]["image"], twice[1]["image"])


def test_workers_change_nothing(index: Index) -> None:
    dataset = ImageDataset(index, train_transform(32, "unit"), seed=3)
    keys = [SampleKey(sample, epoch) for epoch in range(2) for sample in (3, 1, 0, 2)]
    batches = {
        workers: list(DataLoader(dataset, batch_size=2, sampler=keys, num_workers=workers, collate_fn=collate))
        for workers in (0, 2)
    }
    for one, other in zip(batches[0], batches[2], strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["index"], other["index"])


def test_the_surrounding_generators_are_left_as_they_were(index: Index) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def begin() -> None:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    begin()
    expected = draw()
    begin()
    with seeded(1, 2, 3):
        inside = draw()
    assert draw() == expected
    with seeded(1, 2, 3):
        assert draw() == inside
    dataset = ImageDataset(index, lambda image: torch.tensor([*draw(), np.random.normal()]))
    alone = [dataset[SampleKey(sample, 1)]["image"] for sample in (1, 0)]
    begin()
    together = dataset.__getitems__([SampleKey(1, 1), SampleKey(0, 1)])
    assert draw() == expected
    assert [sample["image"].tolist() for sample in together] == [image.tolist() for image in alone]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [[1, 0, 0], [0, -1, 0], [1, 1, -1], [0, 0, 0]]),
        ({"unknown": "negative"}, [[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]),
        ({"drop_unlabelled": True}, [[1, 0, 0], [1, 1, -1]]),
        ({"drop_unlabelled": True, "unknown": "negative"}, [[1, 0, 0], [1, 1, 0]]),
    ],
)
def test_label_policies(index: Index, policy: dict[str, Any], expected: list[list[int]]) -> None:
    dataset = ImageDataset(index, eval_transform(32, "unit"), **policy)
    assert [dataset[i]["target"].tolist() for i in range(len(dataset))] == expected
    assert dataset[0]["target"].dtype == torch.float32
    assert dataset.targets.tolist() == expected
    kept = ["0.png", "2.png"] if "drop_unlabelled" in policy else ["0.png", "1.png", "2.png", "3.png"]
    assert [record.path for record in dataset.records] == kept
    for position, path in enumerate(kept):
        assert torch.equal(dataset[position]["image"], eval_transform(32, "unit")(read_image(index.root / path)))


def test_a_split_of_which_nothing_is_left_is_refused(index: Index) -> None:
    none = Index("some", "val", "multilabel", index.classes, index.root, index.records[3:])
    assert len(ImageDataset(none, eval_transform(16, "unit"))) == 1
    with pytest.raises(DataError, match=r"no sample of some/val has a positive label.*--no-drop-unlabelled"):
        ImageDataset(none, eval_transform(16, "unit"), drop_unlabelled=True)


def test_single_label_targets_are_class_numbers(index: Index) -> None:
    records = tuple(record._replace(target=number) for number, record in enumerate(index.records[:3]))
    single = Index("some", "val", "singlelabel", index.classes, index.root, records)
    dataset = ImageDataset(single, eval_transform(16, "unit"), drop_unlabelled=True, unknown="negative")
    batch = collate([dataset[i] for i in range(3)])
    assert batch["target"].tolist() == [0, 1, 2]
    assert batch["target"].dtype == torch.int64


def test_an_unreadable_image_is_named_or_skipped_and_never_replaced(index: Index) -> None:
    path = index.root / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=str(path)):
        ImageDataset(index, eval_transform(16, "unit"))[1]
    dataset = ImageDataset(index, eval_transform(16, "unit"), on_bad_image="skip")
    batch = collate([dataset[i] for i in range(4)])
    assert batch["index"].tolist() == [0, 2, 3]
    assert len(batch["image"]) == len(batch["target"]) == 3
    assert [str(path) in error for error in batch["errors"]] == [True]
    alone = collate([dataset[1]])
    assert alone["index"].tolist() == []
    assert "image" not in alone


def test_images_come_as_stored(tmp_path: Path) -> None:
    colour = photograph(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate me": the papers' programs do not
    colour.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    colour.quantize(16).save(tmp_path / "palette.png", transparency=b"\x00\x80")
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg")
    colour.getchannel(0).save(tmp_path / "grey.png")
    colour.convert("1").save(tmp_path / "black_white.png")
    (clear := colour.copy()).putalpha(0)
    clear.save(tmp_path / "clear.png")
    deep = np.asarray(colour.getchannel(0)).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for name in ("turned.jpg", "palette.png", "cmyk.jpg", "grey.png", "black_white.png", "clear.png", "deep.png"):
        image = read_image(tmp_path / name)
        assert (type(image), image.mode, image.size) == (Image.Image, "RGB", (30, 20)), name
    assert np.array_equal(np.asarray(read_image(tmp_path / "clear.png")), np.asarray(colour))
    assert np.array_equal(
        np.asarray(read_image(tmp_path / "deep.png"))[..., 0], np.asarray(read_image(tmp_path / "grey.png"))[..., 0]
    )


def test_a_crop_rounds_its_corners_and_fills_with_black(tmp_path: Path) -> None:
    image = photograph(20, 30)
    image.save(tmp_path / "people.png")
    record = Record("people.png", (1,), (Box(0, 20, 2, 5, 6),), crop=(19.6, -4.4, 20.0, 12.2))
    dataset = ImageDataset(
        Index("wider", "test", "multilabel", ("Male",), tmp_path, (record,)), eval_transform(16, "half")
    )
    seen = np.asarray(dataset.image(0))
    assert seen.shape == (12, 20, 3)  # rows -4..8, columns 20..40
    assert np.array_equal(seen[4:, :10], np.asarray(image)[:8, 20:])
    assert not seen[:4].any()
    assert not seen[:, 10:].any()
    boxes, labels = dataset.boxes(0)
    torch.testing.assert_close(boxes, torch.tensor([[0.4, 6.4, 5.0, 6.0]]))
    assert labels.tolist() == [0]


def test_boxes_move_with_the_image(index: Index) -> None:
    dataset = ImageDataset(index, eval_transform(20, "unit"))
    image, boxes = moved_together(dataset, 0)
    assert torch.equal(image, dataset[0]["image"])
    torch.testing.assert_close(boxes, torch.tensor([[10 / 3, 2.5, 20 / 3, 5.0], [0.0, 0.0, 20.0, 20.0]]))
    assert dataset.boxes(0)[1].tolist() == [0, 1]
    unlabelled = Index("some", "val", "multilabel", index.classes, index.root, (Record("0.png", (0, 0, 0)),))
    assert moved_together(ImageDataset(unlabelled, eval_transform(20, "unit")), 0)[1].shape == (0, 4)


@pytest.mark.parametrize("name", ["unit", "half", "imagenet", "cifar"])
def test_pixels_equal_those_of_the_published_programs(name: str) -> None:
    image = photograph(37, 51)
    mean, std = normalization(name)
    published = first_transforms.Compose(
        [first_transforms.Resize((24, 24)), first_transforms.ToTensor(), first_transforms.Normalize(mean, std)]
    )
    ours = eval_transform(24, name)(image)
    assert torch.equal(ours, published(image))
    assert ours.is_contiguous()


def test_a_shift_moves_by_at_most_its_pixels_and_fills_with_black() -> None:
    image = Image.new("RGB", (20, 20))
    image.putpixel((10, 10), (255, 255, 255))
    shift, seen = v2.Compose([RandomShift(3)]), set()
    torch.manual_seed(0)
    for _ in range(300):
        rows, columns = np.asarray(shift(image))[..., 0].nonzero()
        seen.add((int(rows[0]) - 10, int(columns[0]) - 10))
    assert seen == {(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)}
