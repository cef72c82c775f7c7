"""`val --bias`, `--reliance`, `--context`: known maps and models end to end, real photographs, processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from attnbias.data.datasets import ImageDataset
from attnbias.data.errors import DataError
from attnbias.data.index import Box, Index, Record
from attnbias.data.sets.coco import read_coco
from attnbias.methods import METHODS
from attnbias.methods.engine.bias.attention_bias import centre_map
from attnbias.methods.engine.bias.context import Pair, pair_measures
from attnbias.methods.engine.bias.faithfulness import score_faithfulness
from attnbias.methods.engine.bias.objects import Region, Sample, regions
from attnbias.methods.engine.bias.reliance import COLUMNS, Donors, score_reliance, versions, widened
from attnbias.methods.engine.bias.report import BiasReport, Row, measure_bias
from attnbias.methods.engine.description import AT_LAYER
from attnbias.methods.engine.evaluation.evaluate import evaluate
from attnbias.methods.engine.load import Loaded, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.types import Layer
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.forked import ForkedRun

SIDE = 32
COLOURS = ("red", "lime", "blue")  # class k is a square that fills colour channel k


class Squares(nn.Module):
    """Finds a class by its colour anywhere, or, blind to objects, by the corner of the image."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind
        self.gain = nn.Parameter(torch.tensor(12.0))
        self.eye = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        images = self.eye(images)
        found = images[:, :, 0, 0] if self.blind else images.amax((2, 3))
        return self.gain * (found - 0.8)


class Looking(type(get_method("csra"))):  # type: ignore[misc]
    """CSRA's recipes and pipeline with a map that is known: the class's own channel, changed by `look`."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def attention(
        self, model: nn.Module, images: Tensor, classes: Tensor | None = None, *, kind: Any = None, head: Any = None
    ) -> Tensor:
        assert classes is not None
        wanted = classes.expand(len(images), -1)  # (B, K)
        return self.look(torch.take_along_dim(images, wanted[:, :, None, None], dim=1))

    def explained_layer(self, model: nn.Module) -> Layer:
        return Layer(model.get_submodule("eye"))


LOOKS = {
    "perfect": lambda channel: (channel > 0.9).float(),
    "signed": lambda channel: 2 * (channel > 0.9).float() - 1,
    "inverted": lambda channel: (channel <= 0.9).float(),
    "uniform": torch.ones_like,
}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Eight images with a square each of two classes, whose corner has the colours of the two as well."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    records = []
    for number in range(8):
        pixels = np.full((SIDE, SIDE, 3), 40, np.uint8)
        classes = sorted(rng.choice(3, 2, replace=False).tolist())
        boxes = []
        for position, label in enumerate(classes):
            side, x, y = (int(v) for v in rng.integers([3, 2, 2], [9, 6, 20]))
            x += 16 * position
            pixels[y : y + side, x : x + side, label] = 255
            boxes.append(Box(label, x, y, side, side))
        pixels[0, 0, classes] = 220  # 0.86: named by the blind model, not part of an object
        Image.fromarray(pixels).save(folder / f"{number}.png")
        target = tuple(int(label in classes) for label in range(3))
        records.append(Record(f"{number}.png", target, tuple(boxes), group="odd" if number % 2 else "even"))
    return Index("squares", "val", "multilabel", COLOURS, folder, tuple(records))


def known(look: str = "perfect", blind: bool = False) -> Loaded:
    method = Looking(LOOKS[look])
    recipe = override(method.named_recipe("demo").recipe, {"image_size": SIDE})
    return Loaded(method, recipe, Squares(blind).eval(), COLOURS, "multilabel", "none")


def bias_of(loaded: Loaded, index: Index, **options: Any) -> BiasReport:
    accelerator = Accelerator(cpu=True)
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    found = evaluate(loaded.method, loaded.model, dataset, loaded.recipe, accelerator)
    return measure_bias(loaded, dataset, found, accelerator, **options)


# Known maps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", ["perfect", "signed"])
def test_a_map_of_exactly_the_object_is_unbiased(squares: Index, look: str) -> None:
    report = bias_of(known(look), squares)
    means = report.summary()
    assert len(report.rows) == 16
    assert report.truth == "boxes"
    for name in ("unbiased", "precision", "recall", "iou", "energy", "pointing_no_tolerance", "area_matched", "pxap"):
        assert means[name] == pytest.approx(1), name
    for name in ("position_biased", "range_biased", "spill", "degenerate"):
        assert means[name] == 0, name
    assert report.intervals()["iou"] == (1, 1)


def test_a_map_of_everything_else_is_position_biased(squares: Index) -> None:
    means = bias_of(known("inverted"), squares).summary()
    assert (means["position_biased"], means["energy"], means["area_matched"]) == (1, 0, 0)
    assert means["pxap"] == pytest.approx(means["area_share"])  # the object's pixels come last, all at once
    assert means["range_biased_given_not_position"] is None  # there is no such sample


def test_a_uniform_map_is_the_uniform_baseline(squares: Index) -> None:
    report = bias_of(known("uniform"), squares)
    means = report.summary()
    assert means == pytest.approx(report.baselines["uniform"], nan_ok=True)
    assert (means["degenerate"], means["energy_lift"]) == (1, pytest.approx(1))
    assert means["pxap"] == pytest.approx(means["area_share"])
    assert report.baselines["centre"]["degenerate"] == 0


@pytest.mark.parametrize("cell", [1, 4])
def test_the_oracle_of_a_map_s_grid_scores_one_between_the_baselines_and_the_centre_nothing(
    squares: Index, cell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best that a coarse grid allows is not 1, and no fault of the model."""
    objects = LOOKS["perfect"]
    middle = torch.from_numpy(centre_map(SIDE, SIDE))
    monkeypatch.setitem(LOOKS, "oracle", lambda maps: nn.functional.avg_pool2d(objects(maps), cell))
    monkeypatch.setitem(LOOKS, "centre", lambda maps: middle.expand(*maps.shape[:2], -1, -1))
    oracle, centre = (bias_of(known(look), squares) for look in ("oracle", "centre"))
    assert oracle.summary() == pytest.approx(oracle.baselines["oracle"], nan_ok=True)
    for name in ("energy", "area_matched", "iou", "pxap", "energy_lift", "position_biased", "centroid_shift"):
        assert oracle.between()[name] == pytest.approx(1), name
        assert centre.between()[name] == pytest.approx(0, abs=1e-9), name
    if cell == 4:
        assert oracle.summary()["energy"] < 0.9
        assert oracle.summary()["range_biased"] > 0.5  # however right it is


