"""`--masks estimate`: objects of images without masks, by a segmenter, marked as estimated wherever they are used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model, get_model_weights

from attnbias.data.masks import read_masks
from attnbias.data.registry import open_split
from attnbias.methods.engine.estimated_masks import with_estimated_masks
from attnbias.methods.engine.requests import AuditRequest
from tests.cli.test_audit import single_label
from tests.helpers.command_line import attnbias

NAME = "lraspp_mobilenet_v3_large"
CLASSES = ("bird", "cat", "ocelot")
"""The last is none of the segmenter's."""
OF_VOC = {"bird": 3, "cat": 8}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image a class, prepared; a classifier; and a segmenter of random weights that answers bird or cat."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    state = get_model(NAME, weights=None, weights_backbone=None, num_classes=21).state_dict()
    for part in ("low", "high"):
        bias = state[f"classifier.{part}_classifier.bias"]
        bias[:] = -1e4
        bias[list(OF_VOC.values())] = 0
    torch.save(state, home / "segmenter.pth")
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (home / "photos" / name).mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(home / "photos" / name / f"{number}.png")
    attnbias("prepare-data", "photos", cwd=home, expect=0)
    single_label(home / "model.safetensors", CLASSES)
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


ESTIMATE = ("--masks", "estimate", "--segmenter", f"{NAME}:segmenter.pth", "--device", "cpu")


def test_a_mask_is_where_the_segmenter_sees_a_true_class_and_is_estimated_once(here: Path) -> None:
    index = open_split("photos", "val", None)
    known = {"load_from": "x", "data": "photos", "masks": "estimate", "segmenter": f"{NAME}:segmenter.pth"}
    found = with_estimated_masks(AuditRequest.of(known), index)
    assert found.estimated_by == f"torchvision's {NAME} (segmenter.pth)"
    assert found.annotations is not None
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=21).eval()
    model.load_state_dict(torch.load("segmenter.pth", weights_only=True))  # noqa: TID251
    prepare = get_model_weights(NAME).DEFAULT.transforms()
    for position, record in enumerate(found.records):
        assert isinstance(record.target, int)
        masks = read_masks(found.annotations, position, (50, 40))
        if index.classes[record.target] == "ocelot":
            assert (len(masks.labels), record.boxes) == (0, ())
            continue
        with torch.no_grad():
            scores = model(prepare(Image.open(index.root / record.path))[None])["out"][0]
        labels = Image.fromarray(scores.argmax(0).byte().numpy()).resize((50, 40), Image.Resampling.NEAREST)
        expected = np.asarray(labels) == OF_VOC[index.classes[record.target]]
        assert 0.02 < expected.mean() < 0.98
        assert (masks.labels.tolist(), [box.label for box in record.boxes]) == ([record.target], [record.target])
        assert np.array_equal(masks.masks[0], expected)
    before = found.annotations.stat().st_mtime_ns
    assert with_estimated_masks(AuditRequest.of(known), index) == found
    assert found.annotations.stat().st_mtime_ns == before


def test_an_audit_and_val_say_estimated_wherever_they_say_what_was_found(here: Path) -> None:
    done = attnbias("audit", "model.safetensors", "photos", *ESTIMATE, "--faithfulness", 1, expect=0)
    words = f"torchvision's {NAME} (segmenter.pth)"
    assert (
        f"are estimated by {words}: nobody drew them; it does not know, and leaves without objects: ocelot" in done.err
    )
    assert f"objects are masks that {words} estimated: nobody drew them; figures" in done.out
    found = json.loads(Path("audit/audit.json").read_text())
    assert (found["about"]["truth"], found["about"]["truth_kind"]) == ("masks", "estimated")
    assert found["about"]["left_out"]["unannotated"] == 1
    assert f"--masks estimate --segmenter {NAME}:segmenter.pth" in found["about"]["command"]
    kinds = {figure["name"]: figure["kind"] for figure in found["figures"]}
    assert (kinds["accuracy"], kinds["energy"], kinds["position_biased"]) == ("measured", "estimated", "estimated")
    assert any("figures may be too kind" in limit for limit in found["limits"])
    assert "objects: masks (estimated)" in Path("audit/report.html").read_text()

    out = ("--bias", "--bias-out", "bias", "--json", "val.json")
    said = attnbias("val", "csra", "--load-from", "model.safetensors", "--dataset", "photos", *out, *ESTIMATE, expect=0)
    assert f"objects are masks that {words} estimated: nobody drew them" in said.out
    (result,) = json.loads(Path("val.json").read_text())
    assert result["bias"]["truth"] == "estimated"
    energy = next(figure for figure in found["figures"] if figure["name"] == "energy")
    assert result["bias"]["means"]["energy"] == pytest.approx(energy["value"])
    for file in ("audit/classes.csv", "audit/samples.csv", "bias/bias_samples.csv"):
        header, *rows = csv.reader(Path(file).read_text().splitlines())
        assert (header[-1], {row[-1] for row in rows}) == ("truth", {"estimated"}), file


@pytest.mark.parametrize(
    ("code", "typed", "words"),
    [
        (2, ("--segmenter", "lraspp"), "--segmenter changes nothing without --masks estimate"),
        (2, ("--masks", "estimate", "--truth", "boxes"), "--truth changes nothing beside --masks estimate"),
        (2, ("--masks", "estimate", "--segmenter", "lraspp_mobilenet"), f"(did you mean '{NAME}'?); one of: "),
        (3, ("--masks", "estimate"), "deeplabv3_resnet50_coco"),
        (3, ("--masks", "estimate"), "or name a file of yours: --segmenter deeplabv3_resnet50:FILE"),
        (3, ("--masks", "estimate", "--segmenter", f"{NAME}:gone.pth"), "no checkpoint gone.pth"),
        (3, ("--masks", "estimate", "--segmenter", f"{NAME}:model.safetensors"), "does not fit the model"),
    ],
)
def test_a_segmenter_that_cannot_be_had_is_one_line(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, typed: tuple[Any, ...], words: str
) -> None:
    monkeypatch.setenv("ATTNBIAS_CACHE", str(tmp_path))
    out = ("--out", tmp_path / "audit", "--device", "cpu", "--offline")
    assert words in attnbias("audit", "model.safetensors", "photos", *typed, *out, expect=code).err.splitlines()[-1]
    assert not (tmp_path / "audit").exists()


def test_sets_with_objects_and_of_other_classes_are_refused(here: Path, demo_root: Path, tmp_path: Path) -> None:
    index = open_split("demo", "val", demo_root)
    known = {"load_from": "x", "data": "demo", "data_root": demo_root, "masks": "estimate"}
    with pytest.raises(Exception, match="demo/val has objects of its own; leave it out"):
        with_estimated_masks(AuditRequest.of(known), index)
    (tmp_path / "set" / "newt").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "set" / "newt" / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "set" / "newt" / "b.png")
    attnbias("prepare-data", tmp_path / "set", "--data-root", tmp_path / "root", expect=0)
    single_label(tmp_path / "newt.safetensors", ("newt",))
    typed = ("audit", tmp_path / "newt.safetensors", tmp_path / "set", "--data-root", tmp_path / "root", *ESTIMATE)
    refused = attnbias(*typed, "--out", tmp_path / "audit", expect=2).err
    assert "knows none of the classes of set/train (newt); it knows: aeroplane, bicycle, bird" in refused
    kept = ("--bias", "--store", "--dataset", "photos")
    stored = attnbias("val", "csra", "--load-from", "model.safetensors", *kept, *ESTIMATE, expect=2)
    assert "--store keeps what is held against objects that people drew" in stored.line
