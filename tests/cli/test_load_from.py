"""Weights that are loaded by a command: damaged, malicious, of another method or of other classes."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnbias.methods.engine.load import load_run, weights_metadata
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.registry import get_method
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import write_model
from tests.helpers.tiny_runs import CPU, TINY, contents, instead, newest, weights_of


def damaged(kind: str, run: Path, folder: Path) -> tuple[Path, str]:
    """A weight file that is broken in one way, and words that its refusal must hold."""
    ours, zipped = weights_of(run).read_bytes(), folder / "whole.pth"
    torch.save({"state_dict": {"fc.weight": torch.zeros(3000)}}, zipped)
    suffix, content, words = {
        "truncated safetensors": (".safetensors", ours[:-10], "is damaged"),
        "torn header": (".safetensors", ours[:40], "is damaged"),
        "truncated pth": (".pth", zipped.read_bytes()[:2000], "is damaged"),
        "empty safetensors": (".safetensors", b"", "is empty (0 bytes)"),
        "empty pth": (".pth", b"", "is empty (0 bytes)"),
        "no checkpoint": (".pth", b"some words", "is damaged or no checkpoint"),
        "web page": (".pth", b"<!DOCTYPE html><html></html>", "web page"),
        "nobody's": (".pth", zipped.read_bytes(), "is not a checkpoint of 'csra'"),
    }[kind]
    zipped.unlink()
    path = folder / f"file{suffix}"
    path.write_bytes(content)
    return path, words


def test_a_model_that_is_asked_for_another_task_than_its_own_says_so(here: Path, demo_root: Path) -> None:
    model = write_model(here / "model.safetensors", image_size=32)
    start = ("val", "csra", "--load-from", model, "--data-root", demo_root, *CPU)
    assert "is asked as if for" not in attnbias(*start, expect=0).err
    index = json.loads((demo_root / "demo" / "index" / "val.json").read_text())
    assert index["task"] == "multilabel"
    found = attnbias(*start[:3], model_of_one_label(model), *start[4:], expect=0)
    assert "is for singlelabel, and is asked as if for multilabel: so is demo" in found.err


def test_a_recipe_that_was_edited_after_training_does_not_count_and_is_said(
    here: Path, trained: Path, demo_root: Path
) -> None:
    run = here / "run"
    shutil.copytree(trained, run)
    start = (
        "val",
        "csra",
        "--load-from",
        run,
        "--data-root",
        demo_root,
        *CPU,
        "--json",
        here / "r.json",
        "--overwrite",
    )
    attnbias(*start, expect=0)
    (before,) = json.loads((here / "r.json").read_text())
    file = run / "recipe.yaml"
    recipe = file.read_text()
    file.write_text(re.sub(r"(?m)^(lam|momentum): .*", r"\1: 0.25", recipe))
    said = f"{file} differs from the recipe in the weights, which counts: momentum, lam"
    assert said in attnbias(*start, expect=0).err.splitlines()
    (after,) = json.loads((here / "r.json").read_text())
    assert after.pop("recipe_yaml_differs") == ["momentum", "lam"]
    assert after == before
    file.write_text("lam: [")
    assert "recipe.yaml: not valid YAML in line 1" in attnbias(*start, expect=0).err


def model_of_one_label(model: Path) -> Path:
    """The same weights, told to be of one label an image."""
    state = load_file(model)
    method = get_method("csra")
    loaded = load_run("csra", str(model), {})
    path = model.with_name("one.safetensors")
    write_weights(path, state, weights_metadata(method, loaded.recipe, loaded.classes, "singlelabel"))
    return path


KINDS = ["truncated safetensors", "torn header", "truncated pth", "empty safetensors", "empty pth", "no checkpoint"]


@pytest.mark.parametrize("kind", [*KINDS, "web page", "nobody's"])
def test_damaged_weights_are_refused(kind: str, trained: Path, here: Path, refused: Callable[..., str]) -> None:
    path, words = damaged(kind, trained, here)
    for command in ("val", "visualize"):
        line = refused(3, command, "csra", "--load-from", path)
        assert str(path) in line
        assert words in line


def test_training_from_damaged_weights_leaves_no_folder(
    trained: Path, demo_root: Path, here: Path, refused: Callable[..., str]
) -> None:
    path, words = damaged("truncated safetensors", trained, here)
    common = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", here / "run"]
    assert words in refused(3, *common, "--load-from", path)
    assert words in refused(3, *common, "--backbone-weights", path)
    torn = here / "step-00000004"
    shutil.copytree(newest(trained), torn)
    (torn / "optimizer.pt").write_bytes(b"")
    assert "is not a complete checkpoint" in refused(3, *common, "--resume", torn)
    shutil.copytree(trained, here / "run")
    before = contents(here / "run")
    assert words in refused(3, *common, "--load-from", path, "--overwrite")
    assert contents(here / "run") == before


class Trap:
    """An object whose unpickling would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("plain", [False, True])
