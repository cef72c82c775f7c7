"""Weights that are loaded are those asked for: damage is named, another checkpoint is only taken where it is safe."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.load import load_run
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import Progress, RunFolder, damage
from attnbias.methods.engine.stored import stored_dataset
from attnbias.methods.engine.training.train import train
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import write_weights
from tests.helpers.command_line import attnbias

STEPS = 3


@pytest.fixture(scope="module")
def trained(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with a checkpoint after each, evaluated after the second and the third."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(asked(out, demo_root))
    assert RunFolder(out).steps() == [1, 2, 3]
    return out


def recipe() -> object:
    fields = {"backbone": "tiny", "image_size": 32, "batch_size": 8, "steps": STEPS, "eval_steps": 2}
    return get_method("csra").recipes["demo"].recipe.model_copy(update={**fields, "ema_decay": 0.5, "lr": 1e-12})


def asked(out: Path, root: Path, resume: str | None = None) -> TrainRequest:
    fixed: dict[str, Any] = {"gpus": 0, "workers": 0, "save_steps": 1, "keep": 9, "data_root": root}
    return TrainRequest(method="csra", recipe=recipe(), out=out, resume=resume, **fixed)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def spoil(folder: Path, how: str) -> None:
    name, _, kind = how.partition(" ")
    file = folder / name
    {"flipped": flip, "cut": lambda f: f.write_bytes(f.read_bytes()[:-1]), "gone": Path.unlink}[kind](file)


def some_weights(part: Path) -> None:
    for name in ("model.safetensors", "optimizer.pt"):
        (part / name).write_bytes(b"weights")
    (part / "model.safetensors").write_bytes(b"weights")


def best_of(run: Path) -> Path:
    folder = RunFolder(run)
    step = folder.best_step()
    assert step is not None
    return folder.folder(step)


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "progress.json"])
@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
def test_a_damaged_best_checkpoint_is_not_replaced_by_another(run: Path, file: str, kind: str) -> None:
    best = best_of(run)
    entry = "ema" if file.startswith("ema") else "model"
    spoil(best, f"{file} {kind}")
    with pytest.raises(WeightsError, match=rf"checkpoint {best} is damaged: {file} .*load another: --load-from {run}"):
        load_run("csra", str(run), {}, entry=entry)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=f"is damaged: {file}"):
        load_run("csra", str(best), {}, entry=entry)  # type: ignore[arg-type]
    assert load_run("csra", str(RunFolder(run).latest()), {}).source.startswith(str(RunFolder(run).latest()))


FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt", "progress.json", "complete.json")


@pytest.mark.parametrize("file", FILES)
def test_one_byte_that_changed_is_noticed_by_whoever_reads_it(run: Path, demo_root: Path, file: str) -> None:
    """The size stays: only the checksum, or for the manifest itself its own words, can tell."""
    best = best_of(run)
    size = (best / file).stat().st_size
    flip(best / file)
    assert (best / file).stat().st_size == size
    with pytest.raises(WeightsError, match=f"{best} is not a complete checkpoint folder: {file}"):
        train(asked(run, demo_root, resume=str(best)))
    if file == "optimizer.pt":  # only training reads it
        return
    weights = "ema" if file.startswith("ema") else "raw"
    common = ("--load-from", best, "--weights", weights, "--gpus", 0)
    image = next(demo_root.rglob("*.jpg"))
    for words in (("val", "csra", *common, "--data-root", demo_root), ("predict", *common, image)):
        assert f"checkpoint {best} is damaged: {file}" in attnbias(*words, expect=3).line


def test_damage_of_what_is_not_read_does_not_matter(run: Path) -> None:
    for step in RunFolder(run).steps():
        flip(RunFolder(run).folder(step) / "optimizer.pt")
    assert "best checkpoint" in load_run("csra", str(run), {}).source


@pytest.mark.parametrize("text", [None, "", "lr: &a [*a]", "method: nobody"])
def test_weights_say_whose_they_are_where_the_recipe_file_of_their_run_does_not(
    run: Path, demo_root: Path, text: str | None
) -> None:
    common = ("predict", "--load-from", run, "--gpus", 0, next(demo_root.rglob("*.jpg")))
    said = attnbias(*common, expect=0).out
    if text is None:
        (run / "recipe.yaml").unlink()
    else:
        (run / "recipe.yaml").write_text(text)
    assert attnbias(*common, expect=0).out == said


def test_a_weight_file_of_a_checkpoint_folder_is_held_against_its_manifest(run: Path) -> None:
    file = best_of(run) / "model.safetensors"
    flip(file)
    with pytest.raises(WeightsError, match=r"model\.safetensors is not as it was written"):
        load_run("csra", str(file), {})


def test_a_newest_checkpoint_that_cannot_say_which_is_best_is_named(run: Path) -> None:
    (RunFolder(run).folder(3) / "complete.json").unlink()
    line = attnbias("val", "csra", "--load-from", run, "--gpus", 0, expect=3).line
    assert "step-00000003 is damaged: complete.json is missing" in line
    assert "--load-from" in line


def test_a_best_checkpoint_that_is_not_there_is_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = RunFolder(run).folder(3)
    # As a run resumed in another folder leaves it: the best one stayed behind.
    progress = RunFolder.read_progress(newest).model_copy(update={"best_step": 2, "step": 4})
    RunFolder(run).save(progress, lambda part: shutil.copytree(newest, part, dirs_exist_ok=True))
    shutil.rmtree(RunFolder(run).folder(2))
    source = load_run("csra", str(run), {}).source
    assert "newest checkpoint, step 4, raw weights; the best, step 2, is missing" in source
    assert "does not have its best checkpoint" in caplog.text


def test_resuming_goes_back_to_an_older_one_and_says_what_was_left(
    run: Path, demo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(RunFolder(run).folder(3) / "optimizer.pt")
    train(asked(run, demo_root, resume="auto"))
    said = " ".join("".join(capsys.readouterr()).split())
    assert "step-00000003 is damaged: optimizer.pt is not as it was written" in said
    assert "step-00000002" in said.split("going on from")[1]
    assert damage(RunFolder(run).folder(3)) is None


@pytest.mark.parametrize("how", ["optimizer.pt flipped", "complete.json gone", "model.safetensors cut"])
def test_where_no_checkpoint_is_whole_nothing_is_started_anew(run: Path, demo_root: Path, how: str) -> None:
    for step in RunFolder(run).steps():
        spoil(RunFolder(run).folder(step), how)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(WeightsError, match=r"no checkpoint of .* can be resumed: .*step-00000003 is damaged"):
        train(asked(run, demo_root, resume="auto"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["step-00000003.bak", "step-best", "step-00000003 (copy)", "step-9", "notes"])
def test_strange_names_among_checkpoints_do_no_harm(run: Path, demo_root: Path, name: str) -> None:
    shutil.copytree(RunFolder(run).folder(1), run / "checkpoints" / name)
    (run / "checkpoints" / "step-00000099").write_text("a file")
    assert RunFolder(run).steps() == [1, 2, 3]
    train(asked(run, demo_root, resume="auto"))
    assert load_run("csra", str(run), {}).source
    assert (run / "checkpoints" / name).is_dir()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {}}', "[" * 10**5])
def test_a_manifest_of_anything_else_is_damage(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    saved = folder.save(Progress(step=1), some_weights)
    assert damage(saved) is None
    (saved / "complete.json").write_text(text)
    assert damage(saved) is not None


@pytest.mark.parametrize("name", ["optimizer.pt", "ema.safetensors"])
def test_a_file_that_is_neither_there_nor_in_the_manifest_is_missed(run: Path, demo_root: Path, name: str) -> None:
    newest = RunFolder(run).folder(3)
    for step in (1, 2):
        shutil.rmtree(RunFolder(run).folder(step))
    manifest = json.loads((newest / "complete.json").read_text())
    del manifest["files"][name]
    (newest / "complete.json").write_text(json.dumps(manifest))
    (newest / name).unlink()
    with pytest.raises(WeightsError, match=f"step-00000003 is damaged: .*{name}"):
        train(asked(run, demo_root, resume="auto"))


def test_a_manifest_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    saved = folder.save(Progress(step=1), some_weights)
    (tmp_path / "outside").write_bytes(b"")
    manifest = saved / "complete.json"
    content = json.loads(manifest.read_text())
    content["files"]["../../outside"] = {"bytes": 0, "crc32": 0}
    manifest.write_text(json.dumps(content))
    assert "../../outside" in (damage(saved) or "")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("command", ["val", "predict", "visualize", "export", "convert", "train"])
def test_weights_that_are_not_finite_are_refused_by_every_command(
    trained: Path, demo_root: Path, tmp_path: Path, number: float, command: str
) -> None:
    source = RunFolder(trained).folder(3) / "model.safetensors"
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(source)
    state["classifier.weight"].view(-1)[7] = number
    path, out, root = tmp_path / "w.safetensors", tmp_path / "out", ("--data-root", demo_root)
    write_weights(path, state, metadata)
    image = next(demo_root.rglob("*.jpg"))
    arguments = {
        "val": ("val", "csra", "--load-from", path, *root, "--gpus", 0),
        "predict": ("predict", "--load-from", path, image, "--gpus", 0),
        "visualize": ("visualize", "csra", "--load-from", path, image, "--out", out),
        "export": ("export", "csra", "--load-from", path, "--format", "torch-export", "--out", tmp_path / "w.pt2"),
        "convert": ("weights", "convert", path, "--to", tmp_path / "converted.safetensors"),
        "train": ("train", "csra", "--recipe", "demo", "--backbone", "tiny", "--load-from", path, "--out", out, *root),
    }
    line = attnbias(*arguments[command], expect=3).line
    assert "NaN or infinite, in 1 of" in line
    assert "classifier.weight" in line
    assert {each.name for each in tmp_path.iterdir()} == {"w.safetensors"}


def test_weights_that_became_a_pipe_are_not_waited_for(trained: Path, demo_root: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for step in RunFolder(run).steps():
        weights = RunFolder(run).folder(step) / "model.safetensors"
        weights.unlink()
        os.mkfifo(weights)
    assert stored_dataset(run) is None
    refused = attnbias("val", "csra", "--load-from", run, "--data-root", demo_root, "--gpus", 0, expect=3)
    assert "damaged: model.safetensors is missing" in refused.line


def test_the_last_checkpoint_is_only_called_good_where_there_is_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False, overwrite=False)

    def full(part: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="the disk is full; the run has no checkpoint yet"):
        folder.save(Progress(step=1), full)
    folder.save(Progress(step=1), some_weights)
    with pytest.raises(RunError, match="the disk is full; the last good checkpoint is untouched"):
        folder.save(Progress(step=2), full)
    folder.close()


@pytest.mark.parametrize("name", ["csra", "ida:best"])
def test_a_folder_called_like_a_method_is_a_path(
    trained: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(trained)
    image = next(demo_root.rglob("*.jpg"))
    attnbias("visualize", "csra", "--load-from", name, image, "--out", "out", expect=0)
    assert "no checkpoint ida" in attnbias("visualize", "csra", "--load-from", "ida", image, expect=3).line
