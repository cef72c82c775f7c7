"""Classifiers that come as Python objects: a function of one's own, and an image classifier of transformers."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnbias.model import load
from tests.helpers.command_line import attnbias

SIDE = 32
BUILD = """
import torch
from torch import nn

MEAN, STD, NAMES = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), ["a", "b", "c"]

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def build():
    return network(), {"image_size": 32, "mean": MEAN, "std": STD}, NAMES

def bare():
    return network()

def thousand():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000)), {"image_size": 32}

def wrong_names():
    return network(), {"image_size": 32}, ["a", "b"]

def no_logits():
    return nn.Conv2d(3, 4, 3), {"image_size": 32}

def closure():
    return network(), lambda image: image, NAMES

def fails():
    raise ValueError("no such file")

def nothing():
    return None

def leaves():
    raise SystemExit(7)

class Unlike(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.pretrained_cfg = what, {"unlike": "timm's"}

    def forward(self, images):
        if self.what == "raises":
            raise KeyError(f"{len(images)} images")
        return torch.zeros(len(images), 3, dtype=torch.int64)

def raises():
    return Unlike("raises"), {"image_size": 32}

def whole():
    return Unlike("whole"), {"image_size": 32}

class Silent(Exception):
    def __str__(self):
        raise RuntimeError

def silent():
    raise Silent

def argument(size):
    return network()

def oblong():
    return network(), {"image_size": (32, 64)}

def fraction():
    return network(), {"image_size": 32.7}

def sizeless():
    return network(), {"image_size": ()}

def halves():
    return network(), {"image_size": 32}, ["a", "b", "\\ud800"]

def flat():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), {"image_size": 32}

def small():
    return network(), {"image_size": -5}

def large():
    return network(), {"image_size": 10**9}

def no_number():
    return network(), {"image_size": 32, "mean": float("nan")}

class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, images):
        return self.inner(images).squeeze(0)

def squeezed():
    return Squeezed(), {"image_size": 32}, NAMES

class Few(Squeezed):
    def forward(self, images):
        return self.inner(images)[:2]

class Later(Squeezed):
    def forward(self, images):
        if len(images) > 2:
            raise KeyError("a batch of", len(images))
        return self.inner(images)

def later():
    return Later(), {"image_size": 32}, NAMES

def few():
    return Few(), {"image_size": 32}, NAMES
