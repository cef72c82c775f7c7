"""What a training run promises within one process: exact resume, a good checkpoint whatever happens, clear refusals."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from attnbias.methods.engine.batches import EvaluationSampler
from attnbias.methods.engine.errors import RunError, UsageError
from attnbias.methods.engine.recipe import Recipe, override
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import Progress, RunFolder, damage
from attnbias.methods.engine.training.sampler import Plan, StepSampler, shuffled
from attnbias.methods.engine.training.train import Outcome, train


def tiny_recipe(**changes: Any) -> Recipe:
    recipe = get_method("csra").named_recipe("demo").recipe
    return override(recipe, {"epochs": 2, "batch_size": 20, "image_size": 32, "ema_decay": 0.9, **changes})


def asked(out: Path, root: Path, recipe: Recipe, **changes: Any) -> TrainRequest:
    usual = {"method": "csra", "gpus": 0, "log_every": 3, "threads": 1, "eval_batch_size": 16}
    return TrainRequest(out=out, data_root=root, recipe=recipe, **{**usual, **changes})


def run(out: Path, root: Path, recipe: Recipe | None = None, **changes: Any) -> Outcome:
    return train(asked(out, root, recipe or tiny_recipe(), **changes))


def same_state(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bytes in every file."""
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir())
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


@pytest.fixture(scope="module")
def straight(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 2 epochs x 4 steps with a checkpoint after every step."""
    out = tmp_path_factory.mktemp("straight") / "run"
    run(out, demo_root, save_steps=1, keep=100)
    return out


def test_a_finished_run_goes_on_for_longer_where_its_steps_do_not_depend_on_its_length(
    demo_root: Path, tmp_path: Path
) -> None:
    by_steps = {"scheduler": "step", "decay_epochs": 1, "warmup_epochs": 0}
    run(tmp_path / "whole", demo_root, tiny_recipe(**by_steps, epochs=2))
    run(tmp_path / "longer", demo_root, tiny_recipe(**by_steps, epochs=1))
    run(tmp_path / "longer", demo_root, tiny_recipe(**by_steps, epochs=2), resume="auto")
    whole, longer = (
        load_file(RunFolder(tmp_path / name).folder(8) / "model.safetensors") for name in ("whole", "longer")
    )
    assert all(torch.equal(whole[name], longer[name]) for name in whole)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "longer" / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match="beyond the 4 steps"):
        run(tmp_path / "longer", demo_root, tiny_recipe(**by_steps, epochs=1), resume="auto")


def test_a_run_whose_learning_rates_follow_from_its_length_says_what_to_do(demo_root: Path, straight: Path) -> None:
    with pytest.raises(
        UsageError, match=r"from step \d+ on they would have been others.*--load-from RUN --out ANOTHER"
    ):
        run(straight, demo_root, tiny_recipe(epochs=4), resume="auto")


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (0, 3)])
def test_resume_at_any_step_equals_the_straight_run(
    workers: int, accumulation: int, demo_root: Path, straight: Path, tmp_path: Path
) -> None:
    reference = straight
    if accumulation > 1:
        reference = tmp_path / "reference"
        run(reference, demo_root, save_steps=1, keep=100, accumulation=accumulation)
    for step in (1, 4, 6):
        out = tmp_path / f"from-{step}"
        (out / "checkpoints").mkdir(parents=True)
        source = RunFolder(reference).folder(step)
        (out / "metrics.jsonl").write_bytes((reference / "metrics.jsonl").read_bytes())
        resumed = run(
            out, demo_root, resume=str(source), save_steps=1, keep=100, workers=workers, accumulation=accumulation
        )
        assert resumed.progress.step == 8
        assert same_state(RunFolder(out).folder(8), RunFolder(reference).folder(8))
        assert (out / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


def test_workers_change_nothing(demo_root: Path, straight: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", demo_root, save_steps=1, keep=100, workers=2)
    assert same_state(RunFolder(tmp_path / "run").folder(8), RunFolder(straight).folder(8))


def test_resume_auto_takes_the_newest_complete_checkpoint(demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    reference = tmp_path / "reference"
    for folder in (out, reference):
        run(folder, demo_root, save_steps=1, keep=100)
    newest = RunFolder(out).folder(8)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])  # torn by a crash of the machine
    assert damage(newest) is not None
    assert run(out, demo_root, resume="auto", save_steps=1, keep=100).progress.step == 8
    assert same_state(newest, RunFolder(reference).folder(8))


def test_resume_refuses_another_recipe(demo_root: Path, straight: Path) -> None:
    with pytest.raises(UsageError, match="lr differ"):
        run(straight, demo_root, tiny_recipe(lr=0.001), resume="auto")


def test_a_used_folder_is_refused_and_left_alone(demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        run(out, demo_root)
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_two_runs_cannot_write_into_one_folder(demo_root: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False, overwrite=False)
    with pytest.raises(RunError, match="in use"):
        run(tmp_path / "run", demo_root, overwrite=True)
    folder.close()


def test_non_finite_loss_stops_before_the_weights_move(demo_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"loss is (nan|inf) at step \d+ .*samples \d"):
        run(out, demo_root, tiny_recipe(lr=1e30, optimizer="sgd", ema_decay=None), save_steps=1, keep=100)
    for folder in (RunFolder(out).folder(step) for step in RunFolder(out).steps()):
        assert damage(folder) is None


def test_unknown_dataset_leaves_no_folder(tmp_path: Path) -> None:
    from attnbias.data.errors import DataError

    with pytest.raises(DataError, match="attnbias prepare-data demo"):
        run(tmp_path / "run", tmp_path)
    assert not (tmp_path / "run").exists()


def test_metrics_log_holds_training_and_evaluation_lines(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [3, 4, 6, 8]
    evaluated = [(line["step"], line["weights"]) for line in lines if line["split"] == "val"]
    assert evaluated == [(4, "raw"), (4, "ema"), (8, "raw"), (8, "ema")]
    assert all(0 <= line["mAP"] <= 100 for line in lines if line["split"] == "val")


def test_best_and_last_checkpoints_are_kept(demo_root: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path / "run", demo_root, tiny_recipe(epochs=4), keep=1)
    folder = RunFolder(tmp_path / "run")
    assert set(folder.steps()) == {16, outcome.progress.best_step}
    assert folder.best_step() == outcome.progress.best_step
    assert damage(folder.folder(outcome.progress.best_step or 0)) is None


def test_failed_save_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A disk that fills up while a checkpoint is written; the error comes from the writer of the tensors."""
    folder = RunFolder(tmp_path)
    folder.open(resume=False, overwrite=False)

    def some(part: Path) -> None:
        for name in ("model.safetensors", "optimizer.pt"):
            (part / name).write_bytes(b"good")

    folder.save(Progress(step=1), some)

    def full(part: Path) -> None:
        (part / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="disk is full"):
        folder.save(Progress(step=2), full)
    folder.close()
    assert folder.latest() == folder.folder(1)
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-00000001"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_shares_are_the_global_batch_whatever_the_cut(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 60))
    batch = data.draw(st.integers(8, 24))
    processes = data.draw(st.sampled_from([1, 2, 4]))
    accumulation = data.draw(st.sampled_from([1, 2]))
    drop_last = data.draw(st.booleans())
    whole = Plan(samples, batch, 2, shuffled(samples, 7), drop_last)
    cut = replace(whole, processes=processes, accumulation=accumulation)
    start = data.draw(st.integers(0, whole.total_steps - 1))
    streams = [list(StepSampler(cut, rank, start)) for rank in range(processes)]
    for step in range(start, whole.total_steps):
        weighted = []
        for rank, stream in enumerate(streams):
            place = (step - start) * accumulation
            for share, weight in zip(stream[place : place + accumulation], cut.weights(step, rank), strict=True):
                weighted += [(key, weight / processes / len(share)) for key in share if weight]
        (batch_keys,) = whole.shares(step)
        epoch = step // whole.steps_per_epoch
        assert sorted(key for key, _ in weighted) == sorted((int(i), epoch) for i in batch_keys)
        assert all(share == pytest.approx(1 / len(batch_keys)) for _, share in weighted)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4))
