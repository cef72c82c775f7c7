"""What is typed reaches what is computed: options of an evaluation, the strength of attacks, the fill, the radius."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torchvision.transforms.v2.functional import gaussian_blur

from attnbias.data.datasets import ImageDataset
from attnbias.data.index import Box, Index, Record
from attnbias.data.prepared import Prepared
from attnbias.data.transforms.basic import normalization
from attnbias.methods.engine.bias import faithfulness
from attnbias.methods.engine.bias.reliance import blurred_in, from_elsewhere, score_reliance
from attnbias.methods.engine.bias.report import measure_bias
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.evaluation.attacks import Attack
from attnbias.methods.engine.evaluation.evaluate import Evaluation, evaluate, write_scores
from attnbias.methods.engine.evaluation.robustness import Bench
from attnbias.methods.engine.load import Loaded, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import ValRequest
from attnbias.methods.engine.types import Layer
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias

SIDE = 32
IMAGES = 6
CSRA = get_method("csra")


class Watching(nn.Module):
    """Scores each class by the mean of its colour channel, and keeps every batch that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))
        self.eye = nn.Identity()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.gain * self.eye(images).mean((2, 3))


class Pointing(type(CSRA)):  # type: ignore[misc]
    """CSRA with maps that are high at one place of the network's plane."""

    def __init__(self, row: int = 0, column: int = 0) -> None:
        self.row, self.column = row, column

    def attention(
        self, model: nn.Module, images: Tensor, classes: Tensor | None = None, *, kind: Any = None, head: Any = None
    ) -> Tensor:
        assert classes is not None
        maps = torch.zeros(len(images), classes.shape[-1], *images.shape[2:])
        maps[:, :, self.row, self.column] = 1
        return maps

    def explained_layer(self, model: nn.Module) -> Layer:
        return Layer(model.get_submodule("eye"))


def index_of(folder: Path, side: int = SIDE, box: tuple[int, int, int, int] = (8, 8, 16, 16)) -> Index:
    """Images with one object of class 0 each."""
    rng = np.random.default_rng(0)
    records = []
    for position in range(IMAGES):
        name = f"{position}.png"
        Image.fromarray(rng.integers(64, 192, (side, side, 3), dtype=np.uint8)).save(folder / name)
        records.append(Record(name, (1, 0, 0), (Box(0, *box),)))
    return Index(str(folder), "val", "multilabel", ("a", "b", "c"), folder, tuple(records))


def loaded_with(method: Any = CSRA, **fields: Any) -> Loaded:
    recipe = override(CSRA.named_recipe("demo").recipe, {"image_size": SIDE, **fields})
    return Loaded(method, recipe, Watching().eval(), ("a", "b", "c"), "multilabel", "none")


def evaluated(loaded: Loaded, index: Index) -> tuple[ImageDataset, Evaluation]:
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    return dataset, evaluate(loaded.method, loaded.model, dataset, loaded.recipe, Accelerator(cpu=True))


# Options of the command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = CSRA.named_recipe("demo").recipe
    torch.manual_seed(0)
    model = CSRA.build_model(recipe, 10, "multilabel")
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_weights(
        path, model.state_dict(), weights_metadata(CSRA, recipe, tuple(f"digit_{n}" for n in range(10)), "multilabel")
    )
    return path


def val(weights: Path, root: Path, *more: Any) -> dict[str, Any]:
    common = ["--load-from", weights, "--data-root", root, "--gpus", 0, "--threads", 1, "--json", "-"]
    (result,) = json.loads(attnbias("val", "csra", *common, *more, expect=0).out)
    return dict(result)


def test_the_severities_that_are_typed_are_measured(weights: Path, demo_root: Path) -> None:
    mild, strong, both = (
        val(weights, demo_root, "--corrupt", "contrast", "--severity", typed)["robustness"][-1]["mAP"]
        for typed in ("1", "5", "1,5")
    )
    assert mild != strong
    assert both == pytest.approx((mild + strong) / 2)


def test_tau_and_truth_reach_the_measures_of_attention(weights: Path, demo_root: Path) -> None:
    usual = val(weights, demo_root, "--bias", "--reliance")
    focused = val(weights, demo_root, "--bias", "--tau", "0.9")["bias"]
    boxes = val(weights, demo_root, "--bias", "--reliance", "--truth", "boxes")
    assert focused["tau"] == 0.9
    assert focused["means"]["focus_area"] < usual["bias"]["means"]["focus_area"]
    assert usual["bias"]["truth"] == usual["reliance"]["truth"] == "masks"
    assert boxes["bias"]["truth"] == boxes["reliance"]["truth"] == "boxes"
    assert boxes["bias"]["means"]["area_share"] > usual["bias"]["means"]["area_share"]
    assert boxes["reliance"]["means"]["object_only"] != usual["reliance"]["means"]["object_only"]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("policy", "other", "expected"), [("negative", "ignore", 0), ("ignore", "negative", -1)])