def test_a_malicious_pickle_is_refused_and_never_runs(plain: bool, here: Path, refused: Callable[..., str]) -> None:
    path, proof = here / "evil.pth", here / "it-ran"
    content = {"state_dict": {"fc.weight": torch.zeros(3)}, "hook": Trap(f"touch {proof}")}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    line = refused(3, "val", "csra", "--load-from", path)
    assert str(path) in line
    assert plain or "--trust-checkpoint" in line
    assert not proof.exists()


def test_a_checkpoint_of_another_method_names_it(trained: Path, refused: Callable[..., str]) -> None:
    for command in ("val", "visualize"):
        line = refused(3, command, "ida", "--load-from", trained)
        assert "is a checkpoint of 'csra', not of 'ida'; name csra as the method" in line


def test_flags_that_contradict_the_weights(
    trained: Path, demo_root: Path, here: Path, refused: Callable[..., str]
) -> None:
    line = refused(2, "val", "csra", "--load-from", trained, "--data-root", demo_root, *CPU, "--num-heads", 2)
    assert "--num-heads" in line
    assert "file 4x10x64, model 2x10x64" in line
    bare = here / "bare.pth"  # in the authors' format
    torch.save({"classifier.multi_head.0.head.weight": torch.zeros(20, 512, 1, 1), **resnet18_names()}, bare)
    line = refused(2, "val", "csra", "--load-from", bare, *CPU, "--num-heads", 2)
    assert "--num-heads 2 contradicts" in line
    assert "whose weights say 1; leave --num-heads out" in line


def resnet18_names() -> dict[str, torch.Tensor]:
    with names_and_shapes():
        backbone = get_method("csra").build_model(
            get_method("csra").recipe_type(backbone="resnet18", num_heads=1), 20, "multilabel"
        )
    return {
        name.removeprefix("backbone."): torch.zeros(value.shape)
        for name, value in backbone.state_dict().items()
        if name.startswith("backbone.")
    }


