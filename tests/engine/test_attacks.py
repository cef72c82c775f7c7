"""Attacks, corruptions and robustness figures: for whatever classifies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Index, Record
from attnbias.data.prepared import Prepared
from attnbias.data.published_tests import competing_scores
from attnbias.data.transforms.basic import eval_transform, normalization
from attnbias.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, Corrupted, corrupt, precropped_transform
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.evaluation.attacks import ATTACKS, Attack, adversarial
from attnbias.methods.engine.evaluation.robustness import (
    ALEXNET_ERROR,
    Bench,
    corruption_errors,
    write_table,
)
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method

MEAN, STD = normalization("imagenet")


class Normalised(nn.Module):
    """A small classifier of normalised images, and the same one of pixels in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 6)
        )
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def of_pixels(self) -> nn.Module:
        outer = self

        class OfPixels(nn.Module):
            def forward(self, pixels: Tensor) -> Tensor:
                return outer((pixels - outer.mean) / outer.std)

        return OfPixels().eval()


@pytest.fixture
def scene() -> tuple[Normalised, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(4, 3, 32, 32, generator=generator)
    pixels[:, :, :4] = 0.0  # black and white parts: the clamp to the pixel range is met
    pixels[:, :, -4:] = 1.0
    return Normalised().eval(), pixels, torch.tensor([0, 1, 2, 3])


def attacked(model: nn.Module, pixels: Tensor, targets: Tensor, attack: Attack, start: Tensor | None = None) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return adversarial(model, (pixels - mean) / std, targets, attack, MEAN, STD, start=start) * std + mean


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of equal pixels: normalising in another order may flip the sign of a vanishing gradient."""
    return ((ours - theirs).abs() < 1e-5).float().mean().item()


def test_fgsm_agrees_with_torchattacks(scene: tuple[Normalised, Tensor, Tensor]) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="needs pip install -e '.[oracles]'")
    model, pixels, targets = scene
    theirs = torchattacks.FGSM(model.of_pixels(), eps=1 / 255)(pixels, targets)
    assert agreement(attacked(model, pixels, targets, ATTACKS["fgsm"]), theirs) > 0.999


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255])
def test_pgd_agrees_with_torchattacks(scene: tuple[Normalised, Tensor, Tensor], epsilon: float) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="needs pip install -e '.[oracles]'")
    model, pixels, targets = scene
    oracle = torchattacks.PGD(model.of_pixels(), eps=epsilon, alpha=epsilon / 2, steps=5, random_start=True)
    torch.manual_seed(3)
    theirs = oracle(pixels, targets)
    torch.manual_seed(3)
    start = torch.empty_like(pixels).uniform_(-1, 1)
    ours = attacked(model, pixels, targets, Attack(epsilon, epsilon / 2, 5, True), start)
    assert agreement(ours, theirs) > 0.999


def test_an_attack_stays_in_its_ball_raises_the_loss_and_leaves_no_gradient(
    scene: tuple[Normalised, Tensor, Tensor],
) -> None:
    model, pixels, targets = scene
    for attack in ATTACKS.values():
        changed = attacked(model, pixels, targets, attack)
        assert (changed - pixels).abs().max() <= attack.epsilon + 1e-6
        assert changed.min() >= -1e-6
        assert changed.max() <= 1 + 1e-6
        of_pixels = model.of_pixels()
        before, after = (nn.functional.cross_entropy(of_pixels(x), targets) for x in (pixels, changed))
        assert after > before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_attack_works_inside_an_evaluation_loop(scene: tuple[Normalised, Tensor, Tensor]) -> None:
    model, pixels, targets = scene
    outside = attacked(model, pixels, targets, ATTACKS["fgsm"])
    with torch.no_grad():
        assert torch.equal(attacked(model, pixels, targets, ATTACKS["fgsm"]), outside)


def test_unknown_labels_do_not_steer_an_attack(scene: tuple[Normalised, Tensor, Tensor]) -> None:
    model, pixels, _ = scene
    targets = torch.zeros(4, 6)
    targets[:, 0], targets[:, 1] = 1, -1
    attack = ATTACKS["fgsm"]
    changed = adversarial(model, pixels, targets, attack, MEAN, STD, task="multilabel")
    with torch.no_grad():
        model.layers[-1].weight[1] *= -3  # another opinion on the unknown class
    assert torch.equal(adversarial(model, pixels, targets, attack, MEAN, STD, task="multilabel"), changed)


# Corruptions ----------------------------------------------------------------------------------------------------------


def scenery(size: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] / size
    channels = [np.sin(9 * rows + 4 * columns * place) * 0.5 + 0.5 for place in (1, 2, 3)]
    edges = ((rows * 7.3).astype(int) + (columns * 7.3).astype(int)) % 2 * 0.4
    return np.uint8(np.clip(np.stack(channels, -1) * 0.6 + edges[..., None], 0, 1) * 255)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_the_shape_repeats_by_seed_and_grows_with_severity(name: str) -> None:
    image = scenery()
    damage = []
    for severity in SEVERITIES:
        once, again = (corrupt(image, name, severity, np.random.default_rng(7)) for _ in range(2))
        assert once.shape == image.shape
        assert once.dtype == np.uint8
        assert np.array_equal(once, again)
        damage.append(np.abs(once.astype(float) - image).mean())
    assert min(damage) > 0.5
    if name != "elastic_transform":  # its published strengths change in kind, from wide to local
        assert damage[4] > damage[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (40, 57)])
def test_a_corruption_takes_small_and_oblong_images(name: str, size: tuple[int, int]) -> None:
    image = scenery()[: size[0], : size[1]]
    assert corrupt(image, name, 5, np.random.default_rng(0)).shape == image.shape


def test_every_corruption_has_an_alexnet_error() -> None:
    assert CORRUPTIONS.keys() == ALEXNET_ERROR.keys()


def test_noise_and_brightness_have_the_published_strength() -> None:
    grey = np.full((224, 224, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    assert np.std(corrupt(grey, "gaussian_noise", 3, rng) / 255) == pytest.approx(0.18, rel=0.02)
    assert np.mean(corrupt(grey, "impulse_noise", 5, rng) != 128) == pytest.approx(0.27, rel=0.03)
    assert np.mean(corrupt(grey, "brightness", 2, rng) / 255) == pytest.approx(128 / 255 + 0.2, abs=0.003)


def test_corrupted_images_follow_the_sample_not_the_order(tmp_path: Path) -> None:
    for position in range(3):
        Image.fromarray(np.roll(scenery(), position, 0)).save(tmp_path / f"{position}.png")
    records = tuple(Record(f"{position}.png", position) for position in range(3))
    index = Index("x", "val", "singlelabel", ("a", "b", "c"), tmp_path, records)
    dataset = ImageDataset(index, Corrupted(eval_transform(48, "imagenet"), "gaussian_noise", 3, "imagenet"))
    first = [dataset[position]["image"] for position in range(3)]
    assert torch.equal(dataset[2]["image"], first[2])
    assert first[0].shape == (3, 48, 48)
    clean = ImageDataset(index, eval_transform(48, "imagenet"))[0]["image"]
    assert 0.05 < ((first[0] - clean) * torch.tensor(STD).view(3, 1, 1)).std() < 0.3


def test_published_corrupted_images_are_not_resized() -> None:
    image = Image.fromarray(scenery(240))
    at_224, at_160 = (precropped_transform(size, "unit")(image) for size in (224, 160))
    assert at_160.shape == (3, 160, 160)
    expected = np.asarray(image.crop((8, 8, 232, 232)), dtype=np.float32) / 255
    np.testing.assert_allclose(at_224.permute(1, 2, 0).numpy(), expected, atol=1e-6)


# Figures --------------------------------------------------------------------------------------------------------------


def test_alexnet_itself_has_a_mean_corruption_error_of_100() -> None:
    found = corruption_errors({name: [100 - 100 * error] * 5 for name, error in ALEXNET_ERROR.items()})
    assert found.mce == pytest.approx(100)
    assert list(found.error.values()) == pytest.approx([100] * 15)


def test_an_unknown_corruption_is_refused() -> None:
    with pytest.raises(UsageError, match="rain"):
        corruption_errors({"rain": [1.0]})


def test_only_the_competing_classes_can_win() -> None:
    scores = np.array([[0.1, 0.2, 0.7, 0.0], [0.5, 0.1, 0.3, 0.1]], dtype=np.float32)
    np.testing.assert_allclose(competing_scores(scores, (1, 3)), [[0, 0.2, 0, 0.0], [0, 0.1, 0, 0.1]])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A tiny AbSViT with random weights over a prepared set of six images."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    for position in range(6):
        Image.fromarray(np.roll(scenery(64), 9 * position, 1)).save(folder / f"{position}.png")
    records = tuple(Record(f"{position}.png", position % 3) for position in range(6))
    prepare(folder, Index(str(folder), "val", "singlelabel", ("a", "b", "c"), folder, records))
    method = get_method("absvit")
    recipe = override(method.named_recipe("demo-single").recipe, {"dataset": str(folder)})
    torch.manual_seed(0)
    model = method.build_model(recipe, 3, "singlelabel").eval()
    loaded = Loaded(method, recipe, model, ("a", "b", "c"), "singlelabel", "fresh")
    return Bench(loaded, Accelerator(cpu=True), batch_size=2)


def prepare(folder: Path, index: Index) -> None:
    index.write(folder / "index" / "val.json")
    Prepared(dataset=folder.name, splits=("val",), roles={"val": "val"}).write(folder)


def test_one_table_for_clean_attacked_and_corrupted_images(bench: Bench, tmp_path: Path) -> None:
    rows = [
        *bench.clean("val"),
        *bench.attacked("val", "pgd", ATTACKS["pgd"]),
        *bench.corrupted("val", ["fog", "pixelate"], (1, 5)),
    ]
    assert [row["test"].split()[-1].rsplit("/")[-1] for row in rows] == ["val", "pgd", "fog", "pixelate", "corrupted"]
    assert rows[-1]["top1"] == pytest.approx((rows[2]["top1"] + rows[3]["top1"]) / 2)
    assert bench.attacked("val", "pgd", ATTACKS["pgd"]) == rows[1:2]  # the random start repeats
    write_table(tmp_path / "table.json", rows)
    write_table(tmp_path / "table.csv", rows)
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    with (tmp_path / "table.csv").open() as file:
        assert [row["test"] for row in csv.DictReader(file)] == [row["test"] for row in rows]


def test_a_misspelt_corruption_is_a_usage_error(bench: Bench) -> None:
    with pytest.raises(UsageError, match="did you mean 'fog'"):
        bench.corrupted("val", ["fogg"])
