"""`attnbias val` of models that label pixels, or that are asked in words: disturbed images, and where they look."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fontTools.ttLib import TTFont  # matplotlib brings it
from PIL import Image, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from attnbias.data.index import Index, Record
from attnbias.data.prepare import prepare
from attnbias.data.registry import open_split
from attnbias.data.sets.contract import PrepareOptions
from attnbias.data.transforms.basic import eval_transform, normalization
from attnbias.data.transforms.watermark import TEXT, Watermarked
from attnbias.methods.engine.bias.asked_objects import Names
from attnbias.methods.engine.bias.report import measure_bias
from attnbias.methods.engine.evaluation.attacks import Attack, against
from attnbias.methods.engine.evaluation.evaluate import evaluate
from attnbias.methods.engine.evaluation.robustness import Bench
from attnbias.methods.engine.load import Loaded, load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.language_sets import prepared
from tests.helpers.shapes import Pixels, prepare_shapes

CLASSES = ("ground", "disc", "box")
CPU = ("--gpus", 0, "--threads", 1)


def stored(path: Path, name: str, named: str, classes: tuple[str, ...], task: Any, **changes: Any) -> Path:
    """A small model with random weights whose classes differ, as training stores it."""
    method = get_method(name)
    recipe = override(method.named_recipe(named).recipe, changes)
    torch.manual_seed(0)
    net = method.build_model(recipe, len(classes), task)
    with torch.no_grad():
        for part, parameter in net.named_parameters():
            if part == "decode_head.conv_seg.weight":
                parameter.normal_()
    write_weights(path, net.state_dict(), weights_metadata(method, recipe, classes, task))
    return path


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Two images of different sizes, a level of grey for each class, the second with pixels that no class has."""
    return prepare_shapes(tmp_path / "shapes", tmp_path / "root", CLASSES, grey)


def grey(labels: Pixels) -> Pixels:
    """A level of grey for each class."""
    return np.repeat(np.minimum(labels, 3)[..., None] * 80, 3, axis=2)


@pytest.fixture
def segmenter(tmp_path: Path, shapes: Path) -> Path:
    return stored(
        *(tmp_path / "model.safetensors", "absvit-segmentation", "mini", CLASSES, "segmentation"),
        dataset=str(shapes),
        channels=8,
        aux_channels=4,
    )


def val(weights: Path, root: Path, *more: Any) -> dict[str, Any]:
    common = ("--load-from", weights, "--data-root", root, *CPU, "--json", "-")
    (result,) = json.loads(attnbias("val", "absvit", *common, *more, expect=0).out)
    return dict(result)


def test_pixels_are_measured_under_attacks_and_corruptions(segmenter: Path, tmp_path: Path) -> None:
    asked = ("--attack", "pgd", "--epsilon", 8, "--attack-step", 4, "--corrupt", "contrast", "--severity", 5)
    result = val(segmenter, tmp_path / "root", *asked)
    clean, attacked, contrast, mean = result["robustness"]
    assert clean["mIoU"] == result["measures"]["mIoU"]
    assert attacked["test"].endswith("pgd")
    assert attacked["aAcc"] < clean["aAcc"]
    assert contrast["mIoU"] == mean["mIoU"] != clean["mIoU"]
    more = ("--load-from", segmenter, "--data-root", tmp_path / "root", "--aug-test", *CPU)
    assert "leave --aug-test out" in attnbias("val", "absvit", *more, "--attack", "fgsm", expect=2).line