def test_batches_change_nothing(squares: Index) -> None:
    whole, single = (bias_of(known("inverted"), squares, batch_size=size) for size in (8, 1))
    assert whole.rows == single.rows
    assert whole.content() == single.content()


# What is left out -----------------------------------------------------------------------------------------------------


def test_samples_left_out_are_counted_by_reason(squares: Index) -> None:
    first, second, third, *_ = squares.records
    classes = [np.flatnonzero(record.target).tolist() for record in (first, second, third)]
    records = (
        first._replace(boxes=first.boxes[:1]),
        second._replace(boxes=(Box(classes[1][0], 0, 0, SIDE, SIDE), second.boxes[1])),
        third._replace(boxes=(Box(classes[2][0], -9, 0, 10, 10), Box(classes[2][1], 3, 3, 9, 9, crowd=True))),
    )
    index = Index("squares", "val", "multilabel", COLOURS, squares.root, records)
    report = bias_of(known(), index)
    assert report.skipped == {"unannotated": 2, "full": 1, "empty": 1}
    assert [(row.image, row.label) for row in report.rows] == [(0, classes[0][0]), (1, classes[1][1])]
    with pytest.raises(DataError, match="no boxes"):
        bias_of(known(), Index("squares", "val", "multilabel", COLOURS, squares.root, (first._replace(boxes=()),)))
    with pytest.raises(DataError, match="has no masks"):
        bias_of(known(), squares, truth="masks")


