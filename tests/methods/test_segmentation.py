"""AbSViT's segmentation: images of any size, published files, measures, and a run through the command line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbias.data.prepare import prepare
from attnbias.data.sets.contract import PrepareOptions
from attnbias.methods.absvit.method import METHOD as CLASSIFIER
from attnbias.methods.absvit.recipe import AbSViTRecipe
from attnbias.methods.absvit.segmentation.images import FitSquare
from attnbias.methods.absvit.segmentation.inference import segment, slide_logits, whole_logits
from attnbias.methods.absvit.segmentation.method import METHOD
from attnbias.methods.absvit.segmentation.metrics import area_measures, count_areas
from attnbias.methods.absvit.segmentation.model import Segmenter
from attnbias.methods.absvit.segmentation.recipe import RECIPES, SegmentationRecipe
from attnbias.methods.engine.display.inference import place_input
from attnbias.methods.engine.display.segments import paint
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.recipe import override
from attnbias.weights.errors import WeightsError
from tests.helpers.command_line import attnbias

MINI = RECIPES["mini"].recipe
SMALL = {"channels": 8, "aux_channels": 4}


def segmenter(classes: int = 5, seed: int = 0, **changes: Any) -> tuple[Segmenter, SegmentationRecipe]:
    recipe = override(MINI, {**SMALL, **changes})
    torch.manual_seed(seed)
    model = METHOD.build_model(recipe, classes, "segmentation")
    assert isinstance(model, Segmenter)
    # Fresh classifiers and decoders say almost nothing, and all images would look the same.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "decoders" in name or name.endswith("conv_seg.weight"):
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model.eval(), recipe


def make_images(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# The model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 83), (20, 130)])
def test_images_of_any_size_get_a_class_for_each_of_their_pixels(height: int, width: int) -> None:
    model, recipe = segmenter()
    logits = model(make_images(2, height, width))
    assert logits.shape == (2, 5, -(-height // 8), -(-width // 8))
    assert segment(model, [make_images(1, height, width)[0]], (31, 17), recipe).shape == (31, 17)


def test_the_prompt_steers_the_second_pass() -> None:
    model, _ = segmenter()
    images = make_images(1, 64, 64)
    with torch.no_grad():
        # Straight against every token, the prompt lets nothing through: no signal, but the value bias counts twice.
        tokens = model.backbone.encode(model.backbone.patch_embed(images))
        model.backbone.prompt.copy_(-tokens.mean((0, 1)))
        silent = model(images)
        model.backbone.prompt.neg_()
        steered = model(images)
    assert (steered - silent).abs().max() > 1e-3 * silent.std()


def test_windows_that_cover_the_image_are_the_whole_image() -> None:
    model, _ = segmenter()
    images = make_images(2, 48, 60)
    with torch.no_grad():
        torch.testing.assert_close(slide_logits(model, images, (64, 64), (43, 43)), whole_logits(model, images))


def test_windows_reach_every_pixel_and_overlaps_are_averaged() -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :1]

    images = make_images(1, 50, 71)
    # A model that answers a pixel with itself gives the image back, whatever the windows.
    torch.testing.assert_close(slide_logits(Constant(), images, (32, 32), (20, 13)), images[:, :1])


def test_mirror_images_at_test_time_make_the_answer_symmetric() -> None:
    model, recipe = segmenter()
    views = [make_images(1, 40, 56)[0], make_images(1, 64, 88)[0]]
    answer = segment(model, views, (40, 56), recipe)
    mirrored = segment(model, [view.flip(-1) for view in views], (40, 56), recipe)
    assert torch.equal(answer, mirrored.flip(-1))


def test_one_image_cannot_train() -> None:
    model, recipe = segmenter()
    batch = {"image": make_images(1, 64, 64), "target": torch.zeros(1, 64, 64, dtype=torch.int64)}
    with pytest.raises(UsageError, match=r"two images .*--batch-size"):
        METHOD.loss(model.train(), batch, recipe, "segmentation")


def test_each_heads_loss_has_a_weight() -> None:
    model, recipe = segmenter(head_dropout=0.0)
    target = torch.randint(5, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    batch = {"image": make_images(2, 64, 64), "target": target}

    def terms(**weights: float) -> dict[str, Tensor]:
        return METHOD.loss(model.train(), batch, override(recipe, weights), "segmentation")

    plain, weighted = terms(), terms(decode_weight=0.25, aux_weight=0.8)
    torch.testing.assert_close(weighted["decode"], 0.25 * plain["decode"])
    torch.testing.assert_close(weighted["aux"], 2 * plain["aux"])
    torch.testing.assert_close(weighted["loss"], 0.25 * plain["decode"] + 2 * plain["aux"])


def test_only_sets_with_label_maps_train() -> None:
    with pytest.raises(UsageError, match="'coco' is a multilabel set"):
        METHOD.build_model(override(MINI, {"dataset": "coco"}), 80, "multilabel")


@pytest.mark.parametrize(
    ("transfer", "trained"),
    [
        ("end2end", ("backbone.",)),
        ("linear", ()),
        ("prompt", ("backbone.prompt", "backbone.deep_prompt")),
        ("top-down", ("backbone.prompt", "backbone.decoders")),
    ],
)
def test_transfer_types_say_what_of_the_backbone_learns(transfer: str, trained: tuple[str, ...]) -> None:
    model, recipe = segmenter(transfer=transfer, prompt_tokens=3, drop_path=0.0, head_dropout=0.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(METHOD.param_groups(model, recipe), lr=1.0)
    target = torch.randint(0, 5, (2, 64, 64), generator=torch.Generator().manual_seed(2))
    batch = {"image": make_images(2, 64, 64), "target": target}
    METHOD.loss(model.train(), batch, recipe, "segmentation")["loss"].backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.startswith("backbone.")} == {n for n in before if n.startswith(trained)}
    assert {name for name in before if not name.startswith("backbone.")} <= moved


def test_activations_that_are_made_anew_change_nothing() -> None:
    batch = {"image": make_images(2, 64, 64), "target": torch.zeros(2, 64, 64, dtype=torch.int64)}
    gradients = []
    for again in (False, True):
        model, recipe = segmenter(head_dropout=0.0)
        model.backbone.set_grad_checkpointing(again)
        METHOD.loss(model.train(), batch, recipe, "segmentation")["loss"].backward()
        gradients.append(model.backbone.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


# Published files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"top_down": False}, {"transfer": "prompt", "prompt_tokens": 3}])
def test_a_training_file_of_mmsegmentation_is_read_as_it_is(tmp_path: Path, changes: dict[str, Any]) -> None:
    model, _ = segmenter(image_size=96, **changes)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    meta = {"mmseg_version": "0.30.0", "CLASSES": ("a", "b"), "PALETTE": [[0, 0, 0]], "iter": 20000, "config": "x = 1"}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "iter_20000.pth")
    loaded = load_run(METHOD.name, str(tmp_path / "iter_20000.pth"), {})
    fields = {"image_size": 96, "architecture": "mini_patch8", **SMALL, **changes}
    assert {name: getattr(loaded.recipe, name) for name in fields} == fields
    assert len(loaded.classes) == 5
    images = make_images(1, 72, 100)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model(images))
        # Another size of the square resizes the position embedding.
        smaller = load_run(METHOD.name, str(tmp_path / "iter_20000.pth"), {"image_size": 64})
        assert smaller.model(images).shape == model(images).shape


def test_an_imagenet_model_starts_the_backbone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, recipe = segmenter(image_size=96)
    small = AbSViTRecipe(architecture="mini_patch8", image_size=64)
    state = CLASSIFIER.build_model(small, 10, "singlelabel").state_dict()
    METHOD.load_backbone(model, recipe, state, tmp_path)
    assert not caplog.records
    assert torch.equal(model.backbone.state_dict()["prompt"], state["prompt"])
    assert model.backbone.state_dict()["pos_embed"].shape[1] == 1 + 12 * 12
    plain = {name: value for name, value in state.items() if "decoders" not in name and name != "prompt"}
    with caplog.at_level(logging.WARNING):
        METHOD.load_backbone(model, recipe, plain, tmp_path)
    assert "9 tensors start fresh: prompt, decoders.0.linear.weight" in caplog.text
    with pytest.raises(WeightsError, match=r"does not fit the model.*blocks\.0\.norm1\.weight"):
        METHOD.load_backbone(model, recipe, {n: v for n, v in plain.items() if n != "blocks.0.norm1.weight"}, tmp_path)


# Measures and maps ----------------------------------------------------------------------------------------------------


def test_measures_are_of_pixels_and_do_not_depend_on_how_images_are_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randint(0, 6, (40, 30), generator=generator) for _ in range(2))
    target[target == 4] = 255
    prediction[prediction == 5] = 0
    target[target == 5] = 1
    whole = [np.stack([area.numpy()]) for area in count_areas(prediction, target, 6)]
    parts = [count_areas(prediction[rows], target[rows], 6) for rows in (slice(0, 7), slice(7, 40))]
    cut = [np.stack([area.numpy() for area in areas]) for areas in zip(*parts, strict=True)]
    found = area_measures(*whole)
    assert found == area_measures(*cut)
    assert found["IoU"][5] is None  # in neither
    assert found["IoU"][4] == 0  # predicted, never there
    assert found["mIoU"] == pytest.approx(np.mean([value for value in found["IoU"] if value is not None]))
    right = torch.where(target == 255, prediction, target)
    perfect = area_measures(*(np.stack([area.numpy()]) for area in count_areas(right, target, 6)))
    assert perfect["mIoU"] == perfect["aAcc"] == perfect["mAcc"] == 100


@pytest.mark.parametrize("kind", METHOD.maps)
def test_maps_of_a_wide_image_have_its_grid(kind: str) -> None:
    model, _ = segmenter()
    maps = METHOD.attention(model, make_images(2, 64, 80), torch.tensor([1, 3]), kind=kind)
    assert maps.shape == (2, 2, 8, 10)


def test_rollout_shares_out_what_there_is() -> None:
    """Of the tokens that a class's patches draw from, prompts and the class token included, the shares sum to 1."""
    model, _ = segmenter(transfer="prompt", prompt_tokens=2)
    maps = METHOD.attention(model, make_images(1, 64, 64), kind="rollout")
    assert maps.sum((-2, -1)).min() > 0.2
    assert maps.sum((-2, -1)).max() <= 1 + 1e-5


