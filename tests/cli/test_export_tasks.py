"""`attnbias export` of models that label pixels, or that are asked in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnbias.methods.absvit.segmentation.heads import PoolByProducts
from attnbias.methods.engine.export import runner
from attnbias.methods.engine.load import load_run
from tests.cli.test_predict_tasks import ANSWERS, CLASSES, prepared_questions, stored
from tests.helpers.command_line import attnbias

SIZES = ((40, 60), (56, 48), (64, 64))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def export(method: str, weights: Path, *words: object, expect: int = 0) -> Any:
    return attnbias("export", method, "--load-from", weights, *words, expect=expect)


def test_pooling_by_products_is_adaptive_pooling() -> None:
    maps = torch.rand(2, 5, 9, 13)
    for bins in (1, 2, 3, 6):
        torch.testing.assert_close(PoolByProducts(bins)(maps), nn.AdaptiveAvgPool2d(bins)(maps))


@pytest.mark.slow  # tests/methods/contract.py holds each task's graph in every run
@pytest.mark.parametrize("form", ["torch-export", "onnx"])
def test_a_segmenters_graph_takes_images_of_any_size(form: str, photos: Path, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    weights = stored(
        *(tmp_path / "m.safetensors", "absvit-segmentation", "mini", CLASSES, "segmentation"),
        channels=8,
        aux_channels=4,
    )
    file = tmp_path / ("m.onnx" if form == "onnx" else "m.pt2")
    said = export("absvit", weights, "--format", form, "--out", file, "--check", photos).out
    assert "images (B, 3, H, W) -> probabilities, labels" in said
    assert "largest difference on 3 images" in said
    loaded, run = load_run("absvit-segmentation", str(weights), {}, "cpu"), runner(file, form)  # type: ignore[arg-type]
    # As many patches as the square of positions has, and another number.
    for batch, height, width in (
        (1, 64, 64),
        (2, 61, 90),
    ):
        images = torch.rand(batch, 3, height, width)
        shares, labels = run(images)
        assert labels.shape == (batch, height, width)
        with torch.no_grad():
            expected = loaded.method.pixel_shares(loaded.model, images)  # type: ignore[attr-defined]
        torch.testing.assert_close(shares, expected, atol=1e-4, rtol=0)
        assert torch.equal(labels, shares.argmax(1))
    for wrong in (("--top-k", 2), ("--mode", "slide"), ("--aug-test",), ("--classes", "disc"), ("--map", "rollout")):
        assert "graph" in export("absvit", weights, *wrong, "--out", tmp_path / "n.onnx", expect=2).line


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_questions(tmp_path_factory.mktemp("vqa"), "What is in the picture? A red square.")


@pytest.mark.parametrize(
    ("task", "form"),
    [
        ("vqa", "torch-export"),
        pytest.param("nlvr2", "torch-export", marks=pytest.mark.slow),
        pytest.param("retrieval", "torch-export", marks=pytest.mark.slow),
        pytest.param("vqa", "onnx", marks=pytest.mark.slow),
        pytest.param("nlvr2", "onnx", marks=pytest.mark.slow),
        pytest.param("retrieval", "onnx", marks=pytest.mark.slow),
    ],
)
def test_a_graph_reads_tokens_beside_images(task: str, form: str, root: Path, photos: Path, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    classes = {"vqa": ANSWERS, "retrieval": (), "nlvr2": ("False", "True")}[task]
    small = {"image_size": 32, "fusion_width": 32, "fusion_layers": 1, "dataset": "vqav2", "tokenizer": "words"}
    weights = stored(tmp_path / "m.safetensors", "absvit-vision-language", f"tiny-{task}", classes, task, **small)
    file = tmp_path / ("m.onnx" if form == "onnx" else "m.pt2")
    said = export(*("absvit", weights, "--format", form, "--out", file, "--check", photos, "--data-root", root)).out
    second = ", second_images" if task == "nlvr2" else ""
    assert f"images (B, 3, 32, 32){second}, text_ids, text_mask -> scores, maps" in said
    assert "largest difference on 3 images" in said
    run, images = runner(file, form), torch.rand(5, 3, 32, 32)  # type: ignore[arg-type]
    ids = torch.tensor([[0, 5, 6, 2]]).expand(5, -1)
    length = load_run("absvit-vision-language", str(weights), {}, "cpu").recipe.model_dump()["max_text_length"]
    ids = torch.nn.functional.pad(ids, (0, length - 4), value=1)
    scores, maps = run(images, *([images.flip(0)] if task == "nlvr2" else []), ids, (ids != 1).long())
    assert scores.shape == (5, max(1, len(classes)))
    assert maps.shape[:2] == (5, 2 if task == "nlvr2" else 1)
