"""What is typed to `val` arrives: strength of attacks, published sets, files, classes, several checkpoints."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.helpers.command_line import attnbias
from tests.helpers.small_model import DIGITS, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def val(model: Path, root: Path, *more: Any) -> list[dict[str, Any]]:
    common = ("--load-from", model, "--data-root", root, "--gpus", 0, "--threads", 1, "--json", "-")
    found: list[dict[str, Any]] = json.loads(attnbias("val", "csra", *common, *more, expect=0).out)
    return found


def attacked(model: Path, root: Path, *typed: Any) -> tuple[float, int]:
    """An attack's largest change in levels of 255, and its steps. Inputs of CSRA's demo are pixels of 0 to 1."""
    calls: list[tuple[bool, Tensor]] = []

    def watch(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            calls.append((torch.is_grad_enabled(), inputs[0].detach().clone()))

    with register_module_forward_pre_hook(watch):
        val(model, root, *typed, "--eval-batch-size", 24)
    clean, final = (next(images for graph, images in order if not graph) for order in (calls, calls[::-1]))
    return 255 * float((final - clean).abs().max()), sum(graph for graph, _ in calls)


@pytest.mark.parametrize(
    ("typed", "levels", "steps"),
    [
        (("--attack", "fgsm"), 1, 1),
        (("--attack", "fgsm", "--epsilon", 8), 8, 1),
        (("--attack", "fgsm", "--epsilon", 8, "--attack-step", 2), 2, 1),
        (("--attack", "pgd"), 1, 5),
        (("--attack", "pgd", "--epsilon", 16, "--attack-steps", 3), 16, 3),
    ],
)
def test_an_attack_is_as_strong_as_typed(
    typed: tuple[Any, ...], levels: float, steps: int, model: Path, demo_root: Path
) -> None:
    change, taken = attacked(model, demo_root, *typed)
    assert taken == steps
    assert change == pytest.approx(levels, rel=1e-3)


def test_some_samples_are_drawn_and_every_figure_says_that_it_is_of_some(
    model: Path, demo_root: Path, tmp_path: Path
) -> None:
    asked = ("--limit", 16, "--bias", "--bias-out", tmp_path / "bias", "--csv", tmp_path / "scores.csv")
    (some,) = val(model, demo_root, *asked, "--corrupt", "fog", "--severity", 5)
    drawn = "16 of 24, drawn by chance (seed 0)"
    assert (some["samples"], some["drawn"], some["bias"]["drawn"]) == (16, drawn, drawn)
    assert json.loads((tmp_path / "bias" / "bias.json").read_text())["drawn"] == drawn
    assert [row["test"] for row in some["robustness"]] == [
        f"demo/val (16 of 24){words}" for words in ("", " fog", " corrupted")
    ]
    with (tmp_path / "scores.csv").open() as file:
        scored = [row["path"] for row in csv.DictReader(file)]
    assert scored == sorted(scored)
    assert scored[-1] != "images/val/000015.png"  # not the first ones
    common = ("val", "csra", "--load-from", model, "--data-root", demo_root, "--gpus", 0, "--threads", 1)
    shown = attnbias(*common, "--limit", 16, expect=0).out
    assert "16 of 24\n" in shown  # the head of the column
    assert f"val: only {drawn}: the whole split has other figures" in shown
    assert "--store keeps the figures of whole splits" in attnbias(*common, "--limit", 16, "--store", expect=2).line
    (whole,) = val(model, demo_root, "--limit", 24)
    assert whole["samples"] == 24
    assert "drawn" not in whole


@pytest.mark.parametrize("name", ["imagenet-c", "imagenet-a", "imagenet-r", "imagenet-sketch"])
def test_a_published_set_that_was_asked_for_is_the_one_that_is_opened(name: str, model: Path, tmp_path: Path) -> None:
    flags = ("--imagenet-c", "--imagenet-a", "--imagenet-r", "--imagenet-sketch")
    (flag,) = (flag for flag in flags if flag == f"--{name}")
    refused = attnbias("val", "csra", "--load-from", model, "--gpus", 0, flag, "--data-root", tmp_path, expect=3)
    assert f"attnbias prepare-data {name} " in refused.line


def test_corrupted_images_are_measured_and_written_where_that_is_typed(
    model: Path, demo_root: Path, tmp_path: Path
) -> None:
    for name in ("table.csv", "table.json"):
        asked = ("--corrupt", "fog,snow", "--severity", 5, "--robustness-out", tmp_path / name)
        (result,) = val(model, demo_root, *asked)
        tests = [row["test"] for row in result["robustness"]]
        assert tests == ["demo/val", "demo/val fog", "demo/val snow", "demo/val corrupted"]
        text = (tmp_path / name).read_text()
        rows = json.loads(text) if name.endswith(".json") else list(csv.DictReader(text.splitlines()))
        assert [row["test"] for row in rows] == tests
        assert [float(row["mAP"]) for row in rows] == pytest.approx([row["mAP"] for row in result["robustness"]])


def test_attacks_and_corruptions_are_of_the_split_that_was_typed(model: Path, demo_root: Path) -> None:
    """An attack without strength changes nothing."""
    asked = ("--attack", "pgd", "--epsilon", 0, "--corrupt", "contrast", "--severity", 3)
    corrupted = []
    for split in ("val", "counter"):
        (result,) = val(model, demo_root, "--split", split, *asked)
        clean, attacked, *_, last = result["robustness"]
        assert clean["mAP"] == pytest.approx(result["measures"]["mAP"])
        assert attacked["mAP"] == pytest.approx(result["measures"]["mAP"])
        corrupted.append(last["mAP"])
    assert corrupted[0] != corrupted[1]


def test_attacks_read_images_as_typed_and_leave_out_what_cannot_be_read(
    model: Path, demo_root: Path, tmp_path: Path
) -> None:
    """An attack without strength is shown what was scored; large JPEG files are other pixels where --decode is fast."""
    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    files = sorted((root / "demo" / "images" / "val").iterdir())
    for path in files:
        with Image.open(path) as image:
            image.resize((512, 512), Image.Resampling.NEAREST).save(path, quality=60)
    files[3].write_bytes(files[3].read_bytes()[:-600])
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            seen.append(inputs[0].detach().clone())

    typed = ("--on-bad-image", "skip", "--decode", "fast", "--attack", "fgsm", "--epsilon", 0)
    with register_module_forward_pre_hook(watch):
        (result,) = val(model, root, *typed, "--eval-batch-size", len(files))
    assert [len(images) for images in seen] == [len(files) - 1] * 4  # scored, clean, the attack's step, attacked
    assert all(torch.equal(seen[0], images) for images in seen[1:])
    assert files[3].name in " ".join(result["skipped"])


def test_every_checkpoint_and_split_that_was_typed_is_measured(model: Path, demo_root: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1)
    results = val(model, demo_root, "--load-from", other, "--split", "val,counter")
    found = [(result["load_from"], result["split"]) for result in results]
    assert found == [(str(file), split) for file in (model, other) for split in ("val", "counter")]
    assert len({result["measures"]["mAP"] for result in results}) == 4


def test_each_class_has_its_row_where_that_is_typed(model: Path, demo_root: Path) -> None:
    common = ("val", "csra", "--load-from", model, "--data-root", demo_root, "--gpus", 0)
    assert DIGITS[0] not in attnbias(*common, expect=0).out
    shown = attnbias(*common, "--per-class", expect=0).out
    assert all(name in shown for name in DIGITS)


def test_the_map_that_was_typed_is_held_against_the_objects(model: Path, demo_root: Path) -> None:
    found = {}
    for kind in ("score", "gradcam"):
        (result,) = val(model, demo_root, "--bias", "--map", kind)
        assert result["bias"]["map"] == kind
        found[kind] = result["bias"]["means"]["energy"]
    assert found["score"] != found["gradcam"]


def test_context_and_faithfulness_are_measured_where_that_is_typed(model: Path, demo_root: Path) -> None:
    (plain,) = val(model, demo_root)
    assert not {"context", "faithfulness", "reliance", "backgrounds", "bias"} & set(plain)
    (asked,) = val(model, demo_root, "--context", "train", "--faithfulness", 3, "--reliance", "--backgrounds", "--bias")
    assert {"context", "faithfulness", "reliance", "backgrounds", "bias"} <= set(asked)
    assert asked["faithfulness"]["samples"] == 3


def test_how_objects_were_taken_away_is_said_and_written(model: Path, demo_root: Path) -> None:
    typed = ("--load-from", model, "--data-root", demo_root, "--split", "val", "--gpus", 0, "--reliance")
    said = attnbias("val", "csra", *typed, expect=0).out
    (written,) = val(model, demo_root, "--reliance")
    margin, donors = written["reliance"]["margin"], written["reliance"]["donors"]
    assert f"a margin of {margin:.4g} of the image's longer side; context_only fills them from {donors} other" in said


def test_what_a_measure_depends_on_and_nobody_typed_is_said_and_written(model: Path, demo_root: Path) -> None:
    typed = ("--split", "val", "--bias", "--backgrounds", "--context", "train", "--faithfulness", 2)
    common = ("--load-from", model, "--data-root", demo_root, "--gpus", 0)
    said = " ".join(attnbias("val", "csra", *common, *typed, expect=0).out.split())
    (written,) = val(model, demo_root, *typed)
    bias, backgrounds, trust = written["bias"], written["backgrounds"], written["faithfulness"]
    removed = ", ".join(f"{share:.0%}" for share in trust["road_removed"])
    for words in (
        f"reaches {bias['tau']:g}; pointing allows {bias['pointing_radius']:g} pixels",
        f"at most {bias['box_plane']} pixels a side, at {len(bias['taus_of_sweep'])} thresholds",
        f"a margin of {backgrounds['margin']:.4g} of the longer side",
        f"that of {backgrounds['sigma']} of the range",
        f"at most {written['context']['most_pairs']} classes of {written['context']['found_in']}",
        f"by {written['context']['found_by']}",
        f"{trust['step']} a step",
        f"a blur of sigma {trust['insertion_blur']['sigma']:g}; ROAD removes {removed} with noise of",
        f"from seed {trust['untrained_seed']}",
    ):
        assert words in said, words


@pytest.mark.parametrize("option", ["--bias", "--reliance", "--backgrounds"])
def test_a_set_without_objects_is_refused_before_anything_is_scored(option: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "grey.png")
    (tmp_path / "plain.csv").write_text("path,labels\n" + "grey.png,a\ngrey.png,b\n")
    root, weights = tmp_path / "datasets", write_model(tmp_path / "model.safetensors", classes=("a", "b"))
    attnbias("prepare-data", tmp_path / "plain.csv", "--root", root, expect=0)
    scored: list[nn.Module] = []
    with register_module_forward_pre_hook(lambda module, _: scored.append(module)):
        typed = ("--load-from", weights, "--dataset", "plain", "--data-root", root, "--gpus", 0, option)
        assert "dataset 'plain' has no boxes" in attnbias("val", "csra", *typed, expect=3).line
    assert not scored


def test_maps_of_a_split_that_shows_no_class_cannot_be_tried(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "grey.png")
    (tmp_path / "plain.csv").write_text("path,labels,split\ngrey.png,a,train\ngrey.png,b,train\ngrey.png,,val\n")
    root, weights = tmp_path / "datasets", write_model(tmp_path / "model.safetensors", classes=("a", "b"))
    attnbias("prepare-data", tmp_path / "plain.csv", "--root", root, expect=0)
    typed = ("--load-from", weights, "--dataset", "plain", "--data-root", root, "--gpus", 0, "--faithfulness", 2)
    assert "plain/val has no positive label" in attnbias("val", "csra", *typed, expect=3).line


def test_pairs_are_those_of_the_split_that_was_typed_and_of_the_first_checkpoint(
    model: Path, demo_root: Path, tmp_path: Path
) -> None:
    """Found once, so that the figures of several checkpoints are of the same classes and their company."""
    other = write_model(tmp_path / "other.safetensors", seed=1)

    def pairs(*typed: Any) -> list[list[tuple[str, str, float]]]:
        found = [result["context"]["pairs"] for result in val(*typed)]
        return [[(pair["class"], pair["context"], pair["bias"]) for pair in each] for each in found]

    first, second = pairs(model, demo_root, "--load-from", other, "--context", "train")
    assert first == second
    assert [first] == pairs(model, demo_root, "--context", "train", "--split", "counter")
    assert [first] != pairs(model, demo_root, "--context", "counter")
    assert [first] != pairs(other, demo_root, "--context", "train")