def test_a_plain_vit_has_no_prior() -> None:
    model, _ = segmenter(top_down=False)
    with pytest.raises(UsageError, match="prompt-mask needs the second pass"):
        METHOD.attention(model, make_images(1, 64, 64), kind="prompt-mask")


def test_a_image_fitted_into_a_square_knows_where_it_lies() -> None:
    image, frame = place_input(FitSquare(64), Image.new("RGB", (100, 50), "white"))
    assert image.shape == (3, 64, 64)
    assert (image[:, 32:] == 0).all()
    assert (image[:, :32] > 2).all()
    assert frame == pytest.approx((0, 0, 1, 2), abs=1e-6)


def test_unlabelled_pixels_show_the_image() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    painted = paint(image, np.array([[0, 1, 255]]), np.array([[0, 0, 0], [255, 200, 0]], dtype=np.uint8))
    assert painted.tolist() == [[[50, 50, 50], [177, 150, 50], [100, 100, 100]]]


# Runs through the command line ----------------------------------------------------------------------------------------

RUN = ["--gpus", "0", "--threads", "1", "--workers", "0", "--recipe", "mini", "--log-every", "1", "--warmup-steps", "3"]
VAL = ["--gpus", "0", "--threads", "1"]


def train(location: Path, dataset: str | Path, steps: int, *more: Any) -> list[dict[str, Any]]:
    """Train below `place` with one evaluation at the end; the lines of metrics.jsonl."""
    arguments = [*RUN, "--dataset", dataset, "--root", location / "datasets", "--out", location / "run", *more]
    attnbias("train", "absvit", "--task", "segmentation", "--steps", steps, "--eval-steps", steps, *arguments, expect=0)
    return [json.loads(line) for line in (location / "run" / "metrics.jsonl").read_text().splitlines()]