def test_unknown_labels_count_as_the_recipe_says_of_training_and_of_evaluation(
    tmp_path: Path, policy: str, other: str, expected: int, train: bool
) -> None:
    index = index_of(tmp_path)
    records = tuple(record._replace(target=(1, -1, 0)) for record in index.records)
    policies = {"unknown_train": policy, "unknown_eval": other} if train else {"unknown_eval": policy}
    loaded = loaded_with(**policies)
    dataset = loaded.method.open_dataset(loaded.recipe, replace(index, records=records), train=train)
    assert dataset.targets[:, 1].tolist() == [expected] * IMAGES


# Attacks --------------------------------------------------------------------------------------------------------------


def test_the_strength_of_an_attack_is_typed_in_levels_of_255() -> None:
    def strength(attack: str, epsilon: Any = None, step: Any = None, steps: Any = None) -> dict[str, Any]:
        typed = {"epsilon": epsilon, "attack_step": step, "attack_steps": steps}
        return ValRequest(method="csra", load_from=["run"], attack=["fgsm", "pgd"], **typed).strength(attack)

    assert strength("pgd", 8, 2, 3) == {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 3}
    assert strength("fgsm", 4) == {"epsilon": 4 / 255, "step_size": 4 / 255}
    assert strength("fgsm", 4, 1) == {"epsilon": 4 / 255, "step_size": 1 / 255}
    assert strength("pgd") == {}


def starts(folder: Path, batch_size: int) -> list[Tensor]:
    """How PGD changes each batch before its first step, in shares of the ball's radius."""
    index = index_of(folder)
    index.write(folder / "index" / "val.json")
    Prepared(dataset=folder.name, splits=("val",), roles={"val": "val"}).write(folder)
    loaded = loaded_with(dataset=str(folder))
    model = loaded.model
    assert isinstance(model, Watching)
    epsilon = 8 / 255
    bench = Bench(loaded, Accelerator(cpu=True), batch_size=batch_size)
    bench.attacked("val", "pgd", Attack(epsilon, step_size=0, steps=1))
    attacked = model.seen[1::2]  # after the images whose gradient was taken
    model.seen.clear()
    bench.clean("val")
    std = torch.tensor(normalization(loaded.recipe.normalize)[1]).view(3, 1, 1)
    return [(after - before) * std / epsilon for after, before in zip(attacked, model.seen, strict=True)]


def test_a_random_start_fills_the_whole_ball(tmp_path: Path) -> None:
    (change,) = starts(tmp_path, IMAGES)
    assert 0.99 < change.max() <= 1 + 1e-4
    assert -1 - 1e-4 <= change.min() < -0.99
    assert change.abs().mean() == pytest.approx(0.5, abs=0.01)


def test_every_batch_has_a_random_start_of_its_own_and_the_same_each_time(tmp_path: Path) -> None:
    first, *others = starts(tmp_path, 2)
    assert all((first - other).abs().mean() > 0.1 for other in others)
    for change, again in zip([first, *others], starts(tmp_path, 2), strict=True):
        torch.testing.assert_close(change, again)


# Bias, reliance, faithfulness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "hit"), [(8, 1), (12, 0)])
def test_the_pointing_games_radius_shrinks_with_the_image(tmp_path: Path, column: int, hit: int) -> None:
    """15 pixels of the image are 3.75 of a plane of a quarter of its size, where the box ends at 6."""
    index = index_of(tmp_path, side=4 * SIDE)
    loaded = loaded_with(Pointing(row=4, column=column))
    report = measure_bias(loaded, *evaluated(loaded, index), Accelerator(cpu=True))
    assert report.summary()["pointing"] == hit
    assert report.summary()["pointing_no_tolerance"] == 0


