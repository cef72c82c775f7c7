"""Photographs, and images drawn like them, through the whole chain, and files in the authors' formats: what a person
types, and nothing mocked."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbias.data.sets.imagenet import class_names, synsets
from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.parity.golden_case import Golden

SMALL = ["--backbone", "tiny", "--image-size", 64, "--batch-size", 32, "--epochs", 1, "--gpus", 0, "--threads", 1]


def only(text: str) -> float:
    """Parse a number of JSON that JSON does not have."""
    raise AssertionError(f"{text} is not a JSON")


# COCO -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What an annotation file says, read without the program."""

    images: int
    labelled: int
    classes: int
    """Those that occur."""

    @classmethod
    def of(cls, source: Path) -> Facts:
        content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
        labelled, classes = ({entry[key] for entry in content["annotations"]} for key in ("image_id", "category_id"))
        return cls(len(content["images"]), len(labelled), len(classes))


@pytest.fixture(scope="module")
def info(coco_source: Path) -> Facts:
    found = Facts.of(coco_source)
    assert found.labelled < found.images  # what `drop_unlabelled` is for
    return found


@pytest.fixture(scope="module")
def coco(coco_source: Path, info: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with images prepared under COCO's name."""
    root = tmp_path_factory.mktemp("coco")
    done = attnbias("prepare-data", "coco", "--source", coco_source, "--root", root, "--verify", expect=0)
    assert "80 classes" in done.out
    assert str(info.images) in done.out
    return root


@pytest.fixture(scope="module")
def run(coco: Path) -> Path:
    """CSRA trained on them for an epoch by its COCO recipe, small."""
    out = coco / "run"
    done = attnbias("train", "csra", "--dataset", "coco", *SMALL, "--data-root", coco, "--out", out, expect=0)
    assert f"attnbias val csra --load-from {out}" in done.out
    return out


def test_training_leaves_a_run_that_says_what_it_is(run: Path, info: Facts) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [-(-info.labelled // 32)]
    loaded = load_run("csra", str(run), {})
    assert loaded.recipe.dataset == "coco"
    assert loaded.recipe.image_size == 64
    assert loaded.recipe.drop_unlabelled  # from the paper's recipe for COCO
    assert len(loaded.classes) == 80
    assert "person" in loaded.classes


def test_evaluation_repeats_the_run_s_figures_and_leaves_out_unlabelled_images(
    run: Path, coco: Path, info: Facts, tmp_path: Path
) -> None:
    table = tmp_path / "scores.csv"
    done = attnbias(
        *("val", "csra", "--load-from", run, "--data-root", coco, "--gpus", 0, "--threads", 1),
        *("--bias", "--json", "-", "--csv", table),
        expect=0,
    )
    (result,) = json.loads(done.out, parse_constant=only)
    assert result["samples"] == info.labelled
    assert 0 <= result["measures"]["mAP"] <= 100
    assert len(result["measures"]["without_positives"]) == 80 - info.classes
    assert result["bias"]["truth"] == "masks"
    assert 0 <= result["bias"]["means"]["pointing"] <= 1
    rows = list(csv.reader(table.read_text().splitlines()))
    assert len(rows) == 1 + info.labelled
    assert {len(row) for row in rows} == {1 + 80 + 80}
    trained = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert trained[-1]["mAP"] == result["measures"]["mAP"]  # `val` repeats what the run measured, with no flags


def test_attacks_and_corruptions(run: Path, coco: Path, tmp_path: Path) -> None:
    table = tmp_path / "robustness.csv"
    val = ["val", "csra", "--load-from", run, "--data-root", coco, "--gpus", 0, "--threads", 1]
    done = attnbias(
        *(*val, "--attack", "fgsm", "--attack", "pgd", "--epsilon", 8, "--corrupt", "fog,contrast", "--severity", 5),
        *("--json", "-", "--robustness-out", table),
        expect=0,
    )
    (result,) = json.loads(done.out, parse_constant=only)
    rows = {row["test"]: row["mAP"] for row in result["robustness"]}
    assert list(rows) == ["coco/val", *(f"coco/val {t}" for t in ("fgsm", "pgd", "fog", "contrast", "corrupted"))]
    assert rows["coco/val"] == result["measures"]["mAP"]
    assert rows["coco/val pgd"] < rows["coco/val"]
    assert rows["coco/val corrupted"] == pytest.approx((rows["coco/val fog"] + rows["coco/val contrast"]) / 2)
    assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == list(rows)
    for wrong in (["--attack", "bim"], ["--corrupt", "fogg"], ["--severity", "6"]):
        assert wrong[0] in attnbias(*val, *wrong, expect=2).line
    assert "attnbias prepare-data imagenet-a" in attnbias(*val, "--imagenet-a", expect=3).line


def test_a_gallery_of_a_split_and_of_single_files(run: Path, coco: Path, coco_source: Path, tmp_path: Path) -> None:
    common = ["visualize", "csra", "--load-from", run, "--data-root", coco]
    attnbias(*common, "--limit", 2, "--out", tmp_path / "split", expect=0)
    photographs = sorted((coco_source / "images").rglob("*.jpg"))[:2]
    attnbias(*common, *photographs, "--classes", "person,dog", "--npz", "--out", tmp_path / "files", expect=0)
    for name in ("split", "files"):
        page = (tmp_path / name / "gallery.html").read_text()
        assert 'src="http' not in page
        overlays = list((tmp_path / name / "overlays").rglob("*.png"))
        assert overlays
        assert all(Image.open(path).getbbox() for path in overlays)
    with np.load(tmp_path / "files" / "maps.npz") as maps:
        assert len(maps.files) > 0


# Published files ------------------------------------------------------------------------------------------------------


def wrapped(state: dict[str, torch.Tensor], form: str) -> dict[str, Any]:
    """A state dict in one of the forms that training programs leave behind."""
    behind_ddp = {f"module.{name}": value for name, value in state.items()}
    forms = {"bare": state, "module": behind_ddp, "state_dict": {"state_dict": behind_ddp, "epoch": 3, "best": 61.5}}
    return forms.get(form, {"model": state, "model_ema": state, "epoch": 3})


def published(golden: str, goldens: Path, form: str, folder: Path) -> Path:
    """The checkpoint that a golden's layout describes, as its authors' program would have written it."""
    state = Golden.read(goldens / f"{golden}.json.gz").state_dict()
    path = folder / f"{golden.replace('/', '-')}-{form}.pth"
    torch.save(wrapped(state, form), path)
    return path


@pytest.fixture(scope="module")
def goldens() -> Path:
    return Path(__file__).parent / "goldens"


@pytest.mark.parametrize("form", ["bare", "module", "state_dict", "model"])
@pytest.mark.parametrize(
    ("golden", "inferred"),
    [
        ("csra/fwd_r18_h2", {"backbone": "resnet18", "num_heads": 2}),
        ("lsas/fwd_cifar_lsas_d29_order2", {"network": "cifar", "depth": 29, "order": 2}),
        ("absvit/grad_absvit_tiny_soft", {"architecture": "tiny_patch16", "top_down": True}),
    ],
)
def test_published_files_load_by_themselves(
    golden: str, inferred: dict[str, Any], form: str, goldens: Path, tmp_path: Path
) -> None:
    check_published(golden, inferred, form, goldens, tmp_path)


def test_a_large_published_file_loads_by_itself(goldens: Path, tmp_path: Path) -> None:
    inferred = {"backbone": "resnet101", "samples": 4, "heavy": True}
    check_published("ida/full_r101_c80_h4_heavy", inferred, "state_dict", goldens, tmp_path)


@pytest.mark.slow
def test_a_published_vit_of_llb_loads_at_its_own_size(goldens: Path, tmp_path: Path) -> None:
    inferred = {"size": "base", "objects": 2048, "image_size": 224}
    check_published("llb/fwd_vit_base_readme", inferred, "bare", goldens, tmp_path, {})


def check_published(
    golden: str,
    inferred: dict[str, Any],
    form: str,
    goldens: Path,
    folder: Path,
    flags: dict[str, Any] | None = None,
) -> None:
    """A file loads with no flag but the image's size, is what it should be, and answers."""
    method = golden.split("/")[0]
    path = published(golden, goldens, form, folder)
    loaded = load_run(method, str(path), {"image_size": 64} if flags is None else flags)
    assert {name: getattr(loaded.recipe, name) for name in inferred} == inferred
    size = loaded.recipe.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = loaded.method.predict(loaded.model, images, loaded.task)["scores"]
    assert scores.shape == (2, len(loaded.classes))
    assert scores.isfinite().all()
    path.unlink()  # some are large


def test_the_authors_checkpoint_scores_coco(coco: Path, info: Facts, goldens: Path, tmp_path: Path) -> None:
    path = published("csra/fwd_r101_h4_coco", goldens, "module", tmp_path)
    done = attnbias(
        *("val", "csra", "--load-from", path, "--image-size", 64, "--data-root", coco, "--gpus", 0, "--threads", 1),
        *("--json", "-"),
        expect=0,
    )
    (result,) = json.loads(done.out, parse_constant=only)
    assert "module. stripped" in result["source"]
    assert result["recipe"]["num_heads"] == 4
    assert result["recipe"]["lam"] == 0.5  # from the recipe of its kind: the file cannot tell
    assert result["samples"] == info.labelled
    assert 0 <= result["measures"]["mAP"] <= 100


def test_the_authors_checkpoint_scores_real_small_images(real_data: Path, goldens: Path, tmp_path: Path) -> None:
    attnbias("prepare-data", "cifar10", "--source", real_data / "cifar10_mini", "--root", tmp_path, expect=0)
    path = published("lsas/fwd_cifar_lsas_d29_order2", goldens, "state_dict", tmp_path)
    done = attnbias(
        *("val", "lsas", "--load-from", path, "--data-root", tmp_path, "--gpus", 0, "--threads", 1, "--json", "-"),
        expect=0,
    )
    (result,) = json.loads(done.out, parse_constant=only)
    assert result["dataset"] == "cifar10"
    assert result["samples"] == 500
    assert 0 <= result["measures"]["top1"] <= 100


def test_a_published_file_of_another_method_names_it(goldens: Path, tmp_path: Path) -> None:
    path = published("csra/fwd_r18_h2", goldens, "bare", tmp_path)
    refused = attnbias("val", "lsas", "--load-from", path, "--gpus", 0, expect=3)
    assert f"attnbias val csra --load-from {path}" in refused.line


# ImageNet -------------------------------------------------------------------------------------------------------------


def test_imagenets_validation_images_are_also_rated_by_their_reassessed_labels(tmp_path: Path) -> None:
    real = json.loads((files("timm.data") / "_info" / "imagenet_real_labels.json").read_text())
    several = next(number for number, own in enumerate(real) if len(own) > 1)
    always = real[several][1]  # the class that the model always names
    chosen = [several, real.index([]), *(number for number in range(40) if always not in real[number])][:6]
    for number in chosen:
        image = tmp_path / "source" / "val" / synsets()[0] / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number % 256, 0, 0)).save(image)
    attnbias("prepare-data", "imagenet", "--source", tmp_path / "source", "--root", tmp_path / "root", expect=0)
    method = get_method("llb")
    recipe = override(method.named_recipe("demo-single").recipe, {"dataset": "imagenet", "alpha": 1.0})
    model = method.build_model(recipe, 1000, "singlelabel")
    model.backbone.head.bias.data[always] = 1e3
    file = tmp_path / "model.safetensors"
    write_weights(file, model.state_dict(), weights_metadata(method, recipe, class_names(), "singlelabel"))
    common = ["val", "llb", "--load-from", file, "--real-labels", "--gpus", 0, "--threads", 1, "--data-root"]
    (result,) = json.loads(attnbias(*common, tmp_path / "root", "--json", "-", expect=0).out)
    rated = [real[number] for number in chosen if real[number]]
    assert result["samples"] == len(rated) + 1  # one image has no label left
    assert result["real"]["samples"] == len(rated)
    assert result["real"]["real_top1"] == pytest.approx(100 * sum(always in own for own in rated) / len(rated))
    assert result["real"]["real_top1"] > result["measures"]["top1"] == 0
    assert "ReaL labels" in attnbias(*common, tmp_path / "root", expect=0).out
    # One image that is not ImageNet's.
    other = tmp_path / "source" / "val" / synsets()[0] / "mine.JPEG"
    Image.new("RGB", (40, 40)).save(other)
    attnbias("prepare-data", "imagenet", "--source", tmp_path / "source", "--root", tmp_path / "second", expect=0)
    assert "--real-labels are of ImageNet's validation images" in attnbias(*common, tmp_path / "second", expect=2).line