@pytest.fixture(scope="module")
def three_classes(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prepared set of one's own with 3 classes: (its folder, the data root)."""
    folder, root = tmp_path_factory.mktemp("own") / "pets", tmp_path_factory.mktemp("root")
    images = iter(sorted((demo_root / "demo" / "images" / "train").iterdir()))
    for split in ("train", "val"):
        for label in ("cat", "dog", "owl"):
            (folder / split / label).mkdir(parents=True)
            for _ in range(4):
                shutil.copy(next(images), folder / split / label)
    attnbias("prepare-data", folder, "--root", root, expect=0)
    return folder, root


def test_another_number_of_classes(trained: Path, three_classes: tuple[Path, Path], here: Path) -> None:
    folder, root = three_classes
    common = ["--load-from", trained, "--dataset", folder, "--data-root", root]
    refusal = "knows 10 classes, dataset 'pets' has 3; name the right one with --dataset"
    assert refusal in attnbias("val", "csra", *common, *CPU, expect=2).line
    assert refusal in attnbias("visualize", "csra", *common, expect=2).line
    start = ["train", "csra", *instead(TINY, "--batch-size", 6), *CPU, *common, "--out", here / "run"]
    line = attnbias(*start, expect=3).line
    assert "classifier.weight (file 4x10x64, model 4x3x64); for another number of classes add --reset-head" in line
    assert not (here / "run").exists()
    attnbias(*start, "--reset-head", expect=0)
    assert load_run("csra", str(here / "run"), {}).classes == ("cat", "dog", "owl")


def test_a_reset_head_is_fresh_also_for_as_many_classes(trained: Path, demo_root: Path, here: Path) -> None:
    """A rate of nearly nothing leaves the weights at their start."""
    start = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--steps", 1, "--lr", 1e-9]
    start += ["--load-from", weights_of(trained)]
    attnbias(*start, "--out", here / "as-it-was", expect=0)
    said = attnbias(*start, "--out", here / "reset", "--reset-head", expect=0)
    first, was, reset = (load_file(weights_of(run)) for run in (trained, here / "as-it-was", here / "reset"))
    assert (first["classifier.weight"] - was["classifier.weight"]).abs().max() < 1e-6
    assert (first["classifier.weight"] - reset["classifier.weight"]).abs().max() > 1e-2
    assert (first["backbone.0.weight"] - reset["backbone.0.weight"]).abs().max() < 1e-6
    assert "trained on other classes" not in said.err


def test_metadata_of_another_version_or_torn(trained: Path, here: Path, refused: Callable[..., str]) -> None:
    state, path = load_file(weights_of(trained)), here / "file.safetensors"
    recipe = {"from_the_future": 1}
    said = {"method": "csra", "task": "multilabel", "recipe": {}, "classes": ["a"]}
    for text, words in (
        ("[" * 100_000, "nested too deep"),
        *((json.dumps({**said, "classes": classes}), "'classes") for classes in ([1], [["a"]], "a", {"a": 1}, None)),
        *((json.dumps({**said, "recipe": recipe}), "'recipe' is") for recipe in ([], None, "lr")),
        (json.dumps({**said, "task": "x"}), "'task' is 'x'"),
        ("{", "no valid JSON in line 1"),
        (json.dumps({"method": "csra"}), "'task': Field required"),
        (
            json.dumps({"method": "csra", "task": "multilabel", "recipe": recipe, "classes": ["a"]}),
            "another version of attnbias: unknown recipe field 'from_the_future'",
        ),
    ):
        save_file(state, path, metadata={"attnbias": text})
        assert words in refused(3, "val", "csra", "--load-from", path)


def test_a_batch_that_is_larger_than_an_epoch_is_said(demo_root: Path, here: Path) -> None:
    words = "warning: an epoch has 72 samples, fewer than the batch of 128: each step takes all 72"
    start = ("train", "csra", *instead(TINY, "--batch-size", 128), *CPU, "--data-root", demo_root)
    assert words + "\n" in attnbias(*start, "--dry-run", expect=0).out
    assert words + ", although --drop-last is set" in attnbias(*start, "--dry-run", "--drop-last", expect=0).out
    assert words + "\n" in attnbias(*start, expect=0).out


def test_what_refuses_a_run_speaks_before_its_recipe_is_printed(
    demo_root: Path, here: Path, refused: Callable[..., str]
) -> None:
    start = ("train", "csra", *TINY, *CPU, "--data-root", demo_root)
    for more, code, words in (
        (("--load-from", "nowhere"), 3, "no checkpoint nowhere"),
        (("--load-from", "nowhere", "--dry-run"), 3, "no checkpoint nowhere"),
        (("--backbone", "resnet1"), 2, "resnet1"),
        (("--ema-epoch", 1), 2, "--ema-epoch 1 changes nothing without --ema-decay"),
        (("--dataset", "nothing"), 3, "unknown dataset 'nothing'"),
        (("--resume", "nowhere"), 3, "nowhere is not a complete checkpoint folder"),
    ):
        assert words in refused(code, *start, *more)
