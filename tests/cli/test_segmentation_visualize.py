"""`visualize absvit --task segmentation`: label maps over images, their legend, and the IoU of each class."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from attnbias.cli.app import app
from attnbias.data.sets.palettes import palette
from attnbias.methods.engine.display.segments import Segments, by_size, draw_segments, paint, said_of_all
from attnbias.methods.engine.load import weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.shapes import prepare_shapes

if TYPE_CHECKING:
    from tests.helpers.browser import Browser

CLASSES = ("ground", "disc", "box")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A prepared set of one's own: two images of different sizes, the second with ignored pixels."""
    rng = np.random.default_rng(0)
    return prepare_shapes(
        *(tmp_path / "shapes", tmp_path / "root", CLASSES),
        lambda labels: rng.integers(0, 255, (*labels.shape, 3), np.uint8),
    )


@pytest.fixture
def model(tmp_path: Path, shapes: Path) -> Path:
    """A small segmenter whose random weights say something, stored as training stores it."""
    method = get_method("absvit-segmentation")
    small = {"dataset": str(shapes), "channels": 8, "aux_channels": 4}
    recipe = override(method.named_recipe("mini").recipe, small)
    torch.manual_seed(0)
    net = method.build_model(recipe, len(CLASSES), "segmentation")
    with torch.no_grad():
        net.get_parameter("decode_head.conv_seg.weight").normal_()
    path = tmp_path / "model.safetensors"
    write_weights(path, net.state_dict(), weights_metadata(method, recipe, CLASSES, "segmentation"))
    return path


def visualize(*arguments: object) -> str:
    command = ["visualize", "absvit", "--device", "cpu", *map(str, arguments)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def content(out: Path) -> dict[str, Any]:
    found = re.search(r'id="page">(.*?)</script>', (out / "gallery.html").read_text(), re.DOTALL)
    assert found
    return json.loads(found.group(1))


def layer(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def predicted(model: Path, original: Path) -> NDArray[Any]:
    """What the product's own evaluation says of each pixel."""
    from attnbias.methods.engine.load import load_run

    loaded = load_run("absvit-segmentation", str(model), {})
    with Image.open(original) as image:
        answer = loaded.method.label_map(loaded.model, np.asarray(image), loaded.recipe)
    assert answer is not None
    return answer


def test_the_page_shows_both_label_maps_and_the_iou_of_each_class(model: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = visualize("--load-from", model, "--data-root", tmp_path / "root", "--out", out)
    assert "2 images" in said
    page = content(out)
    for k, item in enumerate(page["items"]):
        segments = item["views"][0]["segments"]
        ours = predicted(model, shapes / "images" / f"{k}.png")
        labels = np.asarray(Image.open(shapes / "labels" / f"{k}.png"))
        assert np.asarray(layer(segments["predicted"])).tolist() == ours.tolist()  # smaller than a thumbnail: as it is
        assert np.asarray(layer(segments["labelled"])).tolist() == labels.tolist()
        drawn = layer(segments["labelled"]).convert("RGBA")
        assert [drawn.getpixel((0, 0))[3], drawn.getpixel((12, 8))] == [0, (*palette(CLASSES)[1 + k].tolist(), 255)]
        words = {text.split(",")[0]: (colour, text) for colour, text in segments["legend"]}
        for label in np.unique([*np.unique(ours), *np.unique(labels[labels < 255])]):
            known = labels < 255
            both = ((ours == label) & (labels == label) & known).sum()
            either = (((ours == label) | (labels == label)) & known).sum()
            colour, text = words[CLASSES[label]]
            assert colour == "#" + palette(CLASSES)[label].tobytes().hex()
            assert text.endswith(f"IoU {both / either:.1%}")
        assert item["true"] == list(by_size(labels))
        assert item["views"][0]["predicted"] == list(by_size(ours))
    figures = page["runs"][0]["figures"]
    assert set(figures) == {"mIoU of these images", "IoU by class"}
    assert sorted(path.name for path in (out / "segments").iterdir()) == ["0000_0.png", "0001_1.png"]


def test_ones_own_images_have_a_prediction_alone(model: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo = shapes / "images" / "0.png"
    visualize("--load-from", model, photo, "--map", "class", "--map", "bottom-up", "--out", out)
    page = content(out)
    views = page["items"][0]["views"]
    assert [view["segments"]["labelled"] for view in views] == [None, None]
    assert views[0]["segments"]["predicted"] == views[1]["segments"]["predicted"]
    assert "IoU" not in json.dumps(views)
    assert all(not run["figures"] for run in page["runs"])
    assert len(list((out / "segments").rglob("*.png"))) == 1  # a model's, whatever its maps


def test_the_legend_lists_what_is_predicted_or_labelled() -> None:
    labels = np.array([[0, 0, 1, 255]])
    segments = Segments(np.array([[0, 0, 0, 2]]), labels, CLASSES)
    assert segments.overlaps == {0: pytest.approx(2 / 3), 1: 0.0}  # class 2 is predicted where nothing counts
    assert segments.legend() == {0: "ground, IoU 66.7%", 2: "box", 1: "disc, IoU 0.0%"}
    assert segments.words(1) == "IoU 0.0%, 0.0% of the pixels predicted, 25.0% labelled"
    assert said_of_all([segments, Segments(labels, None, CLASSES)]) == {
        "mIoU of these images": "33.3%",
        "IoU by class": "ground 66.7%, disc 0.0%",
    }
    assert said_of_all([Segments(labels, None, CLASSES)]) == {}


def test_the_drawing_holds_both_maps_in_their_colours() -> None:
    image = Image.new("RGB", (300, 200), (200, 200, 200))
    ours, theirs = np.full((10, 15), 1), np.full((10, 15), 2)
    drawn = np.asarray(draw_segments(image, Segments(ours, theirs, CLASSES)))
    for label in (1, 2):
        painted = paint(np.asarray(image), np.full((200, 300), label), palette(CLASSES))[0, 0]
        places = (drawn == painted).all(axis=2)
        assert places.sum() >= 300 * 200
        assert (drawn == palette(CLASSES)[label]).all(axis=2).sum() > 100  # its square in the legend
    alone = draw_segments(image, Segments(ours, None, CLASSES))
    assert alone.width < drawn.shape[1]


def test_the_browser_shows_what_is_chosen(browser: Browser, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    visualize("--load-from", model, "--data-root", tmp_path / "root", "--out", out)
    browser.open(out / "gallery.html")
    shown = "const shown = (css) => getComputedStyle(document.querySelector(css));"
    state = f"{shown} return [shown('.predicted').display, shown('.labelled').display, shown('.frame').visibility]"
    assert browser.run(state) == ["block", "none", "hidden"]
    choose = "const node = document.getElementById('pixels'); node.value = '{}';"
    choose += "node.dispatchEvent(new Event('change', {{bubbles: true}}));"
    browser.run(choose.format("labelled"))
    assert browser.run(state) == ["none", "block", "hidden"]
    browser.run(choose.format("map"))
    assert browser.run(state) == ["none", "none", "visible"]
    assert browser.run("return document.querySelectorAll('.legend li').length") >= 2
    assert browser.complaints() == []
