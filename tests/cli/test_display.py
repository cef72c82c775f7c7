"""What `visualize` draws is what was asked for: opacity, contour, boxes, normalisation; which classes are drawn."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attnbias.data.images import read_image
from attnbias.data.index import Index
from attnbias.data.prepared import index_path
from attnbias.data.registry import dataset_folder
from attnbias.methods.engine.display.inference import MOST_CLASSES
from attnbias.methods.engine.display.overlay import SMALLEST, DrawnBox, draw
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import DIGITS, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def visualize(*arguments: Any, out: Path) -> dict[str, Any]:
    """Run the command; what its page holds."""
    attnbias("visualize", "csra", "--device", "cpu", "--npz", "--out", out, "--overwrite", *arguments, expect=0)
    found = re.search(r'id="page">(.*?)</script>', (out / "gallery.html").read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found.group(1)))


def drawn(out: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(out / "overlays" / name) as overlay:
        return np.asarray(overlay)


def first_map(out: Path) -> NDArray[np.float32]:
    """The first map as the method gives it."""
    with np.load(out / "maps.npz") as arrays:
        return np.asarray(arrays["maps_0"][0], dtype=np.float32)


def enlarged(path: Path) -> Image.Image:
    """The image as overlays show it."""
    image = read_image(path)
    assert image.width == image.height < SMALLEST
    return image.resize((SMALLEST, SMALLEST), Image.Resampling.BICUBIC)


def stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (values - values.min()) / (values.max() - values.min())


@pytest.fixture(scope="module")
def image(demo_root: Path) -> Path:
    return next(iter(sorted((demo_root / "demo" / "images" / "val").iterdir())))


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ((), {"opacity": 0.7, "contour": False}),
        (("--opacity", 0.2), {"opacity": 0.2, "contour": False}),
        (("--opacity", 0), {"opacity": 0, "contour": False}),
        (("--contour",), {"opacity": 0.7, "contour": True}),
    ],
)
def test_opacity_and_contour_are_drawn_as_typed(
    typed: tuple[Any, ...], options: dict[str, Any], model: Path, image: Path, tmp_path: Path
) -> None:
    page = visualize("--load-from", model, image, "--classes", "digit_3", *typed, out=tmp_path / "out")
    expected = draw(enlarged(image), stretched(first_map(tmp_path / "out")), **options)
    difference = drawn(tmp_path / "out", f"0000_{image.stem}.digit_3.png").astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1  # rounding of the normalisation
    assert page["opacity"] == options["opacity"]


def test_maps_are_stretched_or_divided_as_typed(model: Path, image: Path, tmp_path: Path) -> None:
    for rule in ("minmax", "max"):
        asked = ("--classes", "digit_3", "--map", "attention", "--normalisation", rule)
        page = visualize("--load-from", model, image, *asked, out=tmp_path / rule)
        values = first_map(tmp_path / rule)
        assert values.min() > 0  # so that the rules differ
        heat = stretched(values) if rule == "minmax" else values / values.max()
        expected = np.asarray(draw(enlarged(image), heat))
        assert np.abs(drawn(tmp_path / rule, f"0000_{image.stem}.digit_3.png").astype(int) - expected).max() <= 1
        assert page["runs"][0]["normalisation"].startswith(f"{rule}: ")


@pytest.mark.parametrize(("typed", "shown"), [((), True), (("--boxes",), True), (("--no-boxes",), False)])
def test_boxes_of_the_drawn_class_are_drawn_unless_refused(
    typed: tuple[str, ...], shown: bool, model: Path, demo_root: Path, tmp_path: Path
) -> None:
    index = Index.read(index_path(dataset_folder("demo", demo_root), "val"))
    record = index.records[0]
    label = record.boxes[0].label
    out = tmp_path / "out"
    common = ("--load-from", model, "--data-root", demo_root, "--limit", 1, "--classes", label)
    page = visualize(*common, *typed, out=out)
    name = DIGITS[label]
    scale = SMALLEST / read_image(index.root / record.path).width
    boxes = [
        DrawnBox(*(scale * side for side in (box.x, box.y, box.x + box.w, box.y + box.h)), name)
        for box in record.boxes
        if box.label == label
    ]
    expected = np.asarray(
        draw(enlarged(index.root / record.path), stretched(first_map(out)), boxes=boxes if shown else ())
    )
    assert np.abs(drawn(out, f"0000_{Path(record.path).stem}.{name}.png").astype(int) - expected).max() <= 1
    assert page["boxes"] is shown
    assert len(page["items"][0]["boxes"]) == len(record.boxes)  # the page can show them all the same


@pytest.mark.parametrize(("split", "count"), [("val", 2), ("counter", 3)])
def test_the_first_images_of_the_split_that_was_typed_are_drawn(
    split: str, count: int, model: Path, demo_root: Path, tmp_path: Path
) -> None:
    asked = ("--split", split, "--limit", count, "--data-root", demo_root)
    page = visualize("--load-from", model, *asked, out=tmp_path / "out")
    index = Index.read(index_path(dataset_folder("demo", demo_root), split))
    assert [item["name"] for item in page["items"]] == [record.path for record in index.records[:count]]


def test_as_many_of_one_s_own_images_are_drawn_as_typed(model: Path, image: Path, tmp_path: Path) -> None:
    page = visualize("--load-from", model, image.parent, "--limit", 2, out=tmp_path / "out")
    assert [Path(item["name"]).name for item in page["items"]] == [
        file.name for file in sorted(image.parent.iterdir())
    ][:2]


def test_the_highest_peaks_are_looked_for_in_the_whole_split(
    model: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbias.methods.engine.display.visualize.SPLIT_LIMIT", 3)
    common = ("--load-from", model, "--data-root", demo_root)
    assert visualize(*common, out=tmp_path / "out")["source"].startswith("demo, split val, first 3 of 24: scenes like")
    assert visualize(*common, "--top", 1, out=tmp_path / "out")["source"].startswith("demo, split val, first 24 of 24")


@pytest.mark.parametrize("size", [(150, 100), (300, 400)])
def test_a_map_is_drawn_on_the_part_of_the_image_that_the_model_saw(size: tuple[int, int], tmp_path: Path) -> None:
    """LLB's pipeline cuts the middle out; small images are enlarged, and the part with them."""
    model = write_model(tmp_path / "model.safetensors", method="llb")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    image.save(tmp_path / "noise.png")
    out = tmp_path / "out"
    visualize("--load-from", f"llb:{model}", tmp_path / "noise.png", "--classes", 3, "--map", "gradcam", out=out)
    with np.load(out / "maps.npz") as arrays:
        ((x, y, width, height),) = arrays["frame_0"].tolist()
    assert min(width, height) < 0.8, "all of the image is seen"
    scale = max(1, SMALLEST / min(size))
    shown = image.resize((round(scale * size[0]), round(scale * size[1])), Image.Resampling.BICUBIC)
    frame = x * shown.width, y * shown.height, width * shown.width, height * shown.height
    expected = np.asarray(draw(shown, stretched(first_map(out)), frame=frame))
    assert np.abs(drawn(out, "0000_noise.digit_3.png").astype(int) - expected).max() <= 1