def test_evaluation_batches_are_the_same_for_any_number_of_processes(samples: int, batch: int, processes: int) -> None:
    alone = EvaluationSampler(samples, batch).batches
    shared = [EvaluationSampler(samples, batch, rank, processes).batches for rank in range(processes)]
    assert sorted(b for part in shared for b in part) == alone


def test_average_of_weights_is_evaluated_beside_them(demo_root: Path, straight: Path) -> None:
    from attnbias.methods.engine.load import load_run

    raw, averaged = (load_run("csra", str(straight), {}, entry=entry) for entry in ("model", "ema"))
    assert "raw weights" in raw.source
    assert "averaged weights" in averaged.source
    parameters = zip(raw.model.state_dict().values(), averaged.model.state_dict().values(), strict=True)
    assert any(not torch.equal(a, b) for a, b in parameters)


def test_gradient_checkpointing_changes_no_step(demo_root: Path, tmp_path: Path) -> None:
    named = get_method("absvit").named_recipe("demo").recipe
    recipe = override(named, {"epochs": 1, "batch_size": 20, "image_size": 32, "dropout": 0.1, "drop_path": 0.1})
    states = []
    for saving in (False, True):
        out = tmp_path / f"saving-{saving}"
        outcome = train(asked(out, demo_root, recipe, method="absvit", grad_checkpointing=saving))
        states.append(load_file(RunFolder(out).folder(outcome.progress.step) / "model.safetensors"))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_gradient_checkpointing_of_batch_norm_is_refused(demo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for transformers"):
        run(tmp_path / "run", demo_root, grad_checkpointing=True)
    assert not (tmp_path / "run").exists()