def test_what_a_crop_cuts_off_is_seen(squares: Index) -> None:
    crop = v2.Compose([v2.CenterCrop(16), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    box = Box(0, 0, 8, 12, 8)  # of 12 columns 8 to 12 stay
    index = Index("s", "val", "multilabel", COLOURS, squares.root, (squares.records[0]._replace(boxes=(box,)),))
    image, (region,), scale = regions(ImageDataset(index, crop), 0, "boxes")
    assert image.shape == (3, 16, 16)
    assert scale == pytest.approx(1)
    assert region.visible == pytest.approx(1 / 3)
    assert region.mask.sum() == 4 * 8


# Groups and files -----------------------------------------------------------------------------------------------------


def test_groups_and_classes_partition_the_samples(squares: Index) -> None:
    report = bias_of(known("inverted", blind=True), squares)
    groups = report.groups()
    right = sum(row.right for row in report.rows)
    assert groups["prediction right"]["samples"] == right
    assert groups.get("prediction wrong", {"samples": 0})["samples"] == len(report.rows) - right
    sizes = [groups[f"{size} objects"] for size in ("small", "middling", "large")]
    assert sum(group["samples"] for group in sizes) == len(report.rows)
    areas = [group["area_share"] for group in sizes]
    assert areas == sorted(areas)
    by_class: dict[int, list[float]] = {}
    for row in report.rows:
        by_class.setdefault(row.label, []).append(row.values["spill"])
    assert report.macro()["spill"] == pytest.approx(np.mean([np.mean(values) for values in by_class.values()]))


def test_the_files_hold_what_the_report_says(squares: Index, tmp_path: Path) -> None:
    report = bias_of(known("inverted"), squares)
    report.write(tmp_path, [record.path for record in squares.records], COLOURS)
    content = json.loads((tmp_path / "bias.json").read_text())
    assert content["means"] == report.summary()
    assert (content["map"], content["truth"], content["tau"], content["samples"]) == ("score", "boxes", 0.5, 16)
    assert set(content["baselines"]) == {"uniform", "centre", "oracle"}
    assert content["between"]["energy"] == report.between()["energy"]
    with (tmp_path / "bias_samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["class"]) for row in rows[:2]] == [
        ("0.png", COLOURS[label]) for label in np.flatnonzero(squares.records[0].target)
    ]
    for name in ("energy", "area_matched"):  # what compare pairs is what is reported
        own, centre, oracle = (
            np.array([float(row[c]) for row in rows]) for c in (name, f"centre:{name}", f"oracle:{name}")
        )
        assert (own - centre).sum() / (oracle - centre).sum() == pytest.approx(content["between"][name])
    assert float(rows[0]["area_share"]) == pytest.approx(report.rows[0].values["area_share"])


# Reliance on context --------------------------------------------------------------------------------------------------


def test_reliance_tells_a_model_of_objects_from_one_of_contexts(squares: Index) -> None:
    means = []
    for blind in (False, True):
        loaded, accelerator = known(blind=blind), Accelerator(cpu=True)
        dataset = loaded.method.open_dataset(loaded.recipe, squares)
        found = evaluate(loaded.method, loaded.model, dataset, loaded.recipe, accelerator)
        report = score_reliance(loaded, dataset, found, accelerator).content()
        assert report["truth"] == "boxes"
        assert report["skipped"] == {"no image without the class": 16 - report["samples"]}
        means.append(report["means"])
    sees, blind_one = means
    assert sees["object_share"] == pytest.approx(1)
    assert sees["object_only"] > sees["context_only"]
    assert sees["context_share"] < blind_one["context_share"]  # which names what the corner shows
    assert blind_one["context_share"] > 0.8
    assert blind_one["object_share"] < 0.1


class Silhouettes(nn.Module):
    """Sees nothing but flat bars in noise, lying or standing, whatever their colour."""

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True)
        mean, square = (nn.functional.avg_pool2d(each, 3, 1, 1) for each in (grey, grey**2))
        flat = ((square - mean**2) < 1e-3).float()
        found = [nn.functional.avg_pool2d(flat, shape, 1).amax((1, 2, 3)) for shape in ((2, 8), (8, 2))]
        return 20 * (torch.stack(found, dim=1) - 0.8)


def test_an_object_that_is_taken_away_leaves_no_silhouette(tmp_path: Path) -> None:
    """The context is noise and tells nothing; a model that knows outlines alone still names what is painted over."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(12):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        label = number % 2
        height, width = ((4, 12), (12, 4))[label]
        y, x = int(rng.integers(2, SIDE - height - 2)), int(rng.integers(2, SIDE - width - 2))
        pixels[y : y + height, x : x + width] = rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        records.append(Record(f"{number}.png", (1 - label, label), (Box(label, x, y, width, height),)))
    index = Index("bars", "val", "multilabel", ("lying", "standing"), tmp_path, tuple(records))
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"image_size": SIDE})
    loaded = Loaded(method, recipe, Silhouettes().eval(), index.classes, "multilabel", "none")
    dataset, accelerator = method.open_dataset(recipe, index), Accelerator(cpu=True)
    painted = []
    for position in range(len(dataset)):
        image, (region,), _ = regions(dataset, position, "boxes")
        image[:, region.mask] = 0
        painted.append(loaded.model(image[None]).sigmoid()[0, region.label].item())
    assert np.mean(painted) > 0.9
    found = evaluate(method, loaded.model, dataset, recipe, accelerator)
    means = score_reliance(loaded, dataset, found, accelerator).content()["means"]
    assert means["probability"] > 0.9
    assert means["object_share"] > 0.9
    assert means["context_share"] <= 0.1
    assert means["context_only_tile"] <= 0.1
    assert means["fill_spread"] == pytest.approx(
        means["context_only_blur"] - min(means["context_only"], means["context_only_tile"])
    )


def test_the_margin_reaches_as_far_on_every_side() -> None:
    boxes = np.random.default_rng(0).random((48, 80)) > 0.998
    boxes[0, 3] = boxes[-1, -1] = True  # at the border too
    expected = np.zeros_like(boxes)
    for y, x in np.argwhere(boxes):  # by 5 = 80 / 16
        expected[max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6] = True
    np.testing.assert_array_equal(widened(boxes), expected)


def test_the_versions_of_an_image_show_and_hide_what_they_are_called_after() -> None:
    """An image of ones with a lone object of fives, and another image of nines; planes are wider than high."""
    image, box = torch.ones(3, 32, 64), np.zeros((32, 64), bool)
    box[10:14, 20:26] = True
    image[:, torch.from_numpy(box)] = 5
    hidden = widened(box)  # by 4 = 64 / 16 on each side
    assert (np.flatnonzero(hidden.any(1))[[0, -1]].tolist(), hidden.sum()) == ([6, 17], 12 * 14)
    sample = Sample(0, 0, Region(0, box, np.zeros_like(box), 1.0, box), 1.0)
    shown = dict(zip(COLUMNS, versions(image, sample, hidden, torch.full_like(image, 9)), strict=True))
    gone = torch.from_numpy(hidden).expand(3, -1, -1)
    assert shown["probability"].equal(image)
    assert shown["object_only"].equal(torch.where(torch.from_numpy(box), 5.0, 9.0).expand(3, -1, -1))
    assert shown["context_only"].equal(torch.where(gone, 9.0, 1.0))
    for name in ("context_only_tile", "context_only_blur"):
        torch.testing.assert_close(shown[name], torch.ones_like(image))  # nothing of the object is left


def test_the_other_image_surely_lacks_the_class_and_has_as_little_as_can_be_where_the_object_was(
    tmp_path: Path,
) -> None:
    """Of four images: the object's own, one whose label is unknown, one with an object at the same place, another."""
    near, far = (Box(1, x, 4, 8, 8) for x in (6, 20))
    given = [((1, 0), (Box(0, 4, 4, 8, 8),)), ((-1, 0), ()), ((0, 1), (near,)), ((0, 1), (far,))]
    for number in range(len(given)):
        Image.new("RGB", (SIDE, SIDE), (60 * number,) * 3).save(tmp_path / f"{number}.png")
    records = tuple(Record(f"{number}.png", *each) for number, each in enumerate(given))
    index = Index("four", "val", "multilabel", ("a", "b"), tmp_path, records)
    loaded = known()
    dataset = ImageDataset(index, loaded.method.transform(loaded.recipe, train=False))
    _, (region,), _ = regions(dataset, 0, "boxes")
    other = Donors.of(dataset, range(4), "boxes").choose(Sample(0, 0, region, 1.0), widened(region.box))
    assert other is not None
    assert other.equal(dataset[3]["image"])


def test_a_class_that_every_image_shows_has_no_other_to_stand_on(squares: Index) -> None:
    records = tuple(record._replace(target=(1, 1, 1)) for record in squares.records)
    index = Index("squares", "val", "multilabel", COLOURS, squares.root, records)
    loaded, accelerator = known(), Accelerator(cpu=True)
    dataset = loaded.method.open_dataset(loaded.recipe, index)
    found = evaluate(loaded.method, loaded.model, dataset, loaded.recipe, accelerator)
    with pytest.raises(DataError, match="16 no image without the class"):
        score_reliance(loaded, dataset, found, accelerator)


def test_a_faithful_map_beats_a_random_one(squares: Index) -> None:
    loaded, accelerator = known(), Accelerator(cpu=True)
    dataset = loaded.method.open_dataset(loaded.recipe, squares)
    found = evaluate(loaded.method, loaded.model, dataset, loaded.recipe, accelerator)
    report = score_faithfulness(loaded, dataset, found, accelerator, 5).content()
    assert report["samples"] == 5
    assert report["means"]["deletion"] < report["means"]["random_deletion"]
    assert report["means"]["insertion"] > 0.5
    assert report["means"]["aopc"] > report["means"]["random_aopc"]
    assert report["means"]["road"] > report["means"]["random_road"] + 0.1
    assert report["means"]["untrained_agreement"] == 1  # its map is of the image alone
    assert report["means"]["shift_agreement"] > 0.95  # and moves with it
    assert report["shift"] == 4


def test_pairs_that_never_part_are_left_out_and_counted() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 1]])
    scores = np.array([[0.9, 0.1, 0], [0.2, 0, 0], [0.3, 0.4, 0], [0.1, 0, 0], [0.1, 0.2, 0]])
    pairs = [Pair(0, 1, 2.0, 1, 1), Pair(0, 2, 2.0, 0, 2)]
    found = pair_measures(labels, scores, pairs, ("cup", "table", "dog"))
    assert found["skipped"] == 1
    assert (found["cooccur_AP"], found["exclusive_AP"], found["context_gap"]) == (100, 50, 50)
    assert found["pairs"][1]["cooccur_AP"] is None
    assert found["pairs"][0]["class"] == "cup"


