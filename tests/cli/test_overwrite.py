"""`--overwrite` deletes only what the command itself wrote; a folder that holds more is refused, and left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.command_line import attnbias

SMALL = ["--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 1, "--batch-size", 20]


def train(root: Path, out: Path, *more: Any, expect: int = 0) -> str:
    words = ["train", "csra", *SMALL, "--gpus", 0, "--threads", 1, "--data-root", root, "--out", out, *more]
    result = attnbias(*words, expect=expect)
    return result.line if expect else ""


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, but the lock's moment."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a stored evaluation."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(demo_root, out)
    attnbias("val", "csra", "--load-from", out, "--data-root", demo_root, "--gpus", 0, "--store", "--bias")
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_replaces_a_run(demo_root: Path, run: Path) -> None:
    assert (run / "evaluations").is_dir()
    (run / "checkpoints" / ".tmp-step-00000007-123").mkdir()  # of a killed run
    train(demo_root, run, "--overwrite", "--seed", 1)
    assert "seed: 1\n" in (run / "recipe.yaml").read_text()
    assert {path.name for path in run.iterdir()} == {
        *(".lock", "checkpoints", "data.json", "environment.json", "metrics.jsonl", "recipe.yaml"),
        "timings.jsonl",
    }


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "photos/cat.jpg",
        "empty/",
        "checkpoints/step-00000003.bak/model.safetensors",
        "checkpoints/step-00000003/notes.txt",
        "checkpoints/best.pth",
        "evaluations/notes.md",
        "evaluations/demo/val/plot.png",
    ],
)
def test_a_run_with_something_else_in_it_is_refused(name: str, demo_root: Path, run: Path) -> None:
    foreign = run / name
    foreign.mkdir(parents=True) if name.endswith("/") else foreign.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith("/"):
        foreign.write_text("mine")
    before = tree(run)
    line = train(demo_root, run, "--overwrite", expect=2)
    first = name.rstrip("/") if not name.endswith("model.safetensors") else str(Path(name).parent)
    first = "photos" if name.startswith("photos") else first
    assert f"{run / first} is not of a run" in line
    assert tree(run) == before


@pytest.mark.parametrize(
    "files", [["cat.jpg"], ["recipe.yaml"], ["metrics.jsonl", "checkpoints/model.pth"], ["log.txt"]]
)
def test_a_folder_that_is_no_run_is_refused(files: list[str], demo_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = tree(folder)
    assert f"{folder} holds none" in train(demo_root, folder, "--overwrite", expect=2)
    assert tree(folder) == before


def test_links_to_another_disk(demo_root: Path, run: Path, tmp_path: Path) -> None:
    """The run's folder or its checkpoints may be links; they stay, and nothing beside the run is touched."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (run / "checkpoints").rename(disk / "checkpoints")
    (run / "checkpoints").symlink_to(disk / "checkpoints")
    (disk / "other.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(run)
    train(demo_root, link, "--overwrite", "--seed", 2)
    assert link.is_symlink()
    assert (run / "checkpoints").is_symlink()
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-00000004"]
    assert (disk / "other.txt").read_text() == "mine"
    link.unlink()
    link.symlink_to(tmp_path / "unmounted")
    assert "is a link to nothing" in train(demo_root, link, "--overwrite", expect=2)


@pytest.mark.parametrize("resume", ["auto", "checkpoints/step-00000004"])
def test_resume_and_overwrite_contradict_each_other(resume: str, demo_root: Path, run: Path) -> None:
    before = tree(run)
    line = train(demo_root, run, "--overwrite", "--resume", resume if resume == "auto" else run / resume, expect=2)
    assert "--resume continues a run and --overwrite deletes it" in line
    assert tree(run) == before


def test_storing_again_replaces_evaluations_only(demo_root: Path, run: Path) -> None:
    again = ["val", "csra", "--load-from", run, "--data-root", demo_root, "--gpus", 0, "--store", "--bias"]
    (bias,) = (run / "evaluations" / "demo" / "val").glob("bias-*")
    (bias / "figure.png").write_text("mine")
    assert f"{bias / 'figure.png'} is of none" in attnbias(*again, "--overwrite", expect=2).line
    assert (bias / "bias.json").is_file()
    (bias / "figure.png").unlink()
    attnbias(*again, "--overwrite")


def visualize(run: Path, root: Path, out: Path) -> list[Any]:
    return ["visualize", "csra", "--load-from", run, "--data-root", root, "--limit", 1, "--out", out, "--overwrite"]


def compare(run: Path, root: Path, out: Path) -> list[Any]:
    return ["compare", run, "--out", out, "--overwrite"]


@pytest.mark.parametrize(
    ("command", "mine"),
    [(visualize, "overlays/holiday.png"), (visualize, "gallery.html"), (compare, "comparison.md")],
)
def test_pages_replace_what_was_written_before_them(
    command: Callable[[Path, Path, Path], list[Any]], mine: str, demo_root: Path, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / mine).parent.mkdir(parents=True)
    (folder / mine).write_text("mine")
    before = tree(folder)
    assert f"{folder / Path(mine).parts[0]} is not of one" in attnbias(*command(run, demo_root, folder), expect=2).line
    assert tree(folder) == before

    out = tmp_path / "out"
    link = tmp_path / "link"
    link.symlink_to(out)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for folder in (out, link):
        attnbias(*command(run, demo_root, folder))
        assert (out / "notes.txt").read_text() == "mine"
    assert (out / Path(mine).parts[0]).exists()


def test_a_file_to_write_is_no_folder(run: Path, demo_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    words = ["val", "csra", "--load-from", run, "--data-root", demo_root, "--gpus", 0, "--csv", folder, "--overwrite"]
    assert f"{folder} is a folder" in attnbias(*words, expect=2).line


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_prepared_sets_replace_what_prepare_data_wrote(more: list[str], tmp_path: Path) -> None:
    """Also where no set was ever prepared in the folder."""
    small = ["prepare-data", "demo", "--train", 20, "--eval", 10, "--size", 32, "--root", tmp_path]
    mine = tmp_path / "demo" / "images" / "holiday.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert f"{mine} was not written by prepare-data" in attnbias(*small, *more, expect=3).line
    assert mine.read_text() == "mine"
    mine.unlink()
    attnbias(*small, *more)
    attnbias(*small, "--seed", 1, "--overwrite")
    assert len(list((tmp_path / "demo" / "images" / "train").iterdir())) == 20


@pytest.fixture
def desk(run: Path, tmp_path: Path) -> Path:
    """Where a person works: a run, an image, files of their own."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    (tmp_path / "names.csv").write_text("model,dataset\ndigit_0,digit_0\n")
    shutil.copyfile(run / "checkpoints/step-00000004/model.safetensors", tmp_path / "copy.safetensors")
    (tmp_path / "link.json").hardlink_to(tmp_path / "names.csv")
    (tmp_path / "soft.csv").symlink_to(tmp_path / "photo.png")
    (tmp_path / "notes.json").write_text('{"notes": "not ours"}')
    (tmp_path / "notes.csv").write_text("day,hours\n1,7\n")
    (tmp_path / "mine.pt2").write_text("mine")
    (tmp_path / "mine.onnx").write_text("mine")
    (tmp_path / "other.onnx.data").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "bias.json").write_text('{"notes": "not ours"}')
    (tmp_path / "several" / "1-val").mkdir(parents=True)
    (tmp_path / "several" / "1-val" / "bias.json").write_text('{"notes": "not ours"}')
    return tmp_path


WITH_ONNX = find_spec("onnxruntime") is not None and find_spec("onnxscript") is not None
NEEDS_ONNX = pytest.mark.skipif(not WITH_ONNX, reason="needs the export extra")
VAL = "val csra --load-from run --split val"
PREDICT = "predict photo.png --load-from run"


@pytest.mark.parametrize(
    "words",
    [
        f"{VAL} --json run/checkpoints/step-00000004/model.safetensors",
        f"{VAL} --json run/recipe.yaml",
        f"{VAL} --json run/evaluations/new.json",
        "val plain --load-from run --class-map names.csv --csv names.csv",
        "val plain --load-from run --class-map names.csv --json link.json",
        f"{VAL} --json notes.json",
        f"{VAL} --csv notes.csv",
        f"{VAL} --csv photo.png",
        f"{VAL} --robustness-out notes.json --attack fgsm",
        f"{VAL} --bias-out folder",
        f"{VAL},counter --bias-out several",
        f"{VAL} --bias-out run/checkpoints/step-00000004",
        f"{VAL} --json same.json --robustness-out same.json --attack fgsm",
        f"{PREDICT} --csv photo.png",
        f"{PREDICT} --csv soft.csv",
        f"{PREDICT} --json notes.json",
        f"{PREDICT} --json run/checkpoints/step-00000004/progress.json",
        "weights convert run --to run/checkpoints/step-00000004/model.safetensors",
        "weights convert copy.safetensors --to copy.safetensors",
        pytest.param(
            "export csra --load-from run --format onnx --out run/checkpoints/step-00000004/model.onnx", marks=NEEDS_ONNX
        ),
        "export csra --load-from run --format torch-export --out mine.pt2",
        pytest.param("export csra --load-from run --format onnx --out mine.onnx", marks=NEEDS_ONNX),
        pytest.param("export csra --load-from run --format onnx --out other.onnx", marks=NEEDS_ONNX),
        "train csra --recipe demo --out run/checkpoints/step-00000004/inner",
        "train csra --recipe demo --out run/evaluations/inner",
        "prepare-data demo --root run/checkpoints/step-00000004",
        "visualize csra --load-from run photo.png --out run/checkpoints/step-00000004/seen",
        "compare run --out run/checkpoints/compared",
    ],
)
def test_nothing_that_a_command_reads_or_did_not_write_is_replaced(
    words: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything put into a checkpoint, or among what a run keeps, whatever the links."""
    monkeypatch.chdir(desk)
    before = tree(desk)
    said = attnbias(*words.split(), "--overwrite", expect=2).line
    assert tree(desk) == before
    assert "choose another" in said or "give each its own name" in said


def test_what_the_same_command_wrote_is_replaced(desk: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (desk / "photos").mkdir()
    shutil.copyfile(desk / "photo.png", desk / "photos" / "photo.png")
    (desk / "demo").mkdir()  # called as a recipe is
    (desk / "-").write_text("mine")  # no file is meant by it
    attnbias(*PREDICT.split(), "--json", "-", expect=0)
    for words in (
        f"{VAL} --data-root {demo_root} --json demo/a.json",
        f"{VAL} --data-root {demo_root} --json run/a.json",
        "predict photos --load-from run --json photos/b.json --csv photos/b.csv",
        "export csra --load-from run --format torch-export --out e.pt2",
        *(["export csra --load-from run --format onnx --out e.onnx"] if WITH_ONNX else []),
        f"{VAL} --data-root {demo_root} --json a.json --csv a.csv --bias-out bias --robustness-out r.csv --attack fgsm",
        f"{PREDICT} --json b.json --csv b.csv",
        "weights convert run --to c.safetensors",
    ):
        attnbias(*words.split(), expect=0)
        assert "add --overwrite" in attnbias(*words.split(), expect=2).line
        attnbias(*words.split(), "--overwrite", expect=0)


def test_two_files_of_one_name_are_both_named(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    words = f"{VAL} --json new.json --csv new.csv --robustness-out new.json --attack fgsm"
    said = attnbias(*words.split(), expect=2).line
    assert "new.json cannot take a table of robustness and results of val" in said


def test_visualize_draws_into_the_current_folder_where_it_is_empty(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = desk / "seen"
    seen.mkdir()
    monkeypatch.chdir(seen)
    words = f"visualize csra --load-from {desk / 'run'} {desk / 'photo.png'} --out ."
    attnbias(*words.split(), expect=0)
    drawn = tree(seen)
    assert "gallery.html" in {path.name for path in seen.iterdir()}
    (seen / "mine.txt").write_text("mine")
    assert "add --overwrite" in attnbias(*words.split(), expect=2).line
    attnbias(*words.split(), "--overwrite", expect=0)
    assert tree(seen).keys() == drawn.keys() | {"mine.txt"}  # what is not its own stays
    assert (seen / "mine.txt").read_text() == "mine"
