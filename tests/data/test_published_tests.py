"""ImageNet-A, -R and -C bring their own classes and their own transform, whichever way they are reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from attnbias.data.prepare import prepare
from attnbias.data.published_tests import own_rules
from attnbias.data.registry import open_split
from attnbias.data.sets.imagenet import CORRUPTIONS, NOT_OF_THE_SCORE, SEVERITIES, class_names, subset_indices, synsets
from attnbias.data.transforms.basic import normalization
from attnbias.methods.engine.display.inference import Column, predict_samples, sample_of
from attnbias.methods.engine.evaluation.robustness import ALEXNET_ERROR, Bench
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method


def image(path: Path, seed: int, size: int = 224) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(path, "PNG", compress_level=1)


def folders(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        image(root / name / "x.JPEG", seed)
    return root


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """A small ViT with random weights over ImageNet's classes."""
    method = get_method("absvit")
    changes = {"dataset": "imagenet", "image_size": 224, "pipeline": "deit", "top_down": False}
    recipe = override(method.named_recipe("demo-single").recipe, changes)
    torch.manual_seed(0)
    model = method.build_model(recipe, 1000, "singlelabel").eval()
    with torch.no_grad():
        model.get_parameter("head.weight").normal_(0, 0.5)
    return Loaded(method, recipe, model, class_names(), "singlelabel", "fresh")


def of(loaded: Loaded, dataset: str) -> Loaded:
    recipe = override(loaded.recipe, {"dataset": dataset})
    return Loaded(loaded.method, recipe, loaded.model, loaded.classes, loaded.task, loaded.source)


def logits(loaded: Loaded, root: Path, split: Any, crop: bool) -> torch.Tensor:
    """What the papers' programs compute: published images as they are, others resized and cropped."""
    index = open_split(loaded.recipe.dataset, split, root)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization(loaded.recipe.normalize))
    images = []
    for record in index.records:
        found = Image.open(index.root / record.path).convert("RGB")
        if crop:
            images.append(loaded.method.transform(loaded.recipe, False)(found))
        else:
            images.append((torch.from_numpy(np.array(found)).permute(2, 0, 1) / 255 - mean) / std)
    with torch.no_grad():
        return loaded.model(torch.stack(images))


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_only_the_sets_own_classes_compete_by_name_and_by_flag(loaded: Loaded, tmp_path: Path, name: str) -> None:
    prepare(name, folders(tmp_path / "source", list(synsets(name)[::25])), tmp_path)
    asked = of(loaded, name)
    expected = logits(asked, tmp_path, "val", crop=True)[:, list(subset_indices(name))].argmax(1)
    truth = torch.arange(0, 200, 25)
    top1 = 100 * float((expected == truth).float().mean())
    bench = Bench(asked, Accelerator(cpu=True), tmp_path)
    assert bench.clean("val")[0]["top1"] == bench.published(name)[0]["top1"] == pytest.approx(top1)
    dataset = asked.method.open_dataset(asked.recipe, open_split(name, "val", tmp_path))
    seen = predict_samples(
        [sample_of(dataset, place) for place in range(2)], [Column("x", asked, "gradcam", None)], [], "minmax"
    )
    assert [each.views[0].predicted[0] for each in seen] == [subset_indices(name)[place] for place in expected[:2]]


def test_published_corrupted_images_are_taken_as_they_are_by_name_and_by_flag(loaded: Loaded, tmp_path: Path) -> None:
    folders(tmp_path / "source" / "snow" / "5", list(synsets()[:6]))
    prepare("imagenet-c", tmp_path / "source", tmp_path)
    asked = of(loaded, "imagenet-c")
    expected, cropped = (logits(asked, tmp_path, "snow-5", crop).softmax(1).numpy() for crop in (False, True))
    index = open_split("imagenet-c", "snow-5", tmp_path)
    bench = Bench(asked, Accelerator(cpu=True), tmp_path, batch_size=4)
    found = bench._evaluate(index)
    np.testing.assert_allclose(found.scores["scores"], expected, atol=1e-5)
    assert np.abs(found.scores["scores"] - cropped).max() > 0.01
    dataset = asked.method.open_dataset(asked.recipe, index)
    (seen,) = predict_samples([sample_of(dataset, 0)], [Column("x", asked, "gradcam", None)], [], "minmax")
    assert seen.views[0].predicted == (int(expected[0].argmax()),)
    assert seen.views[0].frame == pytest.approx((0, 0, 1, 1), abs=1e-6)


def test_a_partial_imagenet_c_gives_its_rows_and_no_mean(loaded: Loaded, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for severity in SEVERITIES:
        folders(source / "fog" / str(severity), list(synsets()[:2]))
    folders(source / "snow" / "5", list(synsets()[:2]))
    folders(source / "speckle_noise" / "1", list(synsets()[:1]))
    folders(source / "blur" / "gaussian_blur" / "1", list(synsets()[:1]))
    done = prepare("imagenet-c", source, tmp_path)
    assert done.prepared.left_out[NOT_OF_THE_SCORE] == {"count": 2, "first": ["blur/gaussian_blur", "speckle_noise"]}
    rows = Bench(loaded, Accelerator(cpu=True), tmp_path).imagenet_c()
    names = [row["test"] for row in rows]
    assert names == [*(f"imagenet-c fog-{n}" for n in SEVERITIES), "imagenet-c snow-5", "imagenet-c fog", "imagenet-c"]
    mean = np.mean([row["top1"] for row in rows[:5]])
    assert rows[-2]["top1"] == pytest.approx(mean)
    assert rows[-2]["CE"] == pytest.approx((100 - mean) / ALEXNET_ERROR["fog"])
    assert rows[-1] == {"test": "imagenet-c", "note": "no mCE: 6 of 75 corrupted sets are prepared"}


def test_the_whole_imagenet_c_keeps_75_accuracies_beside_its_means(loaded: Loaded, tmp_path: Path) -> None:
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            folders(tmp_path / "source" / corruption / str(severity), [synsets()[0]])
    prepare("imagenet-c", tmp_path / "source", tmp_path)
    small = override(loaded.recipe, {"image_size": 32})
    torch.manual_seed(0)
    model = loaded.method.build_model(small, 1000, "singlelabel").eval()
    tiny = Loaded(loaded.method, small, model, loaded.classes, loaded.task, "fresh")
    rows = Bench(tiny, Accelerator(cpu=True), tmp_path).imagenet_c()
    assert len(rows) == 75 + 15 + 1
    assert rows[-1]["mCE"] == pytest.approx(np.mean([row["CE"] for row in rows[75:90]]))
    assert rows[-1]["top1"] == pytest.approx(np.mean([row["top1"] for row in rows[:75]]))


def test_a_set_says_which_rules_it_brings_and_another_of_its_name_has_none(tmp_path: Path) -> None:
    prepare("imagenet-a", folders(tmp_path / "a", list(synsets("imagenet-a")[:2])), tmp_path)
    folders(tmp_path / "c" / "snow" / "5", list(synsets()[:2]))
    prepare("imagenet-c", tmp_path / "c", tmp_path)
    hard, corrupted = open_split("imagenet-a", "val", tmp_path), open_split("imagenet-c", "snow-5", tmp_path)
    assert own_rules(hard) == ["only its 200 classes of 1000 compete"]
    assert own_rules(corrupted) == ["images are taken as published (224 x 224, not resized and cropped)"]
    assert own_rules(replace(hard, classes=("a", "b"))) == []
