"""`attnbias predict`: one's own images, with the checkpoint's class names, whatever the number of processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.prediction.predict import chosen
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias

CPU = ("--gpus", 0, "--threads", 1)
NAMES = ("cat", "dog", "owl", "rat", "yak", "zebra")


def checkpoint(path: Path, method: str = "csra", task: Any = "multilabel", recipe: str = "demo", **fields: Any) -> Path:
    found = get_method(method)
    values = override(found.recipes[recipe].recipe, fields)
    torch.manual_seed(0)
    model = found.build_model(values, len(NAMES), task)
    write_weights(path, model.state_dict(), weights_metadata(found, values, NAMES, task))
    return path


@pytest.fixture
def make_images(tmp_path: Path) -> Path:
    """Seven images of several sizes in nested folders, and a file that is none."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for position in range(7):
        pixels = generator.integers(0, 256, (40 + 7 * position, 60, 3), dtype=np.uint8)
        path = folder / ("a" if position % 2 else "b") / f"{position}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_class_names_and_scores_are_the_models(make_images: Path, tmp_path: Path) -> None:
    weights, table = checkpoint(tmp_path / "w.safetensors"), tmp_path / "scores.csv"
    done = attnbias(
        *("predict", "--load-from", weights, make_images, "--json", "-", "--csv", table, "--threshold", 0, *CPU),
        expect=0,
    )
    found = json.loads(done.out)
    assert (found["method"], found["task"], found["skipped"]) == ("csra", "multilabel", [])
    assert f"left out: file of another kind: 1 ({make_images}/notes.txt)" in done.err
    files = sorted(make_images.rglob("*.png"))
    assert [image["path"] for image in found["pictures"]] == [str(path) for path in files]
    loaded = load_run("csra", str(weights), {})
    transform = loaded.method.transform(loaded.recipe, train=False)
    with torch.no_grad():
        images = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
        expected = loaded.model(images).sigmoid().numpy()
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["path", *NAMES]
    assert [row[0] for row in rows[1:]] == [str(path) for path in files]
    assert np.allclose(np.array([row[1:] for row in rows[1:]], dtype=float), expected, atol=2e-6)
    for image, scores in zip(found["pictures"], expected, strict=True):
        assert [c["class"] for c in image["classes"]] == [NAMES[i] for i in np.argsort(-scores)]


def test_every_image_of_folders_that_are_nested_deep(tmp_path: Path) -> None:
    """400 folders, one in the other, and a link from the deepest to the first: none is lost, none is read twice."""
    folder = tmp_path / "nested"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    content, files = (tmp_path / "one.png").read_bytes(), []
    for _ in range(400):
        files.append(folder / "i.png")
        files[-1].write_bytes(content)
        folder /= "d"
        folder.mkdir()
    (folder / "back").symlink_to(tmp_path / "nested")
    done = attnbias(
        *("predict", "--load-from", checkpoint(tmp_path / "w.safetensors"), tmp_path / "nested", "--json", "-", *CPU),
        expect=0,
    )
    assert {image["path"] for image in json.loads(done.out)["pictures"]} == set(map(str, files))
    assert f"left out: link to a folder that it is in: 1 ({folder}/back)" in done.err


def test_which_classes_are_named() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.4, 0.05, 0.6], dtype=np.float32)
    assert chosen(scores, True, None, None) == [1, 5, 2]
    assert chosen(scores, True, 2, None) == [1, 5]
    assert chosen(scores, True, None, 0.05) == [1, 5, 2, 3, 0, 4]
    assert chosen(scores, False, None, None) == [1, 5, 2, 3, 0]
    assert chosen(scores, False, 3, 0.55) == [1, 5]
    assert chosen(scores, True, None, 0.95) == []


