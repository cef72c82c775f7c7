"""`attnbias export`: each method as an ONNX and a torch.export graph that answers as the model does, maps included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbias.methods.engine import screen
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.export import compare, images_for_check, runner, wrap, write_graph
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.stored import EXPORTED, KEY
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("absvit", "llb")]
METHODS = ("csra", "ida", "lsas", "absvit", "llb")
NAMES = tuple("abcdefg")


def checkpoint(path: Path, method: str, task: Any = "multilabel", **fields: Any) -> Path:
    found = get_method(method)
    if method == "lsas":
        fields = {"pipeline": "square", **fields}  # photographs of any size
    recipe = override(found.recipes["demo"].recipe, fields)
    torch.manual_seed(0)
    model = found.build_model(recipe, len(NAMES), task)
    for parameter in model.parameters():  # zeros, as heads may start with, would hide what is compared
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    write_weights(path, model.state_dict(), weights_metadata(found, recipe, NAMES, task))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six smooth colourful images."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for position in range(6):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{position}.png")
    return folder


def test_torch_export_answers_as_the_model(photos: Path, tmp_path: Path) -> None:
    """Of every method: tests/methods/contract.py."""
    method, out = "csra", tmp_path / "m.pt2"
    weights = checkpoint(tmp_path / "w.safetensors", method)
    done = attnbias(
        "export", method, "--load-from", weights, "--format", "torch-export", "--out", out, "--check", photos, expect=0
    )
    assert "largest difference on 6 images" in done.out
    extra = {EXPORTED: ""}
    program = torch.export.load(out, extra_files=extra).module()
    said = json.loads(extra[EXPORTED])
    assert (said["method"], tuple(said["classes"])) == (method, NAMES)
    assert said["preprocessing"]["steps"]
    loaded = load_run(method, str(weights), {})
    size = loaded.recipe.image_size
    for batch in (1, 5):
        images = torch.rand(batch, 3, size, size)
        scores, maps, classes = program(images)
        with torch.no_grad():
            expected = loaded.method.predict(loaded.model, images, loaded.task)["scores"]
            drawn = loaded.method.attention(loaded.model, images, classes)
        assert torch.allclose(scores, expected, atol=1e-5)
        assert torch.allclose(maps, drawn, atol=1e-4 * float(drawn.max()) + 1e-6)
        assert (maps >= 0).all()
        assert (scores.gather(1, classes).diff(dim=1) <= 0).all()


@pytest.mark.parametrize(
    "method", ["csra", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ida", "lsas")), *SLOW]
)
def test_onnx_answers_as_the_model_in_onnxruntime(method: str, photos: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "m.onnx"
    weights = checkpoint(tmp_path / "w.safetensors", method)
    done = attnbias("export", method, "--load-from", weights, "--out", out, "--check", photos, expect=0)
    assert f"{out}: images (B, 3, " in done.out
    assert "largest difference on 6 images" in done.out
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(("m.", "."))] == ["m.onnx"]
    model = onnx.load(out)
    assert [value.name for value in model.graph.output] == ["scores", "maps", "classes"]
    (said,) = (entry.value for entry in model.metadata_props if entry.key == KEY)
    assert json.loads(said)["classes"] == list(NAMES)
    loaded = load_run(method, str(weights), {})
    run = runner(out, "onnx")
    images = torch.rand(1, 3, loaded.recipe.image_size, loaded.recipe.image_size)
    with torch.no_grad():
        expected = loaded.method.predict(loaded.model, images, loaded.task)["scores"]
    assert torch.allclose(run(images)[0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_map_exports_or_says_why_not(method: str, photos: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors", method)
    for kind in (*get_method(method).maps, "gradcam"):
        out = tmp_path / f"{kind}.pt2"
        common = ("export", method, "--load-from", weights, "--format", "torch-export", "--out", out, "--map", kind)
        if kind.startswith("gradcam"):
            assert f"--map {kind} needs a backward pass" in attnbias(*common, expect=2).line
            assert not out.exists()
        else:
            attnbias(*common, "--check", photos, "--limit", 2, expect=0)


def test_maps_of_classes_that_were_named(photos: Path, tmp_path: Path) -> None:
    weights, out = checkpoint(tmp_path / "w.safetensors", "csra"), tmp_path / "m.pt2"
    attnbias(
        "export",
        "csra",
        "--load-from",
        weights,
        "--format",
        "torch-export",
        "--out",
        out,
        "--classes",
        "c,a",
        "--head",
        1,
        expect=0,
    )
    images = torch.rand(2, 3, 64, 64)
    _, maps, classes = torch.export.load(out).module()(images)
    assert classes.tolist() == [[2, 0], [2, 0]]
    loaded = load_run("csra", str(weights), {})
    with torch.no_grad():
        assert torch.allclose(maps, loaded.method.attention(loaded.model, images, classes, head=1), atol=1e-6)


def test_maps_checks_and_classes_are_as_typed(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "PLAIN_EVERY", 0.0)
    weights, out = write_model(tmp_path / "w.safetensors"), tmp_path / "m.pt2"
    asked = ("--map", "attention", "--top-k", 3, "--check", "--limit", 2, "--data-root", demo_root)
    common = ("export", "csra", "--load-from", weights, "--format", "torch-export", "--out", out)
    done = attnbias(*common, *asked, expect=0)
    assert "map attention" in done.out
    assert "largest difference on 2 images" in done.out
    assert "checked images: 0 of 2" in done.err
    images = torch.rand(2, 3, 64, 64)
    scores, maps, classes = torch.export.load(out).module()(images)
    assert torch.equal(classes, scores.topk(3).indices)
    loaded = load_run("csra", str(weights), {})
    with torch.no_grad():
        assert torch.allclose(maps, loaded.method.attention(loaded.model, images, classes, kind="attention"), atol=1e-6)


def test_what_does_not_agree_is_found_and_not_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_run("csra", str(checkpoint(tmp_path / "w.safetensors", "csra")), {})
    exported = wrap(loaded)
    dataset = images_for_check(loaded, [str(path) for path in sorted(photos.iterdir())], None)

    def wrong(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, maps, classes = exported(images)
        return scores, maps * 1.01, classes

    parity = compare(exported, wrong, dataset, 6)
    assert not parity
    assert parity.scores == 0
    assert parity.maps == pytest.approx(0.01, rel=1e-3)
    assert compare(exported, exported, dataset, 6)
    assert not compare(exported, lambda images: (exported(images)[0] * torch.nan, *exported(images)[1:]), dataset, 6)
    monkeypatch.setattr("attnbias.methods.engine.export.runner", lambda path, form: wrong)
    out = tmp_path / "out" / "m.pt2"
    with pytest.raises(RunError, match=r"does not agree with the model: .*; it was not kept"):
        write_graph(exported, loaded, "torch-export", out, dataset)
    assert not out.exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_what_does_not_go_is_said_in_a_line(photos: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.safetensors", "csra")
    common = ("export", "csra", "--load-from", weights)
    assert "ends in .onnx" in attnbias(*common, "--out", tmp_path / "m.pt2", expect=2).line
    assert "images are for --check" in attnbias(*common, photos, expect=2).line
    assert "did you mean 'score'" in attnbias(*common, "--map", "scor", "--out", tmp_path / "m.onnx", expect=2).line
    assert "no class 'cat'" in attnbias(*common, "--classes", "cat", "--out", tmp_path / "m.onnx", expect=2).line
    (tmp_path / "m.onnx").write_bytes(b"")
    assert "--overwrite" in attnbias(*common, "--out", tmp_path / "m.onnx", expect=2).line


def test_a_set_of_other_classes_checks_no_model(demo_root: Path, tmp_path: Path) -> None:
    weights, out = checkpoint(tmp_path / "w.safetensors", "csra"), tmp_path / "m.pt2"
    common = ("export", "csra", "--load-from", weights, "--format", "torch-export", "--out", out, "--check")
    line = attnbias(*common, "--data-root", demo_root, expect=2).line
    assert f"{weights} knows 7 classes, dataset 'demo' has 10; name the right one with --dataset" in line
    assert not out.exists()