"""


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of one's own, a set of three classes, and one photo."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{module(request)}.py").write_text(BUILD)
    for number, name in enumerate("abcabc"):
        path = tmp_path / "set" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
    return tmp_path


def module(request: pytest.FixtureRequest) -> str:
    """A name for each test: Python imports a module once."""
    return "own_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


def refused(*arguments: object, cwd: Path, expect: int) -> str:
    """The error of a command, the last line behind what was said before."""
    lines = attnbias(*arguments, cwd=cwd, expect=expect).err.splitlines()
    assert not any(line.startswith("error") for line in lines[:-1])
    return lines[-1]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def expected(model: nn.Module, paths: list[Path]) -> np.ndarray:
    """Probabilities by hand."""
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths])
    images = (pixels - np.float32((0.4, 0.5, 0.6))) / np.float32((0.2, 0.3, 0.4))
    with torch.no_grad():
        scores: np.ndarray = model(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).numpy()
    return scores


def written(path: Path) -> np.ndarray:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in (*"abc",)] for row in rows])


def test_predict_val_visualize_and_python_take_a_function_of_ones_own(
    home: Path, request: pytest.FixtureRequest
) -> None:
    source = f"{module(request)}:build"
    paths = sorted((home / "set").rglob("*.png"))
    done = attnbias("predict", "--load-from", source, "set", "--csv", "p.csv", "--gpus", 0, cwd=home, expect=0)
    assert f"running code of your own: build in {home / module(request)}.py" in done.out + done.err
    assert np.allclose(written(home / "p.csv"), expected(network(), paths), atol=2e-6)

    attnbias("prepare-data", "set", cwd=home, expect=0)
    asked = ("val", "plain", "--load-from", source, "--dataset", "set", "--gpus", 0, "--json", "r.json")
    attnbias(*asked, cwd=home, expect=0)
    (result,) = json.loads((home / "r.json").read_text())
    right = expected(network(), paths).argmax(1) == ["abc".index(path.parent.name) for path in paths]
    assert result["measures"]["top1"] == pytest.approx(100 * right.mean())
    assert result["recipe"]["backbone"] == source

    words = ("visualize", "plain", "--load-from", source, paths[0], "--device", "cpu", "--out", "g")
    attnbias(*words, cwd=home, expect=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        model = load(source, method="plain")
    assert (model.classes, model.recipe.image_size) == (("a", "b", "c"), SIDE)


def test_weights_of_a_file_fill_the_network_and_nothing_else_takes_them(
    home: Path, request: pytest.FixtureRequest
) -> None:
    torch.save(network(seed=7).state_dict(), home / "w.pth")
    paths = sorted((home / "set").rglob("*.png"))
    source = f"{module(request)}:build"
    asked = ("predict", "--method", "plain", "set", "--weights-file", "w.pth", "--gpus", 0)
    attnbias(*asked, "--load-from", source, "--csv", "p.csv", cwd=home, expect=0)
    assert np.allclose(written(home / "p.csv"), expected(network(seed=7), paths), atol=2e-6)
    line = refused(*asked, "--load-from", "timm:resnet18", cwd=home, expect=2)
    assert "--weights-file changes nothing without MODULE:FUNCTION" in line
    torch.save({"other": torch.zeros(1)}, home / "w.pth")
    assert "w.pth" in refused(*asked, "--load-from", source, cwd=home, expect=3)
    asked = ("val", "plain", "--dataset", "set", "--gpus", 0, "--weights-file", "w.pth", "--load-from", source)
    attnbias("prepare-data", "set", cwd=home, expect=0)
    assert "w.pth" in refused(*asked, cwd=home, expect=3)
    asked = ("visualize", "plain", paths[0], "--weights-file", "w.pth", "--load-from", source, "--device", "cpu")
    assert "w.pth" in refused(*asked, cwd=home, expect=3)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("gone", 2, "has no function 'gone'"),
        ("nothing", 2, "gives NoneType; expected an nn.Module, or (nn.Module, {image_size"),
        ("wrong_names", 2, "names 2 classes, and its network has 3 outputs"),
        ("no_logits", 2, "gives (1, 4, 30, 30) for an image; expected logits (1, classes)"),
        ("squeezed", 2, "gives (3,) for an image; expected logits (1, classes)"),
        ("few", 1, "the model gives 2 scores for 6 images"),
        (
            "later",
            3,
            ":later: its network, asked with images of shape (6, 3, 32, 32), raised KeyError: ('a batch of', 6)",
        ),
        ("leaves", 3, "raised SystemExit: 7"),
        ("raises", 3, ":raises: its network, asked with images of 32 pixels, raised KeyError: '1 images'"),
        ("whole", 2, "its network gives numbers of torch.int64; expected logits, real numbers"),
        ("silent", 3, ":silent raised Silent"),
        ("argument", 3, ":argument raised TypeError: argument() missing 1 required positional argument: 'size'"),
        ("oblong", 2, "image_size (32, 64); expected a whole number, the side of a square"),
        ("fraction", 2, "image_size 32.7; expected a whole number"),
        ("sizeless", 2, "image_size (); expected a whole number"),
        ("halves", 2, "its class names are list; expected a list of texts"),
        ("small", 2, "image_size -5; expected 1 to 8,192 pixels"),
        ("large", 2, "image_size 1000000000; expected 1 to 8,192 pixels"),
        ("no_number", 2, "mean nan; expected finite numbers"),
        ("closure", 2, "says of its images function; expected a dict of image_size"),
        ("fails", 3, "raised ValueError: no such file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    name: str, code: int, words: str, home: Path, request: pytest.FixtureRequest
) -> None:
    asked = ("predict", "--method", "plain", "set", "--gpus", 0, "--load-from")
    assert words in refused(*asked, f"{module(request)}:{name}", cwd=home, expect=code)


def test_a_function_that_is_no_ones_own_is_one_line_and_debug_shows_where(home: Path) -> None:
    assert "os:system raised TypeError" in refused("audit", "os:system", "set", cwd=home, expect=3)
    shown = attnbias("--debug", "audit", "os:system", "set", cwd=home, expect=3).err
    assert "found = function()" not in shown
    assert "given = function()" in shown


def test_maps_of_a_network_without_a_grid_are_refused_in_one_line(home: Path, request: pytest.FixtureRequest) -> None:
    asked = ("visualize", "plain", "--load-from", f"{module(request)}:flat", "set/a", "--gpus", 0, "--out", "seen")
    assert "no layer of this network has a grid of features" in refused(*asked, cwd=home, expect=2)


def test_a_module_that_is_missing_and_a_method_of_its_own_network_are_one_line(
    home: Path, request: pytest.FixtureRequest
) -> None:
    asked = ("predict", "set", "--gpus", 0, "--load-from")
    assert "no module 'no_such_module'" in refused(*asked, "no_such_module:f", cwd=home, expect=2)
    for name in ("ida:run", "ida:runs/x"):
        code = 2 if name == "ida:run" else 3
        assert "attnbias val ida --load-from run" in refused(*asked, name, cwd=home, expect=code)
    (home / "lsas").mkdir()  # a run that is called as its method is; Python would import the folder
    assert "attnbias val lsas --load-from best" in refused(*asked, "lsas:best", cwd=home, expect=2)
    source = f"{module(request)}:build"
    line = refused(*asked, source, "--method", "csra", cwd=home, expect=2)
    assert "is a whole classifier, no model of 'csra'" in line
    line = attnbias("weights", "convert", source, "--to", "x.safetensors", cwd=home, expect=3).line
    assert "it names a model, not a file" in line


def test_what_is_not_told_is_assumed_and_said(home: Path, request: pytest.FixtureRequest) -> None:
    source = f"{module(request)}:bare"
    done = attnbias("predict", "--load-from", source, "set", "--json", "p.json", "--gpus", 0, cwd=home, expect=0)
    said = done.out + done.err
    assert "does not tell how its images are made; assumed: image_size 224, normalize imagenet" in said
    assert "names no classes; assumed: numbers" in said
    assert "class 0" in (home / "p.json").read_text()
    for folder, name in (("a", "tench"), ("b", "ibex")):
        shutil.copytree(home / "set" / folder, home / "beasts" / name)
    attnbias("prepare-data", "beasts", "--root", "root", cwd=home, expect=0)
    words = ("--load-from", f"{module(request)}:thousand", "--dataset", "beasts", "--root", "root", "--gpus", 0)
    done = attnbias("val", "plain", *words, cwd=home, expect=0)
    assert "names no classes; assumed: those of imagenet" in done.err
    assert "2 of the model's 1,000 stand for 2 of the dataset's 2" in done.err


def test_a_path_goes_before_a_function_of_its_name(home: Path, request: pytest.FixtureRequest) -> None:
    source = f"{module(request)}:build"
    (home / source).write_text("no weights")
    asked = ("predict", "--method", "plain", "set", "--load-from", source, "--gpus", 0)
    line = attnbias(*asked, cwd=home, expect=3).line
    assert "running code" not in line


def test_an_image_classifier_of_transformers_answers_as_it_does_there(home: Path) -> None:
    transformers = pytest.importorskip("transformers")
    labels = {0: "a", 1: "b", 2: "c"}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=3, id2label=labels)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(home / "vit")
    how = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (home / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 2, **how})
    )
    attnbias(*("predict", "--load-from", "transformers:vit", "set", "--csv", "p.csv", "--gpus", 0), cwd=home, expect=0)
    paths = sorted((home / "set").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float32) / 127.5 - 1 for path in paths])
    with torch.no_grad():
        theirs = model(pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2)).logits.softmax(1).numpy()
    assert np.allclose(written(home / "p.csv"), theirs, atol=2e-5)
    words = ("visualize", "plain", "--load-from", "transformers:vit", paths[0], "--device", "cpu", "--out", "g")
    attnbias(*words, cwd=home, expect=0)
    line = refused("--offline", "predict", "--load-from", "transformers:gone", "set", cwd=home, expect=3)
    assert "transformers:gone cannot be had" in line


def test_an_audit_takes_a_function_its_weights_and_a_map_of_classes(home: Path, request: pytest.FixtureRequest) -> None:
    torch.save(network(seed=7).state_dict(), home / "w.pth")
    for name in "abc":
        (home / "set" / name).rename(home / "set" / (name.upper() * 2))
    (home / "map.csv").write_text("model,dataset\na,AA\nb,AA\nc,CC\n")
    common = ("--weights-file", "w.pth", "--class-map", "map.csv", "--faithfulness", 1, "--gpus", 0, "--out", "found")
    attnbias("audit", f"{module(request)}:build", "set", *common, cwd=home, expect=0)
    content = (home / "found" / "audit.json").read_text()
    assert all(f'"{name}"' in content for name in ("AA", "BB", "CC"))