def test_fields_of_the_recipe_are_those_that_were_typed(model: Path, image: Path, tmp_path: Path) -> None:
    asked = ("--classes", 3, "--image-size", 32, "--lam", 0.125)
    page = visualize("--load-from", model, image, *asked, out=tmp_path / "out")
    recipe = page["runs"][0]["recipe"]
    assert (recipe["image_size"], recipe["lam"]) == ("32", "0.125")
    assert first_map(tmp_path / "out").shape == (4, 4)


def predicted(model: Path, image: Path, folder: Path) -> NDArray[np.float64]:
    """Scores of all classes, as `predict` says."""
    table = folder / "scores.csv"
    attnbias("predict", "--load-from", model, image, "--gpus", 0, "--csv", table, "--overwrite", expect=0)
    _, row = csv.reader(table.read_text().splitlines())
    return np.array(row[1:], dtype=float)


def test_of_several_models_predictions_those_of_the_highest_score_of_any_are_drawn_first(
    image: Path, tmp_path: Path
) -> None:
    classes = tuple(f"class {number:02}" for number in range(60))
    models = [write_model(tmp_path / f"{seed}.safetensors", classes=classes, seed=seed) for seed in (0, 1)]
    scores = np.array([predicted(model, image, tmp_path) for model in models])
    loads = [word for model in models for word in ("--load-from", model)]
    (item,) = visualize(*loads, image, out=tmp_path / "out")["items"]
    highest = scores.max(axis=0)
    assert highest[item["labels"]] == pytest.approx(np.sort(highest)[::-1][:MOST_CLASSES], abs=2e-6)
    assert all((scores[number] == highest)[item["labels"]].any() for number in (0, 1))


def test_of_many_predicted_classes_the_highest_scored_are_drawn_first(image: Path, tmp_path: Path) -> None:
    classes = tuple(f"class {number:02}" for number in range(60))
    model = write_model(tmp_path / "model.safetensors", classes=classes)
    scores = predicted(model, image, tmp_path)
    assert (scores >= 0.5).sum() > MOST_CLASSES
    (item,) = visualize("--load-from", model, image, out=tmp_path / "out")["items"]
    assert scores[item["labels"]] == pytest.approx(np.sort(scores)[::-1][:MOST_CLASSES], abs=2e-6)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == MOST_CLASSES


def test_true_labels_go_first_and_unknown_ones_are_neither_true_nor_lost(
    model: Path, demo_root: Path, tmp_path: Path
) -> None:
    folder = dataset_folder("demo", tmp_path)
    shutil.copytree(dataset_folder("demo", demo_root), folder)
    index = Index.read(index_path(folder, "val"))
    target = (1, -1, 0, 0, -1, 0, 0, 0, 0, 1)
    records = (index.records[0]._replace(target=target), *index.records[1:])
    replace(index, records=records).write(index_path(folder, "val"))
    (item,) = visualize("--load-from", model, "--data-root", tmp_path, "--limit", 1, out=tmp_path / "out")["items"]
    assert (item["true"], item["unknown"]) == ([0, 9], [1, 4])
    assert item["labels"][:2] == [0, 9]
    scores = item["views"][0]["scores"]
    others = [scores[str(label)] for label in item["labels"][2:]]
    assert others == sorted(others, reverse=True)
