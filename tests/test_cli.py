"""What is typed wrong or found broken gives one clear line and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import typer
from command_line import Result, attnbias, typed
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from typer.main import get_command

from attnbias.cli.errors import describe
from attnbias.cli.options import typed_fields, with_options
from attnbias.data.registry import DATASETS
from attnbias.methods import METHODS
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.recipe import Recipe, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.resolve import resolve_recipe
from attnbias.methods.engine.run_folder import RunFolder, is_complete

TINY = ["--recipe", "demo", "--epochs", 1, "--batch-size", 20, "--image-size", 32]
CPU = ["--gpus", 0, "--threads", 1]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file (with its bytes) and folder below a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here: Path) -> Callable[..., str]:
    """Run a command that must fail: its one line, when the exit code is right and nothing was written here."""

    def run(code: int, *arguments: Any) -> str:
        before = contents(here)
        result = attnbias(*arguments, expect=code)
        assert contents(here) == before
        return result.line

    return run


@pytest.fixture(scope="module")
def trained(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of CSRA on the demo set: 2 epochs x 4 steps, the last two checkpoints kept."""
    out = tmp_path_factory.mktemp("trained") / "run"
    attnbias("train", "csra", *TINY, *CPU, "--epochs", 2, "--data-root", demo_root, "--out", out, expect=0)
    return out