def test_what_is_taken_away_comes_from_an_image_without_the_class(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    second = Box(1, 8, 8, 16, 16)
    records = [
        record._replace(target=(0, 1, 0), boxes=(second,)) if position % 2 else record
        for position, record in enumerate(index.records)
    ]
    loaded = loaded_with()
    dataset, found = evaluated(loaded, Index("pairs", "val", "multilabel", index.classes, tmp_path, tuple(records)))
    model = loaded.model
    assert isinstance(model, Watching)
    model.seen.clear()
    score_reliance(loaded, dataset, found, Accelerator(cpu=True), batch_size=2)
    assert [len(batch) for batch in model.seen] == [2] * 15  # five of each image; the batch is what was asked for
    images = torch.stack([dataset[position]["image"] for position in range(2)])
    whole, alone, context, tile, blur = (batch[0] for batch in model.seen[:5])
    hidden, mask = torch.zeros(SIDE, SIDE, dtype=torch.bool), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[8:24, 8:24] = True
    hidden[6:26, 6:26] = True  # a sixteenth of 32 more on each side
    assert torch.equal(whole, images[0])
    assert torch.equal(alone, torch.where(mask, images[0], images[1]))
    assert torch.equal(context, torch.where(hidden, images[1], images[0]))
    for filled in (tile, blur):
        assert torch.equal(filled[:, ~hidden], whole[:, ~hidden])


@pytest.mark.parametrize("fill", [blurred_in, from_elsewhere])
@pytest.mark.parametrize("box", [(2, 5, 9, 8), (0, 0, 30, 20), (0, 0, 32, 31)])
def test_fillings_know_nothing_of_what_they_hide(fill: Any, box: tuple[int, int, int, int]) -> None:
    x, y, w, h = box
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[y : y + h, x : x + w] = True
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    filled, other = (fill(torch.where(hidden, value, image), hidden)[:, hidden] for value in (image, -9 * image))
    assert torch.equal(filled, other)
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_what_is_blurred_in_is_a_gaussian_of_what_is_seen(tmp_path: Path) -> None:
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[4:20, 6:30] = True
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seen = (~hidden).float()[None]
    whole, weight = (gaussian_blur(each, [17, 17], [4.0, 4.0]) for each in (image * seen, seen))
    torch.testing.assert_close(blurred_in(image, hidden), whole / weight)


def test_faithfulness_takes_its_samples_from_the_whole_split(tmp_path: Path) -> None:
    loaded = loaded_with(Pointing())
    dataset, found = evaluated(loaded, index_of(tmp_path))
    model = loaded.model
    assert isinstance(model, Watching)
    model.seen.clear()
    faithfulness.score_faithfulness(loaded, dataset, found, Accelerator(cpu=True), 3, batch_size=64)
    images = [dataset[position]["image"] for position in range(IMAGES)]
    curves = [batch for batch in model.seen if len(batch) > 1]
    # Deletion begins with the whole image: of each sample once for its map, and once for a random one.
    begun = [position for batch in curves for position in range(IMAGES) if torch.equal(images[position], batch[0])]
    shown = list(dict.fromkeys(begun))
    assert shown == [0, 2, 5]


def test_the_batch_size_reaches_every_part_of_an_evaluation_and_changes_no_figure(
    weights: Path, demo_root: Path
) -> None:
    parts, largest = ("--bias", "--reliance", "--faithfulness", "2"), 0

    def watch(module: nn.Module, inputs: Any) -> None:
        nonlocal largest
        if isinstance(module, nn.Conv2d):
            largest = max(largest, len(inputs[0]))

    with register_module_forward_pre_hook(watch):
        single = val(weights, demo_root, *parts, "--eval-batch-size", 1)
    assert largest < 10  # reliance has an image for each object of one image
    whole = val(weights, demo_root, *parts)
    for part in ("measures", "bias", "reliance", "faithfulness"):
        assert nearly(single[part], whole[part]), part


def nearly(first: Any, second: Any) -> bool:
    """Equal but for rounding in sums of another length."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(nearly(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(nearly, first, second))
    return bool(first == (pytest.approx(second, rel=1e-4, abs=1e-4) if isinstance(second, float) else second))


# Files and refusals ---------------------------------------------------------------------------------------------------


def test_unknown_labels_stay_unknown_in_the_table(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    records = tuple(record._replace(target=(1, -1, 0)) for record in index.records)
    loaded = loaded_with(unknown_eval="ignore")
    dataset, found = evaluated(loaded, replace(index, records=records))
    write_scores(tmp_path / "scores.csv", found, dataset)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [record.path for record in records]
    assert {(row["target:a"], row["target:b"], row["target:c"]) for row in rows} == {("1", "-1", "0")}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_and_the_image_is_named(tmp_path: Path, value: float) -> None:
    class Broken(type(CSRA)):  # type: ignore[misc]
        def answer(self, model: nn.Module, batch: Any, dataset: Any, recipe: Any) -> dict[str, Tensor]:
            return {"scores": torch.where(batch["index"][:, None] == 4, value, torch.zeros(len(batch["index"]), 3))}

    with pytest.raises(RunError, match=r"scores of 4\.png hold NaN or infinity"):
        evaluated(loaded_with(Broken()), index_of(tmp_path))


def test_val_and_predict_of_damaged_weights_end_in_one_line(weights: Path, demo_root: Path, tmp_path: Path) -> None:
    with safe_open(weights, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    state["classifier.weight"][0, 0, 0] = float("nan")
    damaged = tmp_path / "damaged.safetensors"
    write_weights(damaged, state, metadata)
    common = ["--load-from", damaged, "--gpus", 0]
    image = next((demo_root / "demo").rglob("*.jpg"))
    for command in (["val", "csra", *common, "--data-root", demo_root], ["predict", *common, image]):
        failed = attnbias(*command)
        assert failed.code in (1, 3)
        assert "NaN" in failed.line