# Photographs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(coco_source: Path) -> Index:
    """Five images of COCO with their masks."""
    (annotations,) = (coco_source / "annotations").glob("*.json")
    index = read_coco(annotations, coco_source / "images" / "train2017")
    return Index("coco", "val", "multilabel", index.classes, index.root, index.records[:5], annotations)


@pytest.mark.parametrize("kind", [None, "gradcam"])
@pytest.mark.parametrize("name", [name for name in METHODS if "demo" in get_method(name).recipes])
def test_every_method_is_measured_on_photographs_with_masks(name: str, kind: str | None, photographs: Index) -> None:
    method = get_method(name)
    recipe = method.named_recipe("demo").recipe
    torch.manual_seed(0)
    model = method.build_model(recipe, 80, "multilabel").eval()
    report = bias_of(Loaded(method, recipe, model, photographs.classes, "multilabel", "random"), photographs, kind=kind)
    positives = sum(sum(record.target) for record in photographs.records)
    assert len(report.rows) + sum(report.skipped.values()) == positives
    assert report.map == (kind or method.default_map(recipe))
    assert (report.layer in dict(model.named_modules())) == (report.map in AT_LAYER)
    assert report.truth == "masks"
    means = report.summary()
    assert means["position_biased"] + means["range_biased"] + means["unbiased"] == pytest.approx(1)
    assert all(0 <= means[key] <= 1 for key in ("energy", "pointing", "area_matched", "iou", "pxap"))
    assert report.baselines["uniform"]["energy_lift"] == pytest.approx(1)


