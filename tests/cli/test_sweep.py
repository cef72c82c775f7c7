"""Several runs by one command: a folder for each, named by what differs; refused as a whole, resumed as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attnbias.data.lock import only_writer
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.registry import get_description
from attnbias.methods.engine.resolve import LONGEST_NAME, named, resolve_recipe, run_name
from attnbias.methods.engine.sweep import Place, flags, places, points, without
from tests.helpers.command_line import attnbias

TINY = ["--recipe", "demo", "--backbone", "tiny", "--image-size", "32", "--batch-size", "24", "--epochs", "2"]
CPU = ["--gpus", "0", "--threads", "1", "--eval-batch-size", "24"]


def sweep(root: Path, out: Path, *more: str) -> list[str]:
    words = ["train", "csra", *TINY, *CPU, "--data-root", str(root), "--out", str(out), *more]
    return [sys.executable, "-m", "attnbias", *words]


def weights(out: Path) -> dict[str, bytes]:
    """The metrics and the last weights of each run, by its name."""
    last = {run: sorted(run.glob("checkpoints/step-*"))[-1] for run in sorted(out.glob("*=*"))}
    files = {run.name: (run / "metrics.jsonl", folder / "model.safetensors") for run, folder in last.items()}
    return {f"{name}/{file.name}": file.read_bytes() for name, own in files.items() for file in own}


def test_every_combination_is_one_run() -> None:
    assert points(["lam=0,0.5", "num-heads=1"], "0,1") == [
        {"lam": lam, "num_heads": "1", "seed": seed} for lam in ("0", "0.5") for seed in ("0", "1")
    ]
    assert flags({"lam": "0.5", "num_heads": "1"}) == ["--lam=0.5", "--num-heads=1"]
    assert flags({"pretrained": "true", "top_down": "false"}) == ["--pretrained", "--no-top-down"]
    words = ["csra", "--seeds", "0,1", "--grid=lam=0", "--lr", "1", "-o", "x"]
    assert without(words, "--seeds", "--grid", "-o") == ["csra", "--lr", "1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "0,0"], "--seeds: a value stands twice"),
        (["--seeds", ","], "--seeds: expected values"),
        (["--grid", "lam"], "--grid lam: expected FIELD=VALUE,VALUE"),
        (["--grid", "lam=0", "--grid", "lam=1"], "--grid lam: the field stands twice"),
        (["--grid", "nothing=1"], "nothing"),
        (["--grid", "lr=0.1,0"], "recipe field 'lr' = 0.0"),  # the second run is refused before the first one starts
        (["--seeds", "0,many"], "valid int"),
        (["--grid", "lam=0,0.0"], "two of these runs are the same"),
        (["--seed", "0", "--seeds", "0,1"], "--seed is given for one run and for"),
        (["--jobs", "2"], "--jobs changes nothing without --seeds or --grid"),
        (["--seeds", "0,1", "--gpus", "9"], "--gpus 9 asked for, but this machine has"),
        (["--seeds", "0,1", "--gpus", "8,9"], "--gpus 8,9: there is no card 8"),
    ],
)
def test_what_is_wrong_with_any_run_is_said_before_one_begins(more: list[str], said: str, tmp_path: Path) -> None:
    failed = attnbias("train", "csra", *TINY, "--out", tmp_path / "out", *more, expect=2)
    assert said in failed.err
    assert not failed.out
    assert not (tmp_path / "out").exists()


def test_runs_of_data_that_are_not_there_are_refused_once(tmp_path: Path) -> None:
    failed = attnbias(
        "train", "csra", *TINY, "--data-root", tmp_path, "--out", tmp_path / "out", "--seeds=0,1", expect=3
    )
    assert failed.err.count("dataset 'demo' is not prepared") == 1
    assert not failed.out
    assert not (tmp_path / "out").exists()


def test_a_sweep_whose_last_folder_is_taken_is_refused_before_its_first_run(tmp_path: Path) -> None:
    words = ["train", "csra", *TINY, "--data-root", tmp_path, "--out", tmp_path, "--seeds=0,1"]
    last = tmp_path / "seed=1"
    last.mkdir()
    with only_writer(last):
        assert f"output folder {last} is in use by another run" in attnbias(*words, expect=1).line
        assert "is in use by another run" in attnbias(*words, "--resume", "auto", expect=1).line
    (last / "notes.txt").touch()
    assert f"output folder {last} is not empty" in attnbias(*words, expect=2).line
    glued = ["train", "csra", *TINY, "--data-root", tmp_path, f"-o{tmp_path}", "--seeds=0,1"]
    assert f"output folder {last} is not empty" in attnbias(*glued, expect=2).line
    assert "dataset 'demo' is not prepared" in attnbias(*words, "--resume", "auto", expect=3).line
    file = last / "notes.txt"
    words[words.index("--out") + 1] = file
    assert f"cannot write {file}/seed=0: {file} is not a folder" in attnbias(*words, expect=2).line
    assert [path.name for path in tmp_path.iterdir()] == ["seed=1"]


def test_no_two_runs_share_a_folder(tmp_path: Path) -> None:
    """The number of epochs is no part of a run's name."""
    failed = attnbias("train", "csra", *CPU, "--recipe", "demo", "--grid", "epochs=1,2", "--dry-run", expect=2)
    assert "two of these runs would go into runs/csra/demo; give each its folder: --out DIR" in failed.err
    assert len(named({"init": "x" * 300})) <= LONGEST_NAME


