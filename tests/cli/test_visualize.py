"""`attnbias visualize`: real and generated images in, overlays, gallery and raw maps out; wrong input, one line."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from typer.testing import CliRunner

from attnbias.cli.app import app
from attnbias.cli.errors import describe
from attnbias.data.transforms.basic import eval_transform
from attnbias.methods.engine.display.inference import place_input
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.load import class_numbers, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights


def checkpoint(path: Path, classes: tuple[str, ...], seed: int = 0, method_name: str = "csra", **changes: Any) -> Path:
    """A small model with random weights, stored as training stores it."""
    method = get_method(method_name)
    recipe = override(method.named_recipe("demo").recipe, changes)
    torch.manual_seed(seed)
    model = method.build_model(recipe, len(classes), "multilabel")
    write_weights(path, model.state_dict(), weights_metadata(method, recipe, classes, "multilabel"))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model.safetensors", ("cat", "dog", "3"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one in a folder below, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("wide.jpg", (30, 50, 3)), ("more/tall.png", (80, 40, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def visualize(*arguments: object) -> str:
    """Run the command in this process; errors come out as they are."""
    result = CliRunner().invoke(app, ["visualize", "csra", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> tuple[int, str]:
    """Run the command and return its exit code and its one line."""
    result = CliRunner().invoke(app, ["visualize", "csra", *map(str, arguments)])
    assert result.exception is not None
    known = describe(result.exception)
    assert known is not None, repr(result.exception)
    return known


def content(out: Path) -> dict[str, Any]:
    found = re.search(r'id="page">(.*?)</script>', (out / "gallery.html").read_text(), re.DOTALL)
    assert found
    return json.loads(found.group(1))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "maps.npz") as file:
        return dict(file)


def overlays(out: Path) -> list[str]:
    return sorted(str(file.relative_to(out / "overlays")) for file in (out / "overlays").rglob("*.png"))


def test_a_folder_of_images_becomes_overlays_a_page_and_raw_maps(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = visualize("--load-from", model, photos, "--classes", "dog,3", "--npz", "--out", out)
    assert "left out: file of another kind: 1 (" in said
    assert "2 images" in said
    assert overlays(out) == [f"{place}.{name}.png" for place in ("0000_tall", "0001_wide") for name in ("3", "dog")]
    assert pixels(out / "overlays" / "0001_wide.dog.png").shape == (224, 373, 3)  # enlarged, its proportions kept
    page = content(out)
    assert [item["name"] for item in page["items"]] == ["more/tall.png", "wide.jpg"]
    assert all(item["true"] is None and item["labels"] == [1, 2] for item in page["items"])
    assert page["runs"][0]["map"].startswith("score: ")
    assert page["runs"][0]["checkpoint"] == str(model)
    raw = arrays(out)
    assert raw["maps_0"].shape == (4, 8, 8)
    assert raw["maps_0"].dtype == np.float32
    assert raw["picture_0"].tolist() == [0, 0, 1, 1]
    assert raw["class_0"].tolist() == [1, 2, 1, 2]


def test_raw_maps_are_what_the_method_answers(model: Path, photos: Path, tmp_path: Path) -> None:
    from attnbias.data.images import read_image
    from attnbias.methods.engine.load import load_run

    out = tmp_path / "out"
    visualize(
        "--load-from", model, photos / "wide.jpg", "--classes", "cat", "--map", "attention", "--npz", "--out", out
    )
    loaded = load_run("csra", str(model), {})
    image = loaded.method.transform(loaded.recipe, False)(read_image(photos / "wide.jpg"))
    with torch.no_grad():
        expected = loaded.method.attention(loaded.model, image[None], torch.tensor([0]), kind="attention")
    np.testing.assert_allclose(arrays(out)["maps_0"], expected[0], rtol=1e-5)


def test_runs_maps_and_heads_stand_side_by_side(model: Path, photos: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "plain.safetensors", ("cat", "dog", "3"), seed=1, lam=0.0)
    out = tmp_path / "out"
    common = (photos / "wide.jpg", "--classes", "cat", "--out", out)
    visualize("--load-from", model, "--load-from", other, "--map", "attention", "--map", "gradcam", *common)
    names = [run["name"] for run in content(out)["runs"]]
    assert names == ["model attention", "model gradcam", "plain attention", "plain gradcam"]
    assert len(overlays(out)) == 4
    assert "Grad-CAM at backbone" in content(out)["runs"][1]["map"]
    assert content(out)["runs"][2]["recipe"]["lam"] == "0.0"
    visualize("--load-from", model, "--head", 0, "--head", 3, *common, "--overwrite")
    assert [run["name"] for run in content(out)["runs"]] == ["model head 0", "model head 3"]
    maps = [view["maps"]["0"]["data"] for view in content(out)["items"][0]["views"]]
    assert maps[0] != maps[1]
    assert len(overlays(out)) == 2  # the earlier run's are gone


def test_photographs_with_their_boxes(coco_source: Path, tmp_path: Path) -> None:
    annotations = json.loads(next((coco_source / "annotations").glob("*.json")).read_text())
    root = tmp_path / "data"
    arguments = ["prepare-data", "coco", "--source", str(coco_source), "--root", str(root)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = tuple(one["name"] for one in sorted(annotations["categories"], key=lambda one: one["id"]))
    model = checkpoint(tmp_path / "coco.safetensors", names, dataset="coco")
    out = tmp_path / "out"
    visualize("--load-from", model, "--split", "train", "--limit", 3, "--data-root", root, "--out", out)
    page = content(out)
    assert len(page["items"]) == 3
    assert page["source"].startswith("coco, split train, first 3 of ")
    by_name = {image["file_name"]: image for image in annotations["images"]}
    categories = {one["id"]: one["name"] for one in annotations["categories"]}
    for item in page["items"]:
        image = by_name[Path(item["name"]).name]
        mine = [one for one in annotations["annotations"] if one["image_id"] == image["id"]]
        assert {page["classes"][label] for label in item["true"]} == {categories[one["category_id"]] for one in mine}
        assert len(item["boxes"]) == len(mine)
        expected = {round(one["bbox"][0] / image["width"], 3) for one in mine}
        assert {round(box["x"], 3) for box in item["boxes"]} == expected
        first = next(file for file in overlays(out) if Path(item["name"]).stem in file)
        enlarged = max(1, 224 / min(image["height"], image["width"]))  # small ones, so that labels can be read
        shape = (round(enlarged * image["height"]), round(enlarged * image["width"]), 3)
        assert pixels(out / "overlays" / first).shape == shape


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (100, 300)])
def test_the_network_s_input_is_found_on_the_image(size: tuple[int, int]) -> None:
    original = Image.new("RGB", size)
    image, frame = place_input(eval_transform(32, "unit"), original)
    assert image.shape == (3, 32, 32)
    assert frame == pytest.approx((0, 0, 1, 1), abs=1e-5)
    cropped = v2.Compose([v2.Resize(40), v2.CenterCrop(32), v2.PILToTensor()])
    short = min(size)
    width, height = (0.8 * short / side for side in size)
    _, frame = place_input(cropped, original)
    assert frame == pytest.approx(((1 - width) / 2, (1 - height) / 2, width, height), abs=0.02)


def test_class_names_go_before_numbers() -> None:
    assert class_numbers(["dog", "3", "0", "dog"], ("cat", "dog", "3", "owl", "hen")) == [1, 2, 0]
    assert class_numbers([], ("cat",)) == []
    with pytest.raises(UsageError, match="did you mean 'dog'"):
        class_numbers(["dogg"], ("cat", "dog"))
    with pytest.raises(UsageError, match="no class '7'"):
        class_numbers(["7"], ("cat", "dog"))


def test_an_unreadable_image_is_named_or_left_out_by_request(model: Path, photos: Path, tmp_path: Path) -> None:
    broken = photos / "broken.jpg"
    broken.write_bytes((photos / "wide.jpg").read_bytes()[:300])
    out = tmp_path / "out"
    code, line = refused("--load-from", model, photos, "--out", out)
    assert (code, "broken.jpg" in line) == (3, True)
    assert not out.exists()
    said = visualize("--load-from", model, photos, "--out", out, "--on-bad-image", "skip")
    assert "2 images" in said
    assert "1 unreadable" in said
    assert "broken.jpg" in said


def test_nothing_is_overwritten_or_left_half_written(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    code, line = refused("--load-from", model, photos, "--out", out)
    assert (code, "--overwrite" in line) == (2, True)
    code, _ = refused("--load-from", model, photos, "--head", 9, "--out", out, "--overwrite")
    assert code == 2
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    visualize("--load-from", model, photos, "--out", out, "--overwrite")
    assert (out / "mine.txt").read_text() == "keep"
    assert (out / "gallery.html").is_file()
    assert not list(tmp_path.glob(".*part"))


def test_a_folder_that_cannot_be_written_is_one_line(model: Path, photos: Path, tmp_path: Path) -> None:
    code, line = refused("--load-from", model, photos, "--out", model / "below a file")
    assert (code, "cannot write" in line) == (2, True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a full disk: no file may grow beyond 4 kB
    try:
        code, line = refused("--load-from", model, photos, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, "cannot write" in line) == (1, True)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*part"))


def test_wrong_requests_are_refused_in_one_line(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, code, words in (
        (("--load-from", tmp_path / "none.pth", photos), 3, "none.pth"),
        (("--load-from", model, tmp_path / "nowhere.jpg"), 2, "nowhere.jpg"),
        (("--load-from", model, photos, "--map", "atention"), 2, "did you mean 'attention'"),
        (("--load-from", model, photos, "--map", "gradcam", "--head", 1), 2, "--head"),
        (("--load-from", model, photos, "--classes", "dgo"), 2, "did you mean 'dog'"),
        (("--load-from", model, photos, "--device", "cuda:99"), 2, "--device cuda:99"),
        (("--load-from", model, "--data-root", tmp_path), 3, "prepare-data demo"),
    ):
        found, line = refused(*arguments, "--out", out)
        assert (found, words in line) == (code, True), line
        assert not out.exists()


def test_another_method_stands_beside_under_one_explainer(model: Path, photos: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "lsas.safetensors", ("cat", "dog", "3"), method_name="lsas")
    out = tmp_path / "out"
    visualize("--load-from", model, "--load-from", f"lsas:{other}", "--map", "gradcam", photos, "--out", out)
    page = content(out)
    assert [run["name"] for run in page["runs"]] == ["model gradcam", "lsas gradcam"]
    assert "LSAS" in page["runs"][1]["method"]
    assert all(list(view["maps"]) == list(item["views"][0]["maps"]) for item in page["items"] for view in item["views"])


def test_the_images_where_a_map_peaks_highest_come_first(tmp_path: Path) -> None:
    llb = checkpoint(tmp_path / "llb.safetensors", ("cat", "dog"), method_name="llb")
    folder = tmp_path / "noise"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (20, 40, 40, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    common = ("--load-from", f"llb:{llb}", folder, "--map", "objects", "--head", 5, "--classes", "dog", "--npz")
    visualize(*common, "--out", tmp_path / "all")
    visualize(*common, "--top", 3, "--out", tmp_path / "top")
    peaks = arrays(tmp_path / "all")["maps_0"].max(axis=(1, 2))
    best = np.argsort(-peaks)[:3]
    assert best.tolist() != [0, 1, 2]
    assert [item["name"] for item in content(tmp_path / "top")["items"]] == [f"{number:02}.png" for number in best]
    assert arrays(tmp_path / "top")["maps_0"].max(axis=(1, 2)) == pytest.approx(peaks[best], rel=1e-5)
    assert "the 3 where llb objects head 5 peaks highest" in content(tmp_path / "top")["source"]


def test_runs_of_other_classes_are_not_compared(model: Path, photos: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other.safetensors", ("cat", "dog"))
    code, line = refused("--load-from", model, "--load-from", other, photos, "--out", tmp_path / "out")
    assert (code, "other classes" in line) == (2, True)


def test_a_turned_photograph_is_shown_upright(model: Path, tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (60, 40)), Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    visualize("--load-from", model, tmp_path / "turned.jpg", "--out", tmp_path / "out")
    item = content(tmp_path / "out")["items"][0]
    assert (item["width"], item["height"]) == (40, 60)


def test_the_published_style_draws_as_the_papers_program(model: Path, photos: Path, tmp_path: Path) -> None:
    from attnbias.methods.engine.display.overlay import published_overlay

    out = tmp_path / "out"
    arguments = ("--load-from", model, photos / "more" / "tall.png", "--classes", "cat", "--style", "published")
    visualize(*arguments, "--npz", "--out", out)
    drawn, photo = pixels(out / "overlays" / "0000_tall.cat.png"), pixels(photos / "more" / "tall.png")
    expected = published_overlay(photo, arrays(out)["maps_0"][0], (224, 224)).overlay
    np.testing.assert_array_equal(drawn, expected)