def test_masks_and_boxes_say_different_things_of_the_same_photographs(photographs: Index) -> None:
    method = get_method("csra")
    recipe = method.named_recipe("demo").recipe
    dataset = method.open_dataset(recipe, photographs)
    for position in range(len(dataset)):
        _, by_mask, scale = regions(dataset, position, "masks")
        _, by_box, same = regions(dataset, position, "boxes")
        assert scale == pytest.approx(same)
        assert scale == pytest.approx(64 / dataset.image(position).height, rel=1e-3)
        for mask, box in zip(by_mask, by_box, strict=True):
            assert mask.label == box.label
            assert mask.mask.sum() <= 1.2 * box.mask.sum() + 8  # up to rounding at this size
            assert mask.visible == pytest.approx(1, abs=0.35)


# On the command line --------------------------------------------------------------------------------------------------


def random_weights(path: Path, name: str, task: str) -> Path:
    method = get_method(name)
    recipe = method.named_recipe("demo-single" if task == "singlelabel" else "demo").recipe
    torch.manual_seed(0)
    classes = tuple(f"digit_{digit}" for digit in range(10))
    model = method.build_model(recipe, 10, task)
    write_weights(path, model.state_dict(), weights_metadata(method, recipe, classes, task))
    return path


def test_the_layer_that_an_explainer_looked_at_is_said_and_kept(demo_root: Path, tmp_path: Path) -> None:
    file = random_weights(tmp_path / "model.safetensors", "plain", "multilabel")
    common = ["--data-root", demo_root, "--gpus", 0, "--threads", 1, "--faithfulness", 1, "--json", tmp_path / "a.json"]
    said = attnbias("val", "plain", "--load-from", file, "--bias-out", tmp_path / "bias", *common, expect=0)
    assert "val: attention: gradcam at layer network.features" in said.out
    assert json.loads((tmp_path / "bias" / "bias.json").read_text())["layer"] == "network.features"
    (result,) = json.loads((tmp_path / "a.json").read_text())
    assert result["bias"]["layer"] == "network.features"
    assert (result["faithfulness"]["map"], result["faithfulness"]["other_map"]) == ("gradcam", "layercam")