@pytest.mark.parametrize("fields", [{}, {"mode": "slide", "slide_crop": (32, 32), "slide_stride": (20, 20)}])
def test_an_attack_raises_the_loss_of_the_labelled_pixels_within_its_ball(
    segmenter: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    loaded = load_run("absvit-segmentation", str(segmenter), fields, "cpu")
    dataset = loaded.method.open_dataset(loaded.recipe, open_split(loaded.recipe.dataset, "val", tmp_path / "root"))
    sample = dataset[1]
    mean, std = normalization("imagenet")

    def loss(image: Tensor) -> Tensor:
        return loaded.method.pixel_loss(loaded.model, image, target=sample["target"], recipe=loaded.recipe)

    changed = against(loss, sample["image"], Attack(4 / 255, 2 / 255, 3), mean, std, start=torch.zeros(3, 1, 1))
    reach = ((changed - sample["image"]) * torch.tensor(std).view(3, 1, 1)).abs().max()
    assert reach <= 4 / 255 + 1e-6
    with torch.no_grad():
        assert loss(changed) > loss(sample["image"])
        if not fields:  # the cross-entropy of what evaluation decides by, of the labelled pixels alone
            logits = F.interpolate(loaded.model(sample["image"][None]), sample["image"].shape[1:], mode="bilinear")
            logits = F.interpolate(logits, sample["target"].shape, mode="bilinear")
            wanted = F.cross_entropy(logits, sample["target"][None], ignore_index=255)
            assert loss(sample["image"]) == pytest.approx(wanted.item(), rel=1e-4)


class Painted(type(get_method("absvit-segmentation"))):  # type: ignore[misc]
    """A segmenter whose map of a class is where the image has that class's level of grey."""

    def attention(
        self, model: nn.Module, images: Tensor, classes: Tensor | None = None, *, kind: Any = None, head: Any = None
    ) -> Tensor:
        assert classes is not None
        mean, std = normalization("imagenet")
        levels = (images[:, :1] * std[0] + mean[0]) * 255 / 80
        return (1 - (levels - classes[..., None, None]).abs()).clamp_min(0)


def test_class_maps_are_held_against_the_regions_of_the_label_maps(segmenter: Path, tmp_path: Path) -> None:
    loaded = load_run("absvit-segmentation", str(segmenter), {}, "cpu")
    painted = Loaded(Painted(), loaded.recipe, loaded.model, loaded.classes, loaded.task, "")
    dataset = loaded.method.open_dataset(loaded.recipe, open_split(loaded.recipe.dataset, "val", tmp_path / "root"))
    accelerator = Accelerator(cpu=True)
    found = evaluate(loaded.method, loaded.model, dataset, loaded.recipe, accelerator)
    report = measure_bias(painted, dataset, found, accelerator)
    assert [(row.image, row.label) for row in report.rows] == [(0, 0), (0, 1), (1, 0), (1, 2)]
    means, oracle, centre = report.summary(), report.baselines["oracle"], report.baselines["centre"]
    assert means["area_matched"] > 0.97  # resized images have blurred borders, label maps sharp ones
    assert means["area_matched"] > oracle["area_matched"] - 0.02 > centre["area_matched"] + 0.1
    assert means["position_biased"] == 0
    iou = [found.scores["intersect"][row.image, row.label] / _union(found, row) for row in report.rows]
    assert [row.right for row in report.rows] == [value >= 0.5 for value in iou]


def _union(found: Any, row: Any) -> float:
    one, other = found.scores["predicted"][row.image, row.label], found.targets[row.image, row.label]
    return float(one + other - found.scores["intersect"][row.image, row.label])


def test_val_measures_where_a_segmenter_looks_and_says_against_what(segmenter: Path, tmp_path: Path) -> None:
    result = val(segmenter, tmp_path / "root", "--bias", "--bias-out", tmp_path / "bias")
    bias = result["bias"]
    assert (bias["map"], bias["truth"], bias["samples"]) == ("class", "masks", 4)
    assert "regions of each class in the label maps" in bias["truth_reason"]
    assert set(bias["baselines"]) == {"uniform", "centre", "oracle"}
    with (tmp_path / "bias" / "bias_samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["ground", "disc", "ground", "box"]
    shares = [float(row["area_share"]) for row in rows]
    labelled = 56 * 48 - 26 * 8
    assert shares == pytest.approx([0.875, 0.125, 1 - 300 / labelled, 300 / labelled], abs=0.01)
    words = ("val", "absvit", "--load-from", segmenter, "--data-root", tmp_path / "root", *CPU, "--bias")
    assert "no boxes; use --truth masks" in attnbias(*words, "--truth", "boxes", expect=3).line
    assert "--objects is of texts" in attnbias(*words, "--objects", segmenter, expect=2).line


# Words ----------------------------------------------------------------------------------------------------------------


def test_a_text_names_a_category_by_whole_words_in_the_singular_or_the_plural() -> None:
    names = ("person", "dog", "hot dog", "bus", "knife", "wine glass", "mouse", "tv", "teddy bear", "bear")
    found = Names(names).found_in
    said = {
        "How many people wear hats?": ["person"],
        "Is the hot  dog on the bus?": ["hot dog", "bus"],
        "Dogs, buses and knives": ["dog", "bus", "knife"],
        "two Wine Glasses beside a mouse": ["wine glass", "mouse"],
        "a dogged man at his TVs with teddy bears": ["tv", "teddy bear"],
        "What is he holding?": [],
    }
    assert {text: [names[label] for label in found(text)] for text in said} == said


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """COCO annotations of two of the images that the questions are about: one has a "colour", the other a "taker"."""
    file = tmp_path / "instances_val2014.json"
    images = [
        {"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg", "width": 40, "height": 30} for number in (2, 9)
    ]
    square = [[8, 8, 24, 8, 24, 24, 8, 24]]
    annotations = [
        {"id": k, "image_id": number, "category_id": 1 + k, "bbox": [8, 8, 16, 16], "segmentation": square}
        for k, number in enumerate((2, 9))
    ]
    categories = [{"id": 1, "name": "colour"}, {"id": 2, "name": "taker"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def asked_in_words(tmp_path: Path, name: str, task: str, recipe: str) -> Path:
    prepared(name, tmp_path)
    index = open_split(name, "val", tmp_path / "root")
    return stored(
        *(tmp_path / "model.safetensors", "absvit-vision-language", recipe, index.classes, task),
        dataset=name,
    )


def test_questions_are_held_against_the_objects_that_they_name(tmp_path: Path, objects: Path) -> None:
    weights = asked_in_words(tmp_path, "vqav2", "vqa", "tiny-vqa")
    words = ("val", "absvit", "--load-from", weights, "--data-root", tmp_path / "root", *CPU, "--bias")
    assert "add --objects FILE" in attnbias(*words, expect=2).line
    how = ("--bias", "--objects", objects, "--bias-out", tmp_path / "bias", "--limit", 3)
    result = val(weights, tmp_path / "root", *how)
    bias = result["bias"]
    scored = result["samples"]
    assert bias["asked"] == {"objects": objects.name, "texts": scored, "with_category": 2, "with_object": 1}
    assert (bias["map"], bias["truth"], bias["samples"]) == ("attention", "masks", 1)
    assert bias["drawn"] == result["drawn"]
    with (tmp_path / "bias" / "bias_samples.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["class"]) == ("val2014/COCO_val2014_000000000002.jpg", "colour")
    assert float(row["area_share"]) == pytest.approx(16 * 16 / (30 * 30), abs=0.02)  # in the square of the middle
    table = attnbias(*words, "--objects", objects, "--limit", 3, expect=0).out
    assert f"1 of {scored} texts name a category that their image has" in " ".join(table.split())
    objects.write_text(objects.read_text().replace("COCO_val2014_", "COCO_train2014_"))
    assert "lists none of the images" in attnbias(*words, "--objects", objects, expect=3).line


def test_captions_are_held_against_the_objects_that_they_name(tmp_path: Path) -> None:
    weights = asked_in_words(tmp_path, "flickr30k", "retrieval", "tiny-retrieval")
    index = open_split("flickr30k", "val", tmp_path / "root")
    names = sorted({Path(record.path).name for record in index.records})
    file = tmp_path / "objects.json"
    annotations = [  # the third is a crowd, which is no object
        {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": int(k == 2)} for k in range(3)
    ]
    content = {
        "images": [{"id": k, "file_name": name, "width": 40, "height": 30} for k, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "square"}],
    }
    file.write_text(json.dumps(content))
    result = val(weights, tmp_path / "root", "--bias", "--objects", file, "--bias-out", tmp_path / "bias")
    assert result["bias"]["asked"] == {"objects": file.name, "texts": 6, "with_category": 3, "with_object": 2}
    assert (result["bias"]["truth"], result["bias"]["samples"]) == ("boxes", 2)
    with (tmp_path / "bias" / "bias_samples.csv").open() as rows:
        assert [Path(row["path"]).name for row in csv.DictReader(rows)] == names[:2]


def test_models_that_are_asked_in_words_are_measured_under_corruptions_and_not_attacked(tmp_path: Path) -> None:
    weights = asked_in_words(tmp_path, "snli-ve", "snli-ve", "tiny-snli-ve")
    result = val(weights, tmp_path / "root", "--corrupt", "contrast", "--severity", 5)
    clean, contrast, _ = result["robustness"]
    assert clean["accuracy"] == result["measures"]["accuracy"]
    assert 0 <= contrast["low_95"] <= contrast["accuracy"] <= contrast["high_95"] <= 100
    words = ("val", "absvit", "--load-from", weights, "--data-root", tmp_path / "root", *CPU)
    assert "only images and pixels with classes" in attnbias(*words, "--attack", "fgsm", expect=2).line


# ImageNet-W -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def font(tmp_path: Path) -> Path:
    """The font that Pillow holds, as a file; its letters A and B stand for the two Chinese characters too."""
    held: Any = ImageFont.load_default(20)
    (tmp_path / "latin.ttf").write_bytes(held.path.getvalue())
    changed = TTFont(tmp_path / "latin.ttf")
    for table in changed["cmap"].tables:
        if table.isUnicode():
            table.cmap |= {ord(each): table.cmap[ord(letter)] for each, letter in zip(TEXT, "AB", strict=False)}
    changed.save(tmp_path / "font.ttf")
    return tmp_path / "font.ttf"


def test_the_watermark_is_half_white_text_at_its_place(font: Path) -> None:
    grey = Image.new("RGB", (224, 224), (100, 100, 100))
    seen = Watermarked(eval_transform(224, "imagenet"), font, "imagenet")(grey)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization("imagenet"))
    levels = ((seen * std + mean) * 255).round()
    assert set(levels[:, :89].unique().tolist()) == {100}
    assert levels.max() == pytest.approx(100 + 155 * 128 / 255, abs=1)
    rows, columns = np.nonzero((levels[0] > 100).numpy())
    assert rows.min() >= 89
    assert rows.max() < 89 + 2 * 36
    assert columns.min() in range(1, 12)


def test_a_watermark_is_drawn_in_the_font_that_was_typed(font: Path, demo_root: Path, tmp_path: Path) -> None:
    csra = get_method("csra")
    recipe = override(csra.named_recipe("demo").recipe, {"image_size": 32, "dataset": "demo-single"})
    torch.manual_seed(0)
    path = tmp_path / "single.safetensors"
    net = csra.build_model(recipe, 10, "singlelabel")
    classes = tuple(f"digit_{n}" for n in range(10))
    write_weights(path, net.state_dict(), weights_metadata(csra, recipe, classes, "singlelabel"))
    prepare("demo-single", None, tmp_path / "root", PrepareOptions(settings={"train": 10, "eval": 20}))
    words = ("val", "csra", "--load-from", path, "--data-root", tmp_path / "root", *CPU)
    (result,) = json.loads(attnbias(*words, "--watermark", font, "--json", "-", expect=0).out)
    clean, marked = result["robustness"]
    assert clean["top1"] == result["measures"]["top1"]
    assert marked["test"].endswith(" watermark")
    assert "carton" not in marked  # the set has no such class
    refused = attnbias(*words, "--watermark", tmp_path / "latin.ttf", expect=3).line
    assert refused.endswith(f"has no {TEXT[0]} and no {TEXT[1]}; expected a Chinese one, as Source Han Serif")
    (tmp_path / "no.ttf").write_bytes(b"no font")
    assert "expected a .otf or .ttf file" in attnbias(*words, "--watermark", tmp_path / "no.ttf", expect=3).line


def test_what_a_watermark_adds_to_the_probability_of_a_carton(
    font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that sees a carton in what is bright."""

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(5.0))

        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean((1, 2, 3))
            return torch.stack([-mean, self.gain * mean], dim=1)

    Image.new("RGB", (64, 64), (100, 100, 100)).save(tmp_path / "a.png")
    method = get_method("csra")
    recipe = override(method.named_recipe("demo").recipe, {"image_size": 64})
    loaded = Loaded(method, recipe, Bright().eval(), ("box", "carton"), "singlelabel", "")
    index = Index("own", "val", "singlelabel", ("box", "carton"), tmp_path, (Record("a.png", 0),))
    bench = Bench(loaded, Accelerator(cpu=True))
    clean = evaluate(method, loaded.model, method.open_dataset(recipe, index), recipe, bench.accelerator)
    monkeypatch.setattr(Bench, "_open", lambda *_: index)
    (row,) = bench.watermarked("val", font, clean)
    assert row["carton_change"] > 0
    assert row["carton"] - row["carton_change"] == pytest.approx(100 * float(clean.scores["scores"][0, 1]), abs=1e-4)
