"""Fast decoding: the same pixels before a resize, a level off after it; refused where a pipeline needs PIL images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from attnbias.data import fast_decode
from attnbias.data.datasets import ImageDataset, SampleKey, collate
from attnbias.data.errors import DataError
from attnbias.data.fast_decode import enough_pixels, pil_step
from attnbias.data.images import read_image
from attnbias.data.index import Index, Orientation, Record
from attnbias.data.registry import open_split
from attnbias.data.sets.demo import CONTEXTS, _photograph
from attnbias.data.transforms.basic import (
    RandomResizedCrop,
    RandomShift,
    ToNormalizedTensor,
    eval_transform,
    normalization,
    train_transform,
)
from attnbias.methods import METHODS
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.recipe import override, read_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest, ValRequest
from attnbias.methods.engine.training.train import train
from attnbias.methods.engine.validate import validate


def photograph(height: int = 150, width: int = 200) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (9 + k)) * np.cos(columns / (11 - k)) for k in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).astype(np.uint8))


@pytest.fixture(scope="module", params=["packaged", "real"])
def photographs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEG files of photographs: those of scikit-learn and scikit-image, and COCO's where they lie."""
    if request.param == "real":
        return sorted((request.getfixturevalue("real_data") / "coco128" / "images").rglob("*.jpg"))[:24]
    folder = tmp_path_factory.mktemp("packaged")
    for position, name in enumerate(CONTEXTS):
        _photograph(position, 427).save(folder / f"{name}.jpg", quality=92)
    return sorted(folder.iterdir())


def samples(path: Path, transform: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """A file's image read both ways, exact first."""
    index = Index("some", "val", "multilabel", ("a",), path.parent, (Record(path.name, (1,)),))
    exact, fast = (ImageDataset(index, transform, decode=kind)[0]["image"] for kind in ("exact", "fast"))
    return exact, fast


@pytest.mark.parametrize("kind", ["RGB.jpg", "L.jpg", "CMYK.jpg", "RGB.png", "L.png", "P.png", "RGBA.png", "I;16.png"])
def test_without_a_resize_nothing_changes(kind: str, tmp_path: Path) -> None:
    mode = kind.split(".")[0]
    image = photograph().convert("L").convert(mode) if mode == "I;16" else photograph().convert(mode)
    image.save(tmp_path / kind)
    exact, fast = samples(tmp_path / kind, v2.Compose([ToNormalizedTensor(*normalization("imagenet"))]))
    assert torch.equal(exact, fast)


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What decodes JPEG files: it is there or not, and must not be told by the pixels."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg", reason="the extra 'fast' is not installed")
    else:
        monkeypatch.setattr(fast_decode, "simplejpeg", None)
    return str(request.param)


@pytest.mark.parametrize("at_least", [None, 100, 70, 40, 30, 3])
def test_every_decoder_gives_pillow_s_pixels(decoder: str, at_least: int | None, tmp_path: Path) -> None:
    """Of odd sizes too, where a half is rounded up; what simplejpeg must leave to Pillow is left to it."""
    turned = Image.Exif()
    turned[0x0112] = 8
    own: dict[str, dict[str, Any]] = {
        "420": {"subsampling": "4:2:0"},
        "422": {"subsampling": "4:2:2", "quality": 95},
        "444": {"subsampling": "4:4:4", "quality": 40},
        "progressive": {"progressive": True},
        "rgb": {"keep_rgb": True},
        "turned": {"exif": turned},
    }
    for number, (name, options) in enumerate(own.items()):
        photograph(241 + number, 333 - 2 * number).save(tmp_path / f"{name}.jpg", **options)
    photograph(243, 245).convert("L").save(tmp_path / "grey.jpg")
    photograph(243, 245).convert("CMYK").save(tmp_path / "cmyk.jpg")
    photograph(243, 245).save(tmp_path / "a png.jpg", format="png")
    for path in sorted(tmp_path.iterdir()):
        for orientation in ("stored", "upright"):
            expected = np.asarray(read_image(path, orientation, at_least))
            found = fast_decode.read_pixels(path, orientation, at_least)
            assert np.array_equal(found.permute(1, 2, 0).numpy(), expected), (path.name, orientation)
        if decoder == "simplejpeg":
            left = fast_decode._decoded(path, at_least) is None
            assert left == (path.stem in ("cmyk", "a png")), path.name


