"""Recipes and their fields as options: typed, shown by --help, completed, stored and read back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.main import get_command

from attnbias.cli.errors import describe
from attnbias.cli.options import typed_fields, with_options
from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS
from attnbias.methods.engine.evaluation.cost import measure_cost
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.outline import names_and_shapes
from attnbias.methods.engine.recipe import FRESH, NETWORK, Recipe, override, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.resolve import resolve_recipe
from attnbias.methods.engine.training.setup import plan_run
from tests.helpers.command_line import attnbias, typed
from tests.helpers.tiny_runs import CPU, TINY, contents, instead


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lamm: 1", "unknown recipe field 'lamm' (did you mean 'lam'?)"),
        ("lam: high", "'lam' = 'high'"),
        ("batch_size: 0", "'batch_size' = 0: Input should be greater than or equal to 1"),
        ("method: ida\nlr: 0.1", "is of method 'ida', not of 'csra'"),
        ("lam: 1\nlr: [1", "not valid YAML in line 2"),
        ("just words", "expected a mapping"),
        ("", "expected a mapping"),
        ("1: 2", "unknown recipe field '1'"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_wrong_recipe_files_are_named(text: str | bytes, words: str, here: Path, refused: Callable[..., str]) -> None:
    file = here / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(2, "train", "csra", "--recipe", file)
    assert words in line
    assert str(file) in line


def test_a_recipes_name_goes_before_a_file_of_that_name(here: Path, demo_root: Path) -> None:
    (here / "demo").write_text("no recipe")
    shown = attnbias("train", "csra", "--recipe", "demo", "--gpus", 0, "--data-root", demo_root, "--dry-run", expect=0)
    assert "recipe demo" in shown.out


@cache
def recipe_command(method_name: str) -> Any:
    """The method's options as a command that gives the resolved recipe."""
    method = get_method(method_name)

    def resolve(**fields: Any) -> Recipe:
        return resolve_recipe(method, None, typed_fields(method, fields))[0]

    single = typer.Typer(add_completion=False)
    single.command()(with_options(resolve, None, method, training=True))
    return get_command(single)


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, in its range and out of it."""
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return st.sampled_from([*choices, "wrong" if isinstance(choices[0], str) else 5])
    if get_origin(annotation) is tuple:
        return st.lists(values_of(get_args(annotation)[0]), max_size=30).map(tuple)
    if get_args(annotation):
        return st.none() | values_of(get_args(annotation)[0]).filter(lambda value: value != ())  # both typed "none"
    words = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"))
    return {
        bool: st.booleans(),
        int: st.integers(-3, 3) | st.integers(0, 10_000),
        float: st.floats(-1, 2) | st.floats(),
        str: words.filter(lambda text: text.lower() != "none"),
    }[annotation]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_typed_field_arrives_is_stored_and_is_read_back(data: st.DataObject) -> None:
    method = get_method(data.draw(st.sampled_from(list(METHODS))))
    name, info = data.draw(st.sampled_from(list(method.recipe_type.model_fields.items())))
    value = data.draw(values_of(info.annotation))
    base = method.recipes[method.default_recipe(**({name: value} if name in ("dataset", "task") else {}))].recipe
    try:
        wanted = method.recipe_type.model_validate({**base.model_dump(), name: value})
        if name in NETWORK and getattr(wanted, name) != getattr(base, name):  # the recipe's weights are of another one
            wanted = wanted.model_copy(update={"init": FRESH})
        names = []
    except ValidationError as error:
        wanted = None
        # What it does not go together with may be named instead, as a depth that a network does not have.
        names = [
            name,
            typed(name, value).split("=")[0],
            *(str(fault["loc"][0]) for fault in error.errors() if fault["loc"]),
        ]
    try:
        recipe = recipe_command(method.name).main([typed(name, value)], standalone_mode=False)
    except Exception as error:
        code, line = describe(error)
        assert wanted is None, line
        assert code == 2
        assert any(word in line for word in names)
        assert len(line.splitlines()) == 1
        return
    assert recipe == wanted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        write_recipe(path, recipe, method.name)
        assert read_recipe(path, method.recipe_type, method.name) == recipe


def test_what_was_typed_is_in_the_run_folder_and_in_its_weights(demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    attnbias(
        *("train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", out),
        *("--lam", 0.25, "--temperatures", "inf,1", "--ema-decay", "none", "--no-flip"),
        expect=0,
    )
    recipe = read_recipe(out / "recipe.yaml", get_method("csra").recipe_type, "csra")
    assert recipe == load_run("csra", str(out), {}).recipe
    told = recipe.model_dump()
    assert (told["lam"], told["temperatures"], told["ema_decay"], told["flip"]) == (0.25, (1, 99), None, False)
    assert told["image_size"] == 32
    # The stored recipe is a recipe file like any other.
    again = attnbias("train", "csra", "--recipe", out / "recipe.yaml", *CPU, "--data-root", demo_root, "--dry-run")
    assert again.code == 0
    assert "0.25" in again.out


@pytest.mark.parametrize("name", METHODS)
def test_every_named_recipe_builds(name: str) -> None:
    method = get_method(name)
    for title, named in method.recipes.items():
        recipe, info = named.recipe, DATASETS[named.recipe.dataset]
        with names_and_shapes():
            model = method.build_model(recipe, info.classes or 0, info.task)
        grouped = [p for group in method.param_groups(model, recipe) for p in group["params"]]
        trained = [p for p in model.parameters() if p.requires_grad]
        assert sorted(map(id, grouped)) == sorted(map(id, trained)), title
        assert method.schedule(recipe, 10)(0)["lr"] >= 0, title
        assert method.transform(recipe, True), title
        assert recipe_command(name).main([f"--dataset={recipe.dataset}"], standalone_mode=False), title


def test_help_shows_groups_ranges_choices_and_the_papers_values() -> None:
    shown = " ".join(attnbias("train", "csra", "--help-all", expect=0).out.split())
    for words in (
        *("Data", "Training data", "Training", "Method", "Run (does not change the numbers)", "Starting weights"),
        *(
            "[>= 16, <= 4096] [paper: 448]",
            "[> 0, < 1] [paper: none]",
            "<1|2|4|6|8>",
            "[paper: 0.5]",
            "<float,...|none>",
        ),
        "unit|half|imagenet|cifar|clip",
    ):
        assert words in shown
    for name in get_method("csra").recipe_type.model_fields:
        assert f"--{name.replace('_', '-')} " in shown


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "c"], ["csra"]),
        (["train", "csra", "--recipe", "voc"], ["voc07-resnet101", "voc07-resnetcut", "voc07-resnetcut-extra"]),
        (["train", "csra", "--dataset", "wid"], ["wider"]),
        (["prepare-data", "cifar"], ["cifar10", "cifar100"]),
    ],
)
def test_the_shell_completes_without_torch(words: list[str], offered: list[str]) -> None:
    code = "import sys; from attnbias.cli.app import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    environment = {
        **os.environ,
        "_ATTNBIAS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["attnbias", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == offered


def test_dry_run_shows_the_arithmetic_and_writes_nothing(here: Path, demo_root: Path) -> None:
    shown = attnbias(
        *("train", "csra", *instead(TINY, "--epochs", 3), "--dry-run", "--data-root", demo_root, "--out", here / "run"),
        *("--gpus", 0, "--processes", 2, "--accumulation", 2),
        expect=0,
    ).out
    method = get_method("csra")
    model = method.build_model(method.recipes["demo"].recipe, 10, "multilabel")
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in shown
    assert f"{measure_cost(model, 32).macs:,} multiply-accumulates an image of 32 x 32 pixels" in shown
    assert "72 training images" in shown
    assert "global 20 = 2 processes x 5 x 2 accumulation; 4 steps an epoch, 12 in all" in shown
    table = shown.split("learning rate at the first step of each epoch")[1].splitlines()[2:]
    assert [row.split()[:2] for row in table if row.strip()] == [["1", "0"], ["2", "4"], ["3", "8"]]
    assert contents(here) == {}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("csra --recipe demo --warmup-epochs 3", "--warmup-epochs changes nothing without --scheduler step"),
        ("csra --recipe demo --optimizer adamw --momentum 0.5", "--momentum changes nothing without --optimizer sgd"),
        ("ida --recipe demo --asl-clip 0.1", "--asl-clip changes nothing without --loss asl"),
        ("llb --scheduler step --min-lr 0", "--min-lr changes nothing without --scheduler oscillating or cosine"),
        ("absvit --recipe demo --crop-ratio 1", "--crop-ratio changes nothing without --pipeline deit"),
        ("absvit --task segmentation --prompt-tokens 3", "--prompt-tokens changes nothing without --transfer prompt"),
        ("csra --recipe demo --grid scheduler=step,onecycle --gamma 0.5", "--gamma changes nothing without"),
    ],
)
def test_a_typed_field_that_nothing_reads_is_refused(typed: str, said: str, refused: Callable[..., str]) -> None:
    assert said in refused(2, "train", *typed.split(), "--gpus", 0, "--dry-run")


@pytest.mark.parametrize("name", METHODS)
def test_a_field_that_nothing_reads_is_read_beside_what_it_is_said_to_want(name: str) -> None:
    recipe = get_method(name).recipe_type()
    for field, (other, values) in recipe.unread.items():
        for value in values:
            assert field not in override(recipe, {other: value}).unread


def test_an_epoch_of_few_batches_is_said_and_has_other_samples_each_time(demo_root: Path) -> None:
    few = ("--limit-train-batches", 2, "--batch-size", 8, "--epochs", 3)
    shown = attnbias("train", "csra", "--recipe", "demo", *few, "--dry-run", "--data-root", demo_root, expect=0)
    assert "2 steps an epoch, 6 in all" in shown.out
    assert "an epoch is 16 of 72 samples, others in each (--limit-train-batches)" in shown.out + shown.err
    method = get_method("csra")
    recipe = override(method.recipes["demo"].recipe, {"limit_train_batches": 2, "batch_size": 8, "epochs": 3})
    plan = plan_run(method, recipe, 72, processes=1, accumulation=1)
    whole = plan_run(method, override(recipe, {"limit_train_batches": None}), 72, processes=1, accumulation=1)
    seen = [np.concatenate([plan.shares(step)[0] for step in (2 * epoch, 2 * epoch + 1)]) for epoch in range(3)]
    for epoch, samples in enumerate(seen):
        first = [whole.shares(9 * epoch + step)[0] for step in range(2)]
        assert samples.tolist() == np.concatenate(first).tolist()  # the first ones of the whole epoch
    assert len({tuple(sorted(samples)) for samples in seen}) == 3
    assert "an epoch is" not in attnbias(
        *("train", "csra", "--recipe", "demo", "--limit-train-batches", 9, "--batch-size", 8, "--dry-run"),
        *("--data-root", demo_root),
        expect=0,
    ).out  # fmt: skip


def test_help_shows_its_texts_as_they_are_written() -> None:
    assert "attnbias[export]" in attnbias("export", "csra", "--help", expect=0).out
    assert "[>= 0, <= 1] [paper:" in attnbias("train", "ida", "--help-all", expect=0).out