def val(location: Path, found: Path, *more: Any) -> dict[str, Any]:
    """Measures of the run below `place`."""
    where = ["--load-from", location / "run", "--root", location / "datasets", "--json", found]
    attnbias("val", "absvit", *where, *VAL, *more, expect=0)
    measures: dict[str, Any] = json.loads(found.read_text())[0]["measures"]
    return measures


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


def measured(lines: list[dict[str, Any]]) -> dict[str, Any]:
    (line,) = (line for line in lines if "mIoU" in line)
    return line


def shapes(folder: Path) -> None:
    """Write images of a bright and a dark rectangle on grey, of several sizes, and which is where."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "classes.txt").write_text("ground\nbright\ndark\n")
    for split, count in (("train", 16), ("val", 5)):
        for name in ("images", "labels"):
            (folder / name / split).mkdir(parents=True)
        for number in range(count):
            size = rng.integers(60, 100, 2)
            image, labels = rng.integers(100, 150, (*size, 3)), np.zeros(size, dtype=np.uint8)
            for label, level in ((1, 200), (2, 0)):
                top, left = rng.integers(0, size - 40)
                area = slice(top, top + 40), slice(left, left + 30)
                image[area], labels[area] = level + rng.integers(0, 50, (40, 30, 3)), label
            labels[:2] = 255
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(folder / "labels" / split / f"{number}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared set of shapes and a short run on it."""
    place = tmp_path_factory.mktemp("segmentation")
    shapes(place / "shapes")
    attnbias("prepare-data", place / "shapes", "--root", place / "datasets", expect=0)
    train(place, place / "shapes", 40, "--no-photometric", "--batch-size", 4)
    return place


