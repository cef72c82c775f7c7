"""`val --backgrounds`: objects on other contexts, contexts alone, noise on either: of models that are known to look at
the object, or at the context, and against figures by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record
from attnbias.methods.engine.attention_measures import (
    BACKGROUND_FLAGS,
    BACKGROUNDS,
    foreground_sensitivity,
)
from attnbias.methods.engine.bias.backgrounds import (
    SIGMA,
    Contexts,
    noise_like,
    score_backgrounds,
    versions,
)
from attnbias.methods.engine.bias.objects import Region, Sample, regions
from attnbias.methods.engine.evaluation.comparison import compared, read_run, swapped_change
from attnbias.methods.engine.evaluation.evaluate import evaluate
from attnbias.methods.engine.load import Loaded
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from tests.helpers import measure_tables
from tests.helpers.command_line import attnbias

SIDE = 32
CLASSES = ("red", "green")
REPO = Path(__file__).parents[2]


class Reads(nn.Module):
    """Names the class by the colour in the middle, where objects are, or by the brightness of the corner."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.gain = what, nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        middle, corner = images[:, :, 14:18, 14:18].mean((2, 3)), images[:, :, :3, :3].mean((1, 2, 3))
        if self.what == "object":
            return self.gain * (middle[:, :2] - middle[:, :2].flip(1))
        return self.gain * torch.stack([corner - 0.5, 0.5 - corner], dim=1)