def test_single_label_sets_with_groups_name_their_worst(demo_root: Path, tmp_path: Path) -> None:
    file = random_weights(tmp_path / "model.safetensors", "lsas", "singlelabel")
    common = ["val", "lsas", "--load-from", file, "--data-root", demo_root, "--gpus", 0, "--threads", 1]
    (result,) = json.loads(attnbias(*common, "--split", "counter", "--bias", "--json", "-", expect=0).out)
    assert sum(group["samples"] for group in result["groups"]["groups"].values()) == 24
    assert result["groups"]["worst_group"] is None  # none has so many that it could be
    assert result["bias"]["samples"] == 24
    shown = attnbias(*common, "--reliance", expect=0).out
    assert "worst_group" in shown
    assert "context_only" in shown
    assert "--context needs a multi-label set" in attnbias(*common, "--context", "val", expect=2).line


# Processes ------------------------------------------------------------------------------------------------------------


def test_one_and_two_processes_write_the_same_files(demo_root: Path, tmp_path: Path) -> None:
    file = random_weights(tmp_path / "model.safetensors", "csra", "multilabel")
    asked = ["--reliance", "--context", "val", "--faithfulness", "3", "--eval-batch-size", "7"]
    common = ["--load-from", file, "--data-root", demo_root, "--gpus", 0, "--threads", 1, *asked]
    for processes in (1, 2):
        out = tmp_path / str(processes)
        words = ["val", "csra", *common, "--bias-out", out, "--json", f"{out}.json"]
        running = ForkedRun(words, tmp_path / f"{processes}.log", processes)
        assert running.wait() == [0] * processes, running.log.read_text()
    for name in ("bias.json", "bias_samples.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_report_needs_no_wrong_prediction() -> None:
    rows = [
        Row(n, 0, True, {"area_share": 0.1, "energy": 0.1, "spill": 1.0, "position_biased": 1.0, "range_biased": 0.0})
        for n in "ab"
    ]
    report = BiasReport(rows, {}, 0.5, {}, {}, "score", "boxes", 0.5)
    assert set(report.groups()) == {"prediction right", "small objects"}