def test_it_learns_to_segment(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses(lines)[-5:]) < 0.6 * np.mean(losses(lines)[:5])
    assert measured(lines)["mIoU"] > 60
    assert len(measured(lines)["IoU"]) == 3


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_number_of_processes_measures_the_same(run: Path, tmp_path: Path, processes: int) -> None:
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    found = val(run, tmp_path / "found.json", "--processes", processes, "--eval-batch-size", 2)
    for name in ("mIoU", "aAcc", "IoU"):
        assert found[name] == measured(lines)[name]


def test_windows_and_several_sizes_segment_as_well(run: Path, tmp_path: Path) -> None:
    slide = val(run, tmp_path / "slide.json", "--mode", "slide", "--scale", "400,100")
    several = val(run, tmp_path / "several.json", "--aug-test", "--test-ratios", "0.75,1.25")
    assert slide["mIoU"] != several["mIoU"]
    assert min(slide["mIoU"], several["mIoU"]) > 50


def voc_pieces(source: Path, folder: Path) -> None:
    """Write VOC2012's layout from its few images, which both train and evaluate."""
    home = folder / "VOCdevkit" / "VOC2012"
    shutil.copytree(source, home)
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    names = sorted(path.stem for path in (home / "SegmentationClass").glob("*.png"))
    for split in ("train", "val"):
        (home / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


def cityscapes_pieces(source: Path, folder: Path) -> None:
    """Write Cityscapes' layout from its one image, which evaluates and, twice, trains."""
    shutil.copytree(source, folder)
    for name, part in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
        city = folder / name / "train" / "frankfurt"
        city.mkdir(parents=True)
        (file,) = (folder / name / "val" / "frankfurt").glob(f"*_{part}.png")
        for number in range(2):
            shutil.copy(file, city / f"frankfurt_00000{number}_000000_{part}.png")


@pytest.mark.slow
def test_photographs_train_and_evaluate(real_data: Path, tmp_path: Path) -> None:
    photographs = real_data / "coco128"
    attnbias("prepare-data", photographs, "--masks", "supercategory", "--root", tmp_path / "datasets", expect=0)
    lines = train(tmp_path, photographs, 24, "--batch-size", 4)
    assert np.mean(losses(lines)[-5:]) < 0.85 * np.mean(losses(lines)[:5])
    assert len(measured(lines)["IoU"]) == 13
    assert 0 < measured(lines)["mIoU"] < 100


@pytest.mark.parametrize(
    ("name", "pieces", "build", "classes"),
    [("voc12seg", "voc_mini", voc_pieces, 21), ("cityscapes", "cityscapes_mini", cityscapes_pieces, 19)],
)
def test_pieces_of_the_papers_sets_train_and_evaluate(
    real_data: Path, tmp_path: Path, name: str, pieces: str, build: Callable[[Path, Path], None], classes: int
) -> None:
    build(real_data / pieces, tmp_path / "source")
    prepare(name, tmp_path / "source", tmp_path / "datasets", PrepareOptions())
    lines = train(tmp_path, name, 24, "--batch-size", 2)
    assert np.mean(losses(lines)[-5:]) < 0.9 * np.mean(losses(lines)[:5])
    assert len(measured(lines)["IoU"]) == classes
    assert 0 < measured(lines)["mIoU"] < 100