def test_a_line_a_image_for_people(make_images: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors", "lsas", "singlelabel", "demo-single", pipeline="square")
    lines = attnbias(
        "predict", "--load-from", weights, make_images / "a", "--top-k", 2, *CPU, expect=0
    ).out.splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, sorted((make_images / "a").iterdir()), strict=True):
        place, _, words = line.partition(": ")
        assert place == str(path)
        assert len(words.split(", ")) == 2
        assert words.split()[0] in NAMES
    unsure = attnbias("predict", "--load-from", weights, make_images / "a", "--threshold", 1, *CPU, expect=0).out
    for line, known in zip(unsure.splitlines(), lines, strict=True):
        first = known.partition(": ")[2].split(", ")[0]
        assert line.endswith(f": - (highest: {first})")


def test_images_are_turned_upright(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    image.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    done = attnbias(
        "predict", "--load-from", weights, tmp_path / "upright.png", tmp_path / "turned.png", "--threshold", 0, *CPU
    )
    upright, turned = done.out.splitlines()
    assert upright.split(": ")[1] == turned.split(": ")[1]


def test_bad_images_are_named(make_images: Path, tmp_path: Path) -> None:
    weights, bad = checkpoint(tmp_path / "w.safetensors"), make_images / "b" / "3bad.jpg"
    bad.write_bytes(b"\xff\xd8 cut off")
    common = ("predict", "--load-from", weights, make_images, "--json", "-", *CPU)
    assert str(bad) in attnbias(*common, expect=3).err
    done = attnbias(*common, "--on-bad-image", "skip", expect=0)
    found = json.loads(done.out)
    assert len(found["pictures"]) == 7
    assert len(found["skipped"]) == 1
    assert str(bad) in found["skipped"][0]
    assert f"left out: {found['skipped'][0]}" in done.err


def test_what_does_not_go_is_said_in_a_line(make_images: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors")
    assert "no file or folder" in attnbias("predict", "--load-from", weights, tmp_path / "none", *CPU, expect=2).line
    assert (
        "did you mean 'csra'"
        in attnbias("predict", "--load-from", weights, make_images, "--method", "csr", expect=2).line
    )
    assert (
        "no checkpoint nowhere" in attnbias("predict", "--load-from", "nowhere", make_images / "a", *CPU, expect=3).line
    )
    native = checkpoint(tmp_path / "n.safetensors", "lsas", "singlelabel", "demo-single", pipeline="native")
    line = attnbias("predict", "--load-from", native, make_images / "a", *CPU, expect=2).line
    assert "add --eval-batch-size 1" in line
    attnbias("predict", "--load-from", native, make_images / "a", "--eval-batch-size", 1, *CPU, expect=0)


@pytest.mark.slow
def test_processes_share_a_folder_and_change_nothing(make_images: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors")
    contents = []
    for processes in (1, 2, 3):
        out = tmp_path / f"{processes}.json"
        command = [sys.executable, "-m", "attnbias", "predict", "--load-from", weights, make_images, "--json", out]
        options = ["--gpus", "0", "--processes", str(processes), "--threads", "1", "--eval-batch-size", "2"]
        subprocess.run([*map(str, command), *options], check=True, stdout=subprocess.DEVNULL)
        contents.append(out.read_text())
    assert contents[0] == contents[1] == contents[2]


def test_how_images_are_made_is_said_and_kept(trained: Path, demo_root: Path, here: Path) -> None:
    image = next((demo_root / "demo" / "images").rglob("*.jpg"))
    weights = ("--load-from", trained, "--gpus", 0)
    words = "Resize(size=[32, 32], interpolation=InterpolationMode.BILINEAR, antialias=True); normalize unit (mean 0"
    assert words in attnbias("predict", *weights, image, "--json", "said.json", expect=0).err
    assert json.loads(Path("said.json").read_text())["preprocessing"]["image_size"] == 32
    assert words in attnbias("visualize", "csra", *weights, image, "--classes", 0, expect=0).err
    assert words in Path("gallery/gallery.html").read_text()
    graph = ("--format", "torch-export", "--check")
    assert words in attnbias("export", "csra", *weights, image, *graph, expect=0).err
