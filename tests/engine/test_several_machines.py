"""Outer launchers: torchrun on two machines (network namespaces), accelerate launch, and Slurm's srun, as one machine.

Two machines with a process each must do what one machine with two processes does, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from attnbias.methods.engine.run_folder import RunFolder
from tests.helpers.forked import free_port

RUN = ["train", "csra", "--recipe", "demo", "--backbone", "tiny", "--image-size", 32, "--epochs", 2, "--gpus", 0]
RUN += ["--threads", 1, "--batch-size", 20, "--ema-decay", 0.9, "--accumulation", 2, "--log-every", 2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def call(words: Sequence[Any], **environment: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if name not in {"WORLD_SIZE", "RANK"}}
    return subprocess.Popen(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=own | {"OMP_NUM_THREADS": "1"} | environment,
    )


def done(*processes: subprocess.Popen[str]) -> list[str]:
    """What processes printed, all of which must end well."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n---\n".join(said)
    return said


@pytest.fixture(scope="module")
def alone(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one machine with two processes, and its evaluation."""
    out = tmp_path_factory.mktemp("alone") / "run"
    attnbias = [sys.executable, "-m", "attnbias"]
    done(call([*attnbias, *RUN, "--processes", 2, "--data-root", demo_root, "--out", out]))
    done(call([*attnbias, *evaluation(out, demo_root), "--processes", 2]))
    return out


def evaluation(out: Path, root: Path) -> list[Any]:
    words = ["val", "csra", "--load-from", out, "--split", "val,counter", "--gpus", 0, "--threads", 1]
    return [*words, "--eval-batch-size", 5, "--data-root", root, "--json", out.with_suffix(".json")]


def same_run(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors", "optimizer.pt", "progress.json"):
        first, second = ((RunFolder(out).latest() or out) / name for out in (one, other))
        assert first.read_bytes() == second.read_bytes(), name
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def same_evaluation(one: Path, other: Path) -> None:
    measured = [json.loads(out.with_suffix(".json").read_text()) for out in (one, other)]
    assert [result["measures"] for result in measured[0]] == [result["measures"] for result in measured[1]]


@pytest.fixture
def machines() -> Iterator[list[tuple[list[str], str, str]]]:
    """Two machines: words that run a command there, the address, the network interface."""
    ip = shutil.which("ip")
    names = [f"attnbias{os.getpid()}{side}" for side in "ab"]
    links = [f"ab{os.getpid() % 100_000}{side}" for side in "ab"]
    commands = [
        f"netns add {names[0]}",
        f"netns add {names[1]}",
        f"link add {links[0]} netns {names[0]} type veth peer name {links[1]} netns {names[1]}",
    ]
    for name, link, address in zip(names, links, ("10.77.0.1", "10.77.0.2"), strict=True):
        commands += [f"-n {name} addr add {address}/24 dev {link}", f"-n {name} link set {link} up"]
        commands += [f"-n {name} link set lo up"]
    made = ip and all(subprocess.run([ip, *line.split()], capture_output=True).returncode == 0 for line in commands)
    try:
        if made:
            places = zip(names, ("10.77.0.1", "10.77.0.2"), links, strict=True)
            yield [([str(ip), "netns", "exec", name], address, link) for name, address, link in places]
        else:  # two addresses of this machine
            yield [([], "127.0.0.1", "lo"), ([], "127.0.0.2", "lo")]
    finally:
        for name in names if ip else ():
            subprocess.run([str(ip), "netns", "del", name], capture_output=True)


def on_both(machines: list[tuple[list[str], str, str]], *words: Any, rendezvous: str) -> list[subprocess.Popen[str]]:
    """torchrun with one process on each machine."""
    meet = ["--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-id", rendezvous]
    meet += ["--rdzv-endpoint", f"{machines[0][1]}:29400"]
    started = []
    for first, (enter, address, link) in zip((1, 0), machines, strict=True):
        # They meet at the first one: told here, as a machine's name does not lead to its address.
        here = ["--rdzv-conf", f"is_host={first}", "--local-addr", address]
        started.append(call([*enter, *TORCHRUN, *meet, *here, "-m", "attnbias", *words], GLOO_SOCKET_IFNAME=link))
    return started


@pytest.mark.slow
def test_two_machines_are_as_one(
    machines: list[tuple[list[str], str, str]], demo_root: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = done(*on_both(machines, *RUN, "--data-root", demo_root, "--out", out, rendezvous="train"))
    assert sum("evaluate it: attnbias val csra" in text for text in said) == 1  # one of them speaks
    same_run(out, alone)
    done(*on_both(machines, *evaluation(out, demo_root), rendezvous="val"))
    same_evaluation(out, alone)


@pytest.mark.slow
def test_machines_that_share_no_disk_do_not_resume_from_different_steps(
    machines: list[tuple[list[str], str, str]], demo_root: Path, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(alone, tmp_path / "a")
    words = [*RUN, "--data-root", demo_root, "--resume", "auto", "--out"]
    port = free_port()
    both = [
        call(
            [sys.executable, "-m", "attnbias", *words, tmp_path / name],
            **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank, name in enumerate("ab")
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1], said
    for text in said:
        assert "find step 0 in" in text
        assert "others step 8; a run on several machines needs its folder on a disk that they share" in text


@pytest.mark.slow
def test_accelerate_launch_is_as_our_own(demo_root: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", 2, "--main_process_port"]
    ready = [*launch, free_port(), "--multi_gpu", "-m", "attnbias"]  # torchrun underneath; --gpus 0 keeps to the CPU
    done(call([*ready, *RUN, "--data-root", demo_root, "--out", out]))
    same_run(out, alone)


@pytest.mark.slow
def test_tasks_of_slurm_are_as_our_own(demo_root: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    host = socket.gethostname()
    words = [sys.executable, "-m", "attnbias", *RUN, "--data-root", demo_root, "--out", out]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost," + host}
    done(*(call(words, **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)))
    same_run(out, alone)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node[03-05,9],other", "node03"),
        ("gpu-a-1,gpu-a-2", "gpu-a-1"),
        ("rack1-[12]", "rack1-12"),
        ("a.site.org,b.site.org", "a.site.org"),
    ],
)
def test_slurms_first_node_is_where_all_meet(nodes: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbias.methods.engine.launch import world

    told = {"STEP_NUM_TASKS": "8", "STEP_NODELIST": nodes, "LOCALID": "3", "PROCID": "7", "JOB_ID": "1234567"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # to be taken back
        monkeypatch.delenv(name)
    assert world(0, None, 0) == (True, 8)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, "24567")
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("7", "8")
