"""Recipe flags of `predict` and `weights convert`: those of `val`, whether --method or the weights tell the method."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from attnbias.methods import METHODS
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.registry import get_method
from tests.helpers.command_line import attnbias
from tests.helpers.small_model import DIGITS, write_model

CPU = ("--gpus", 0, "--threads", 1)
KNOWN = ("--dataset", "demo", "--image-size", 32)
"""What the file of `published` does not tell beside lam."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights alone, as authors publish them."""
    csra = get_method("csra")
    recipe = override(csra.named_recipe("demo").recipe, {"backbone": "resnet18", "num_heads": 2})
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "w.pth"
    torch.save(csra.build_model(recipe, len(DIGITS), "multilabel").state_dict(), path)
    return path


def scores(table: Path) -> dict[str, list[str]]:
    """Name of each image -> the scores of its classes."""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    return {Path(row["path"]).name: [row.get(f"score:{n}") or row[n] for n in DIGITS] for row in rows}


def predicted(weights: Path, root: Path, table: Path, *flags: Any) -> dict[str, list[str]]:
    words = ("--load-from", weights, root / "demo" / "images" / "val", "--data-root", root, "--csv", table, *CPU)
    attnbias("predict", *words, *flags, expect=0)
    return scores(table)


def stored_recipe(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["attnbias"])["recipe"])


@pytest.mark.parametrize("told", [("--method", "csra"), ()], ids=["typed", "told by the weights"])
def test_predict_scores_as_val_does_with_the_same_flags(
    told: tuple[str, ...], published: Path, demo_root: Path, tmp_path: Path
) -> None:
    flags = (*KNOWN, "--lam", 0.9, "--normalize", "imagenet")
    asked = ("--load-from", published, "--data-root", demo_root, *CPU, "--csv", tmp_path / "val.csv")
    attnbias("val", "csra", *asked, *flags, expect=0)
    found = predicted(published, demo_root, tmp_path / "predict.csv", *told, *flags)
    assert found == scores(tmp_path / "val.csv")
    assert found != predicted(published, demo_root, tmp_path / "other.csv", *told, *KNOWN, "--normalize", "imagenet")


def test_what_is_converted_keeps_the_flags(published: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    flags = (*KNOWN, "--lam", 0.4, "--normalize", "imagenet", "--drop-unlabelled", "--no-flip")
    done = attnbias("weights", "convert", published, "--to", ours, "--method", "csra", *flags, expect=0)
    assert "assumed" not in done.err
    recipe = stored_recipe(ours)
    assert (recipe["lam"], recipe["normalize"], recipe["drop_unlabelled"]) == (0.4, "imagenet", True)
    assert not recipe["flip"]
    again = tmp_path / "again.safetensors"
    attnbias("weights", "convert", ours, "--to", again, "--no-drop-unlabelled", "--lam=0.7", expect=0)
    assert stored_recipe(again) == recipe | {"lam": 0.7, "drop_unlabelled": False}


@pytest.mark.parametrize("command", ["predict --method", "val", "visualize", "export"])
@pytest.mark.parametrize("flag", ["--no-flip", "--flip", "--shift=2"])
def test_what_only_training_reads_is_refused_elsewhere(
    command: str, flag: str, published: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [demo_root / "demo/images/val"] if command != "val" else []
    checked = ["--check"] if command == "export" else []
    words = (*command.split(), "csra", "--load-from", published, *images, *checked, "--gpus", 0, flag)
    name = flag.replace("no-", "").split("=")[0]
    refused = attnbias(*words, expect=2).line
    assert refused == f"error: {name} is of training: it changes nothing here; leave it out"
    assert not list(tmp_path.iterdir())


def test_what_is_assumed_is_said_with_the_flags_that_say_otherwise(published: Path, tmp_path: Path) -> None:
    done = attnbias("weights", "convert", published, "--to", tmp_path / "o.safetensors", *KNOWN, expect=0)
    said = "assumed as in recipe 'demo' (multilabel, of demo): normalize unit, lam 0.5; say otherwise with --recipe"
    assert f"{said}, --normalize, --lam" in done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lamb", 0.4), "no such option --lamb (did you mean '--lam'?)"),
        (("--num-head", 2), "no such option --num-head (did you mean '--num-heads'?)"),
        (("--order", 2), "no such option --order"),  # of lsas
        (("--lr", 0.1), "no such option --lr"),  # of training
        (("--lam", "much"), "invalid value for '--lam'"),
        (("--image-size", 3), "greater than or equal to 16"),
        (("--normalize", "imagenett"), "'imagenett' is not one of 'unit', 'half', 'imagenet'"),
        (("--backbone", "resnet50"), "whose weights say resnet18; leave --backbone out"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "convert"])
def test_flags_that_are_wrong_are_refused_as_val_refuses_them(
    command: str, flags: tuple[Any, ...], said: str, published: Path, demo_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    if command == "predict":
        images = demo_root / "demo" / "images" / "val" / "val_000000.jpg"
        done = attnbias("predict", "--load-from", published, images, *CPU, *flags)
    else:
        done = attnbias("weights", "convert", published, "--to", out, *flags)
    assert (done.code, said in done.err.splitlines()[-1]) == (2, True), done.err
    assert not out.exists()


def test_flags_that_contradict_our_own_file_are_refused(demo_root: Path, tmp_path: Path) -> None:
    ours = write_model(tmp_path / "w.safetensors", backbone="tiny")
    done = attnbias(
        "predict", "--load-from", ours, demo_root / "demo/images/val", "--backbone", "resnet18", *CPU, expect=2
    )
    assert "does not fit the model with --backbone" in done.line


@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_flag_of_val_is_one_of_convert(method: str, tmp_path: Path) -> None:
    """The file is missing, which is said once the command line was read."""
    known = get_method(method)
    default = next(iter(known.recipes.values())).recipe
    flags = []
    for name, info in known.recipe_type.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra["panel"] != "Training":
            value, word = getattr(default, name), name.replace("_", "-")
            typed = "none" if value in (None, ()) else ",".join(map(str, value)) if isinstance(value, tuple) else value
            flags.append(f"--{'' if value else 'no-'}{word}" if isinstance(value, bool) else f"--{word}={typed}")
    missing = tmp_path / "missing.pth"
    words = ("weights", "convert", missing, "--to", tmp_path / "o.safetensors", "--method", method, *flags)
    assert f"no checkpoint {missing}" in attnbias(*words, expect=3).line


@pytest.mark.parametrize("words", [["predict"], ["weights", "convert"]])
def test_help_says_where_the_recipe_flags_are_listed(words: list[str]) -> None:
    shown = attnbias(*words, "--help", expect=0).out
    assert "attnbias val METHOD --help lists them" in shown
    assert "--lam" not in shown