@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0)])
def test_a_random_crop_is_torchvision_s_and_keeps_channels_side_by_side(scale: tuple[float, float]) -> None:
    options: Any = {"size": 48, "scale": scale, "antialias": True}
    image = torch.from_numpy(np.array(photograph())).permute(2, 0, 1)
    for seed in range(8):
        torch.manual_seed(seed)
        expected = v2.RandomResizedCrop(**options)(image)
        torch.manual_seed(seed)
        found = RandomResizedCrop(**options)(image)
        assert torch.equal(found, expected)
        assert found.permute(1, 2, 0).is_contiguous()


def test_a_damaged_file_is_read_or_refused_as_pillow_does(decoder: str, tmp_path: Path) -> None:
    photograph().save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut": content[:middle],
        "noise": content[:middle] + b"\xff\xd9\x07" * 20 + content[middle + 60 :],
        "behind": content + b"something else",
        "header": content[:30],
    }
    for name, bytes_ in damaged.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(bytes_)
        try:
            expected = np.asarray(read_image(path))
        except DataError as error:
            with pytest.raises(DataError, match=re.escape(str(error))):
                fast_decode.read_pixels(path)
        else:
            assert np.array_equal(fast_decode.read_pixels(path).permute(1, 2, 0).numpy(), expected), name
    with pytest.raises(DataError, match="is missing"):
        fast_decode.read_pixels(tmp_path / "none.jpg")


def test_more_pixels_than_pillow_reads_are_refused(decoder: str, tmp_path: Path, monkeypatch: Any) -> None:
    photograph().save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150 * 200 // 2 - 1)
    with pytest.raises(DataError, match=r"a\.jpg cannot be read \(Image size \(30000 pixels\) exceeds limit"):
        fast_decode.read_pixels(tmp_path / "a.jpg")


def test_colours_are_jittered_on_images_and_come_out_exact(tmp_path: Path) -> None:
    photograph().save(tmp_path / "a.jpg")
    exact, fast = samples(tmp_path / "a.jpg", train_transform(96, "unit", color_jitter=True))
    assert torch.equal(exact, fast)


def test_resized_photographs_are_a_level_off(photographs: list[Path]) -> None:
    for path in photographs:
        exact, fast = samples(path, eval_transform(224, "unit"))
        assert 0 < 255 * (fast - exact).abs().max() < 1.5, path


def test_large_photographs_are_decoded_smaller_and_stay_close(photographs: list[Path]) -> None:
    means = []
    for path in photographs:
        assert 112 <= min(read_image(path, at_least=112).size) < 224
        exact, fast = samples(path, eval_transform(56, "unit"))
        means.append(255 * float((fast - exact).abs().mean()))
    assert np.mean(means) < 1.5