@pytest.mark.slow
def test_a_dry_run_of_several_says_which_and_compares_none(tmp_path: Path) -> None:
    glued = attnbias("train", "csra", *TINY, *CPU, "--seeds", "0,1", f"-o{tmp_path}", "--dry-run")
    assert f"2 runs, one after the other:\n  {tmp_path}/seed=0\n  {tmp_path}/seed=1\n" in glued.out
    assert "compare them" not in glued.out  # nothing was trained


def test_runs_side_by_side_have_their_own_gpus_or_share_one() -> None:
    assert places(2, ["0", "1", "2", "3"], 2) == [Place(2, ("0", "1")), Place(2, ("2", "3"))]
    assert places(3, ["0", "1"], 1) == [Place(3, ("0",)), Place(3, ("1",)), Place(3, ("0",))]
    assert places(2, [], 0) == [Place(2), Place(2)]
    with pytest.raises(UsageError, match="--jobs 2 with --gpus 2 needs 4 GPUs, and there are 3"):
        places(2, ["0", "1", "2"], 2)


def test_a_run_is_named_by_its_recipe_and_what_differs_from_it() -> None:
    csra = get_description("csra")

    def name(**typed: Any) -> str:
        return run_name(resolve_recipe(csra, "demo", typed))

    assert name() == "demo"
    assert name(epochs=3) == "demo"  # it may go on for longer
    assert name(lam=0.0, seed=1) == "demo,seed=1,lam=0.0"
    assert name(backbone="timm/a b") == "demo,backbone=timm_a_b"
    one, other = (name(backbone="x" * 200 + end) for end in "ab")
    assert one != other
    assert len(one) <= LONGEST_NAME


@pytest.mark.slow
def test_runs_go_on_side_by_side_and_a_failure_of_one_stops_no_other(demo_root: Path, tmp_path: Path) -> None:
    command = sweep(demo_root, tmp_path, "--seeds", "1", "--grid", "lr=1e30,0.01", "--jobs", "2")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    name = "lr=0.01,seed=1"
    assert (tmp_path / name / "metrics.jsonl").is_file()
    assert "seed: 1\n" in (tmp_path / name / "recipe.yaml").read_text()
    assert "run 1 of 2 ended with exit code 1" in done.stderr
    assert "1 of 2 runs failed" in done.stderr
    assert "best" in (tmp_path / "logs" / f"{name}.log").read_text()


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_bytes(demo_root: Path, tmp_path: Path) -> None:
    more = ["--grid", "lam=0,0.5", "--seeds", "0,1", "--save-steps", "1", "--resume", "auto"]
    subprocess.run(sweep(demo_root, tmp_path / "straight", *more), check=True, capture_output=True)
    killed = sweep(demo_root, tmp_path / "killed", *more)
    for number, name in ((signal.SIGKILL, "lam=0,seed=1"), (signal.SIGTERM, "lam=0.5,seed=0")):
        reached = tmp_path / "killed" / name / "checkpoints"
        process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not any(reached.glob("step-*")):
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as a terminal's or a machine's end does
        process.wait()
    assert process.returncode in (0, 128 + signal.SIGTERM)
    subprocess.run(killed, check=True, capture_output=True)
    assert len(weights(tmp_path / "straight")) == 8
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