# What is typed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("tran csra", 2, "did you mean 'train'"),
        ("train csr", 2, "did you mean 'csra'"),
        ("val csar --load-from x", 2, "unknown method 'csar' (did you mean 'csra'?); one of: absvit, "),
        ("list recipes lsa", 2, "did you mean 'lsas'"),
        ("train csra extra", 2, "(extra)"),
        ("train csra --recipe coco-resnet102", 2, "did you mean 'coco-resnet101'?); see: attnbias list recipes csra"),
        ("train csra --recipe mine.yaml", 2, "mine.yaml: No such file"),
        ("train csra --num-head 4", 2, "did you mean '--num-heads'?); see: attnbias train csra --help"),
        ("train csra --epochs 0", 2, "'epochs' = 0: Input should be greater than or equal to 1"),
        ("train csra --epochs many", 2, "'--epochs'"),
        ("train csra --lr 0", 2, "'lr' = 0.0: Input should be greater than 0"),
        ("train csra --lr nan", 2, "'lr' = nan"),
        ("train csra --momentum 1", 2, "'momentum' = 1.0: Input should be less than 1"),
        ("train csra --num-heads 3", 2, "1, 2, 4, 6 or 8"),
        ("train csra --temperatures 1,0", 2, "'temperatures' = (1.0, 0.0): expected positive numbers"),
        ("train csra --temperatures 1,two", 2, "'1,two' is not float,...|none"),
        ("train csra --normalize imagnet", 2, "'unit', 'half', 'imagenet', 'cifar'"),
        ("train csra --accumulation 0", 2, "'--accumulation'"),
        ("train csra --gpus 0 --dataset cocoo", 3, "unknown dataset 'cocoo' (did you mean 'coco'?)"),
        ("train csra --gpus 0", 3, "not prepared in datasets/coco; run: attnbias prepare-data coco --download"),
        ("train csra --gpus 0 --dry-run", 3, "run: attnbias prepare-data coco --download"),
        ("train csra --gpus 0 --dataset wider", 3, "run: attnbias prepare-data wider --source DIR"),
        ("prepare-data cocoo", 2, "unknown dataset 'cocoo' (did you mean 'coco'?); see: attnbias list datasets"),
        ("prepare-data demo --preset hardest", 2, "'easy', 'medium', 'hard', 'even'"),
        ("prepare-data coco --source nowhere", 3, "nowhere does not exist"),
        ("val csra", 2, "'--load-from'; see: attnbias val csra --help"),
        ("visualize csra --load-from nowhere", 3, "no checkpoint nowhere"),
        ("compare nowhere", 3, "nowhere is not a run folder"),
        # Commands of the README, typed before there is anything:
        ("prepare-data coco", 3, "needs --download (20 GB), or --source DIR"),
        ("val csra --load-from ckpt", 3, "no checkpoint ckpt; give a run folder, a .safetensors or a published .pth"),
    ],
)
def test_wrong_words_give_one_line_that_helps(typed: str, code: int, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(code, *typed.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there(refused: Callable[..., str]) -> None:
    line = "error: --gpus 2 asked for, but this machine has no GPU; use --gpus 0"
    assert refused(2, "train", "csra", "--gpus", 2) == line
    assert refused(2, "val", "csra", "--load-from", "ckpt", "--gpus", 2) == line
    assert "--gpus 4" in refused(2, "train", "ida", "--gpus", 4)


def test_half_precision_needs_a_gpu(refused: Callable[..., str]) -> None:
    assert "use --amp bf16 or --amp no" in refused(2, "train", "csra", "--amp", "fp16", "--gpus", 0)


def test_traceback_only_on_request() -> None:
    assert "Traceback" not in attnbias("train", "csra", "--recipe", "nothing", expect=2).err
    shown = attnbias("--debug", "train", "csra", "--recipe", "nothing", expect=2).err
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("error: method 'csra' has no recipe 'nothing'")


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


# Every field of every recipe ------------------------------------------------------------------------------------------


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
        with torch.device("meta"):
            model = method.build_model(recipe, info.classes or 0, info.task)
        grouped = [p for group in method.param_groups(model, recipe) for p in group["params"]]
        trained = [p for p in model.parameters() if p.requires_grad]
        assert sorted(map(id, grouped)) == sorted(map(id, trained)), title
        assert method.schedule(recipe, 10)(0)["lr"] >= 0, title
        assert method.transform(recipe, True), title
        assert recipe_command(name).main([f"--dataset={recipe.dataset}"], standalone_mode=False), title


# Help, completion, dry run --------------------------------------------------------------------------------------------


def test_help_shows_groups_ranges_choices_and_the_papers_values() -> None:
    shown = " ".join(attnbias("train", "csra", "--help", expect=0).out.split())
    for words in (
        *("Data", "Training", "Method", "Run (does not change the numbers)", "Starting weights"),
        *(
            "[>= 16, <= 4096] [paper: 448]",
            "[> 0, < 1] [paper: none]",
            "<1|2|4|6|8>",
            "[paper: 0.5]",
            "<float,...|none>",
        ),
        "<unit|half|imagenet|cifar|clip>",
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
        *("train", "csra", *TINY, "--epochs", 3, "--dry-run", "--data-root", demo_root, "--out", here / "run"),
        *("--gpus", 0, "--processes", 2, "--accumulation", 2),
        expect=0,
    ).out
    method = get_method("csra")
    model = method.build_model(method.recipes["demo"].recipe, 10, "multilabel")
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in shown
    assert "72 training images" in shown
    assert "global 20 = 2 processes x 5 x 2 accumulation; 4 steps an epoch, 12 in all" in shown
    table = shown.split("learning rate at the first step of each epoch")[1].splitlines()[2:]
    assert [row.split()[:2] for row in table if row.strip()] == [["1", "0"], ["2", "4"], ["3", "8"]]
    assert contents(here) == {}


# Weights --------------------------------------------------------------------------------------------------------------


def newest(run: Path) -> Path:
    checkpoint = RunFolder(run).latest()
    assert checkpoint is not None
    return checkpoint


def weights_of(run: Path) -> Path:
    return newest(run) / "model.safetensors"


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
    precious = here / "run" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    assert words in refused(3, *common, "--load-from", path, "--overwrite")


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
        assert "is a checkpoint of 'csra', not of 'ida'; use: attnbias val csra" in line


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
    with torch.device("meta"):
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
    start = ["train", "csra", *TINY, *CPU, *common, "--batch-size", 6, "--out", here / "run"]
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


# Images -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(demo_root: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A data root in which one training and one validation image are torn: (root, the one, the other)."""
    root = tmp_path / "datasets"
    shutil.copytree(demo_root, root)
    torn = [sorted((root / "demo" / "images" / split).iterdir())[5] for split in ("train", "val")]
    for path in torn:
        path.write_bytes(path.read_bytes()[:100])
    return root, torn[0], torn[1]


def test_an_unreadable_image_is_named(spoiled: tuple[Path, Path, Path], trained: Path, tmp_path: Path) -> None:
    root, in_training, in_validation = spoiled
    start = ["train", "csra", *TINY, *CPU, "--data-root", root]
    for workers in (0, 1):  # a loader's worker hands its error over in a traceback
        line = attnbias(*start, "--out", tmp_path / f"run{workers}", "--workers", workers, expect=3).line
        assert line.startswith(f"error: image {in_training} cannot be read")
        assert not RunFolder(tmp_path / f"run{workers}").steps()
    evaluated = ["csra", "--load-from", trained, "--data-root", root]
    assert str(in_validation) in attnbias("val", *evaluated, *CPU, expect=3).line
    assert str(in_validation) in attnbias("visualize", *evaluated, "--out", tmp_path / "seen", expect=3).line
    assert not (tmp_path / "seen").exists()


def test_unreadable_images_are_left_out_and_counted(
    spoiled: tuple[Path, Path, Path], trained: Path, tmp_path: Path
) -> None:
    root, in_training, in_validation = spoiled
    start = ["train", "csra", *TINY, *CPU, "--data-root", root, "--on-bad-image", "skip"]
    shown = attnbias(*start, "--out", tmp_path / "run", expect=0).out
    assert str(in_training) in shown
    assert str(in_validation) in shown
    assert "2 times an unreadable image was left out" in shown
    evaluated = ["val", "csra", "--load-from", trained, "--data-root", root, *CPU, "--on-bad-image", "skip"]
    (result,) = json.loads(attnbias(*evaluated, "--json", "-", expect=0).out)
    assert result["samples"] == 23
    assert len(result["skipped"]) == 1
    assert str(in_validation) in result["skipped"][0]
    assert "1 unreadable images left out" in attnbias(*evaluated, expect=0).out


def test_a_batch_of_nothing_but_unreadable_images(spoiled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, _, _ = spoiled
    for path in (root / "demo" / "images" / "train").iterdir():
        path.write_bytes(b"")
    start = ["train", "csra", *TINY, *CPU, "--data-root", root, "--on-bad-image", "skip", "--out", tmp_path / "run"]
    result = attnbias(*start, expect=3)
    assert "no image of step 0 could be read" in result.line


# Where it is written --------------------------------------------------------------------------------------------------


def test_an_output_folder_in_use_is_left_alone(here: Path, demo_root: Path, refused: Callable[..., str]) -> None:
    (here / "used").mkdir()
    (here / "used" / "precious").write_text("mine")
    (here / "file").write_text("mine")
    start = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out"]
    assert "is not empty; continue it with --resume auto" in refused(2, *start, "used")
    assert "is not a folder" in refused(2, *start, "file")
    assert "is not a folder" in refused(2, *start, "file/below")
    assert "cannot write to output folder /proc/attnbias" in refused(1, *start, "/proc/attnbias")


def test_results_are_neither_lost_nor_written_over(
    here: Path, trained: Path, demo_root: Path, refused: Callable[..., str]
) -> None:
    (here / "old.json").write_text("mine")
    (here / "old-1-val.csv").write_text("mine")
    start = ["val", "csra", "--load-from", trained, "--data-root", demo_root, *CPU]
    assert "old.json exists; choose another name or add --overwrite" in refused(2, *start, "--json", "old.json")
    assert "old-1-val.csv exists" in refused(2, *start, "--split", "val,counter", "--csv", "old.csv")
    assert "/proc/scores.csv" in refused(1, *start, "--csv", "/proc/scores.csv")
    assert "old.json is not a folder" in refused(1, *start, "--json", "old.json/new.json")
    assert "old.json does not hold results of val" in refused(2, *start, "--json", "old.json", "--overwrite")
    attnbias(*start, "--json", "new.json", expect=0)
    attnbias(*start, "--json", "new.json", "--overwrite", expect=0)
    assert json.loads((here / "new.json").read_text())[0]["samples"] == 24
    assert "--out old.json is a file" in refused(2, "visualize", "csra", "--load-from", trained, "--out", "old.json")


def test_json_on_standard_output_is_all_there_is(trained: Path, demo_root: Path) -> None:
    start = ["val", "csra", "--load-from", trained, "--data-root", demo_root, *CPU, "--split", "val,counter"]
    done = attnbias(*start, "--bias", "--json", "-", expect=0)

    def no_json(text: str) -> float:
        raise AssertionError(text)

    results = json.loads(done.out, parse_constant=no_json)
    assert [result["split"] for result in results] == ["val", "counter"]
    assert done.err == ""


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_file_that_cannot_be_written_whole_keeps_the_last_checkpoint(
    share: float, trained: Path, demo_root: Path, tmp_path: Path
) -> None:
    """Weights that do not fit (half their size is allowed), and an optimiser state that does not (one and a half)."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    folder = RunFolder(out)
    shutil.rmtree(newest(out))  # as if the run had been killed before its last checkpoint
    before = newest(out)
    kept = contents(folder.checkpoints)
    start = ["train", "csra", *TINY, *CPU, "--epochs", 2, "--data-root", demo_root, "--out", out, "--resume", "auto"]
    with limited_files(int(share * weights_of(out).stat().st_size)):
        line = attnbias(*start, expect=1).line
    assert "File too large; the last good checkpoint is untouched" in line
    assert contents(folder.checkpoints) == kept
    attnbias(*start, expect=0)
    assert newest(out) != before


@pytest.fixture
def small_disk(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    location = tmp_path / "disk"
    location.mkdir()
    size = 3 * sum(path.stat().st_size for path in newest(trained).iterdir()) // 2
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", location], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield location
    subprocess.run(["umount", location], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path, demo_root: Path) -> None:
    out = small_disk / "run"
    start = ["train", "csra", *TINY, *CPU, "--data-root", demo_root, "--out", out, "--save-steps", 1, "--keep", 9]
    line = attnbias(*start, expect=1).line
    assert "cannot write checkpoint" in line
    assert "the disk is full; the last good checkpoint is untouched" in line
    folder = RunFolder(out)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000001"]
    assert is_complete(folder.folder(1))
    scored = attnbias("val", "csra", "--load-from", out, "--data-root", demo_root, *CPU, "--json", "-", expect=0)
    assert json.loads(scored.out)[0]["samples"] == 24


# Several processes ----------------------------------------------------------------------------------------------------


def test_two_processes_give_one_line(spoiled: tuple[Path, Path, Path], trained: Path) -> None:
    root, _, in_validation = spoiled
    done = subprocess.run(
        [
            *(sys.executable, "-m", "attnbias", "val", "csra", "--load-from", trained, "--data-root", root),
            *("--gpus", "0", "--processes", "2", "--threads", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    line = Result(done.returncode, done.stdout, done.stderr).line
    assert done.returncode == 3
    assert line.startswith(f"error: image {in_validation} cannot be read")


def test_a_full_gpu_says_how_to_cut_the_same_batch() -> None:
    code, line = describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert code == 1
    assert "--accumulation" in line


# Words on the way to a command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["val", "visualize", "export"])
def test_a_paper_with_several_tasks_and_nothing_after_it(command: str, refused: Callable[..., str]) -> None:
    assert "--load-from" in refused(2, command, "absvit")


def test_help_shows_its_texts_as_they_are_written() -> None:
    assert "attnbias[export]" in attnbias("export", "csra", "--help", expect=0).out
    assert "[>= 0, <= 1] [paper:" in attnbias("train", "ida", "--help", expect=0).out


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_a_name_that_no_file_can_have(option: str, trained: Path, refused: Callable[..., str]) -> None:
    start = ["predict", "--load-from", trained, trained]
    assert "choose a shorter one" in refused(2, *start, option, "q" * 300)


def test_what_cannot_be_read_is_not_called_unwritable(trained: Path, here: Path, refused: Callable[..., str]) -> None:
    line = refused(3, "visualize", "csra", "--load-from", "q" * 300, "--out", here / "out")
    assert "cannot write" not in line
    assert "no checkpoint " + "q" * 30 in line


@pytest.mark.parametrize("command", ["val", "visualize", "export"])
@pytest.mark.parametrize("paper", ["csra", "absvit"])  # one task, several
def test_a_command_with_nothing_after_its_method_says_what_it_needs(
    command: str, paper: str, refused: Callable[..., str]
) -> None:
    line = refused(2, command, paper)
    assert line == f"error: missing option '--load-from'; see: attnbias {command} {paper} --help"