@pytest.mark.parametrize("orientation", ["stored", "upright"])
def test_photographs_are_turned_by_the_set_s_rule_however_they_are_decoded(
    orientation: Orientation, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().save(tmp_path / "a.jpg", exif=exif)
    index = Index("some", "val", "multilabel", ("a",), tmp_path, (Record("a.jpg", (1,)),), orientation=orientation)
    as_it_is = v2.Compose([ToNormalizedTensor(*normalization("unit"))])
    exact, fast = (ImageDataset(index, as_it_is, decode=kind)[0]["image"] for kind in ("exact", "fast"))
    assert exact.shape == ((3, 150, 200) if orientation == "stored" else (3, 200, 150))
    assert torch.equal(exact, fast)


def test_how_small_a_image_may_be_decoded() -> None:
    flip, shift, crop = v2.RandomHorizontalFlip(), RandomShift(2), v2.RandomCrop(32, padding=4)
    assert enough_pixels(v2.Compose([flip, v2.Resize(224), v2.CenterCrop(200)])) == 448
    assert enough_pixels(v2.Compose([v2.Compose([v2.RandomResizedCrop(64, scale=(0.25, 1))])])) == 256
    for steps in ([crop, v2.Resize(224)], [shift, v2.Resize(224)], [crop, flip], [flip]):
        assert enough_pixels(v2.Compose(steps)) is None


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    photograph().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    index = Index("some", "val", "multilabel", ("a",), tmp_path, (Record("a.jpg", (1,)),))
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        ImageDataset(index, eval_transform(16, "unit"), decode="fast")[0]
    assert "error" in ImageDataset(index, eval_transform(16, "unit"), decode="fast", on_bad_image="skip")[0]


def test_a_sample_depends_on_its_key_alone_and_crops_are_kept(tmp_path: Path) -> None:
    photograph().save(tmp_path / "a.jpg")
    records = (Record("a.jpg", (1,)), Record("a.jpg", (1,), crop=(19.6, -4.4, 90.0, 60.2)))
    index = Index("some", "train", "multilabel", ("a",), tmp_path, records)
    dataset = ImageDataset(index, train_transform(24, "unit", color_jitter=True, shift=2), seed=1, decode="fast")
    keys = [SampleKey(sample, epoch) for epoch in range(2) for sample in (1, 0)]
    one, other = (
        torch.cat([b["image"] for b in DataLoader(dataset, 2, sampler=keys, num_workers=n, collate_fn=collate)])
        for n in (0, 1)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[2])
    exact, fast = (ImageDataset(index, eval_transform(24, "unit"), decode=kind)[1] for kind in ("exact", "fast"))
    torch.testing.assert_close(fast["image"], exact["image"], rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("method", [name for name in METHODS if "demo" in get_method(name).recipes])
def test_every_pipeline_takes_tensors_or_says_that_it_cannot(method: str, tmp_path: Path) -> None:
    found = get_method(method)
    photograph().save(tmp_path / "a.jpg")
    index = Index("some", "train", "multilabel", ("a",), tmp_path, (Record("a.jpg", (1,)),))
    seen = set()
    for named in found.recipes.values():
        for train_split in (True, False):
            transform = found.transform(named.recipe, train_split)
            if repr(transform) in seen:
                continue
            seen.add(repr(transform))
            if step := pil_step(transform):
                with pytest.raises(UsageError, match=rf"--decode fast: the training pipeline .* for its {step}; use"):
                    found.open_dataset(named.recipe, index, train=train_split, decode="fast")
                assert train_split
                continue
            exact, fast = (
                found.open_dataset(named.recipe, index, train=train_split, decode=kind)[0]["image"]
                for kind in ("exact", "fast")
            )
            assert fast.dtype == torch.float32
            assert fast.shape == exact.shape
            assert (fast - exact).abs().mean() < 0.02


def test_a_run_is_marked_and_evaluated_exactly_unless_asked(demo_root: Path, tmp_path: Path) -> None:
    method = get_method("csra")
    changes = {"epochs": 1, "batch_size": 24, "image_size": 40, "decode": "fast"}
    recipe = override(method.named_recipe("demo").recipe, changes)
    machine: dict[str, Any] = {"method": "csra", "data_root": demo_root, "gpus": 0, "threads": 1}
    outcome = train(TrainRequest(recipe=recipe, out=tmp_path / "run", **machine))
    assert read_recipe(tmp_path / "run" / "recipe.yaml", method.recipe_type, "csra").decode == "fast"
    scores = set()
    for decode in ("exact", "fast"):
        table = tmp_path / f"{decode}.csv"
        asked = ValRequest(load_from=[str(tmp_path / "run")], decode=decode, csv_file=table, **machine)
        (result,) = validate(asked)
        assert result["decode"] == decode
        if decode == "exact":
            assert result["measures"]["mAP"] == outcome.measures["val/raw"]["mAP"]
        scores.add(table.read_text())
    assert len(scores) == 2
    index = open_split("demo", "val", demo_root)
    assert method.open_dataset(recipe, index).decode == "exact"