class Startled(Reads):
    """Names by the object, but the other class where the middle, or the corner, is rough."""

    def forward(self, images: Tensor) -> Tensor:
        looked_at = images[:, :, 14:18, 14:18] if self.what == "middle" else images[:, :, :3, :3]
        rough = looked_at.std((2, 3)).mean(1) > 0.05
        right = Reads("object")(images)
        return torch.where(rough[:, None], right.flip(1), right)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A red or green square in the middle; red on a bright context and green on a dark one, as in training."""
    folder = tmp_path_factory.mktemp("squares")
    records = []
    for number in range(8):
        label = number % 2
        pixels = np.full((SIDE, SIDE, 3), 50 if label else 200, np.uint8)
        pixels[12:20, 12:20] = (0, 255, 0) if label else (255, 0, 0)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        records.append(Record(f"{number}.png", label, (Box(label, 12, 12, 8, 8),)))
    return Index("squares", "val", "singlelabel", CLASSES, folder, tuple(records))


def loaded(what: str) -> Loaded:
    method = get_method("csra")
    recipe = override(method.named_recipe("demo-single").recipe, {"image_size": SIDE})
    return Loaded(method, recipe, Reads(what).eval(), CLASSES, "singlelabel", "none")


def measured(what: str, index: Index, network: type[Reads] = Reads, **options: Any) -> dict[str, Any]:
    model, accelerator = replace(loaded(what), model=network(what).eval()), Accelerator(cpu=True)
    dataset = model.method.open_dataset(model.recipe, index)
    found = evaluate(model.method, model.model, dataset, model.recipe, accelerator)
    return score_backgrounds(model, dataset, found, accelerator, **options).content()


def test_a_model_of_objects_and_one_of_contexts_are_told_apart(squares: Index) -> None:
    by_object, by_context = (measured(what, squares)["means"] for what in ("object", "context"))
    assert by_object["original"] == by_context["original"] == 1
    assert (by_object["mixed_same"], by_object["mixed_rand"], by_object["bg_gap"]) == (1, 1, 0)
    assert (by_context["mixed_same"], by_context["mixed_rand"], by_context["bg_gap"]) == (1, 0, 1)
    assert by_context["only_bg_b"] == by_context["only_bg_t"] == 1
    assert by_object["only_bg_b"] == by_object["only_bg_t"] == 0.5  # nothing is left to tell: always the first class
    assert by_context["noise_on_object"] == 1
    assert by_object["noise_on_context"] == 1


@pytest.mark.parametrize(("what", "on_object", "expected"), [("middle", 0, 1), ("corner", 1, -1)])
def test_sensitivity_is_that_of_the_part_whose_noise_hurts(
    what: str, on_object: float, expected: float, squares: Index
) -> None:
    means = measured(what, squares, Startled)["means"]
    assert (means["noise_on_object"], means["noise_on_context"]) == (on_object, 1 - on_object)
    assert means["rfs"] == expected


def test_batches_change_nothing_and_every_figure_of_the_table_is_there(squares: Index) -> None:
    found = measured("object", squares, batch_size=3)
    assert found == measured("object", squares, batch_size=16)
    assert [*found["means"]] == [figure.name for figure in BACKGROUNDS]
    assert found["samples"] == 8


def test_contexts_are_other_images_without_their_objects(squares: Index) -> None:
    dataset = loaded("object").method.open_dataset(loaded("object").recipe, squares)
    contexts = Contexts(dataset, range(8), "boxes")
    _, (region,), scale = regions(dataset, 2, "boxes")
    sample = Sample(2, 0, region, scale)
    same, other = (contexts.of_another(sample, same=wanted) for wanted in (True, False))
    assert same is not None
    assert other is not None
    assert torch.allclose(same, torch.full((3, SIDE, SIDE), 200 / 255), atol=0.02)  # nothing red is left
    assert torch.allclose(other, torch.full((3, SIDE, SIDE), 50 / 255), atol=0.02)
    lonely = Contexts(dataset, [2], "boxes")
    assert lonely.of_another(sample, same=True) is None


def test_what_is_shown_is_composed_along_mask_and_box() -> None:
    rng = torch.Generator().manual_seed(0)
    image, same, other = (torch.rand(3, 20, 20, generator=rng) for _ in range(3))
    mask = np.zeros((20, 20), dtype=bool)
    mask[8:12, 9:11] = True
    sample = Sample(5, 0, Region(0, mask, np.zeros_like(mask), 1.0, mask), 1.0)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    shown = dict(zip(BACKGROUND_FLAGS, versions((image - mean) / std, sample, same, other, (mean, std)), strict=True))
    pixels = {name: (values * std + mean).numpy() for name, values in shown.items()}
    inside = np.broadcast_to(mask, (3, 20, 20))
    assert pixels["original"] == pytest.approx(image.numpy(), abs=1e-6)
    assert pixels["mixed_rand"][inside] == pytest.approx(image.numpy()[inside], abs=1e-6)
    assert pixels["mixed_rand"][~inside] == pytest.approx((other * std + mean).numpy()[~inside], abs=1e-6)
    box = np.zeros((3, 20, 20), dtype=bool)
    box[:, 6:14, 7:13] = True  # a sixteenth of 20, rounded up, around it
    assert abs(pixels["only_bg_b"][box]).max() < 1e-6
    for name in ("only_bg_b", "only_bg_t"):
        assert pixels[name][~box] == pytest.approx(image.numpy()[~box], abs=1e-6)
    assert pixels["noise_on_object"][~inside] == pytest.approx(image.numpy()[~inside], abs=1e-6)
    assert pixels["noise_on_context"][inside] == pytest.approx(image.numpy()[inside], abs=1e-6)
    for name in ("noise_on_object", "noise_on_context"):
        assert pixels[name].min() > -1e-6
        assert pixels[name].max() < 1 + 1e-6


def test_noise_has_one_norm_wherever_it_is() -> None:
    image, std = torch.zeros(3, 24, 24), torch.full((3, 1, 1), 0.5)
    small, large = torch.zeros(2, 24, 24, dtype=torch.bool)
    small[3:6, 3:6], large[5:] = True, True
    norms = [float((noise_like(image, part, std, seed=1) * std).norm()) for part in (small, large)]
    assert norms == pytest.approx([SIGMA * np.sqrt(3 * 24 * 24 / 2)] * 2, rel=1e-5)
    assert not noise_like(image, small, std, seed=1)[:, ~small].any()
    once, again, other = (noise_like(image, large, std, seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize(
    ("on_object", "on_context", "expected"),
    [(0.2, 0.6, 0.5), (0.6, 0.2, -0.5), (0.9, 0.9, 0.0), (0, 0.4, 1), (1, 1, float("nan"))],
)
def test_relative_foreground_sensitivity_by_hand(on_object: float, on_context: float, expected: float) -> None:
    flags = {
        name: (np.arange(10) < round(10 * share)).astype(np.float64)
        for name, share in (("noise_on_object", on_object), ("noise_on_context", on_context))
    }
    assert foreground_sensitivity(flags).value == pytest.approx(expected, nan_ok=True)


def test_a_set_of_one_class_has_no_other_context(squares: Index) -> None:
    alone = Index("alone", "val", "singlelabel", CLASSES, squares.root, squares.records[::2])
    with pytest.raises(DataError, match=r"alone/val has no object to put elsewhere \(4 no other context\)"):
        measured("object", alone)


def test_val_measures_and_compare_shows_it(demo_root: Path, tmp_path: Path) -> None:
    run, cpu = tmp_path / "run", ["--gpus", 0, "--threads", 1, "--data-root", demo_root]
    small = ["--recipe", "demo", "--epochs", 1, "--batch-size", 24, "--image-size", 32]
    attnbias("train", "csra", *small, *cpu, "--out", run, expect=0)
    said = attnbias("val", "csra", "--load-from", run, *cpu, "--backgrounds", "--store", expect=0).out
    assert "bg_gap" in said
    lines = {line.measure: line for line in compared([read_run(run)] * 2)}
    changes = {figure.name: lines[figure.name].changes[1] for figure in BACKGROUNDS}
    unpaired = [name for name, change in changes.items() if change is None or not change.paired]
    assert not [name for name in unpaired if name != "rfs"], "differences are of the same samples"
    (run / "evaluations" / "demo" / "val" / "backgrounds_samples.csv").unlink()
    assert "backgrounds_samples.csv is missing" in attnbias("compare", run, expect=3).err


def test_a_difference_of_sensitivities_is_paired_and_its_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(300), 2)
    base = rng.random(600)
    tables = []
    for on_object, on_context in ((0.3, 0.5), (0.2, 0.5)):
        shares = {"noise_on_object": on_object, "noise_on_context": on_context}
        tables.append({name: (base < share).astype(np.float64) for name, share in shares.items()})
    named = {"picture": images, "path": images.astype(str), "class": np.tile(["a", "b"], 300)}
    change = swapped_change(*({**named, **table} for table in tables), "rfs")
    assert change is not None
    assert change.interval_95 is not None
    drawn = []
    for _ in range(400):
        rows = (2 * rng.integers(300, size=300)[:, None] + [0, 1]).ravel()
        values = [
            foreground_sensitivity({name: flags[rows] for name, flags in table.items()}).value for table in tables
        ]
        drawn.append(values[1] - values[0])
    assert change.difference == pytest.approx(np.mean(drawn), abs=0.01)
    assert change.interval_95 == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.015)
    assert change.p < 0.001


def test_the_documentation_has_exactly_the_table() -> None:
    assert measure_tables.attention(BACKGROUNDS) in (REPO / "methods" / "engine" / "bias" / "README.md").read_text()
