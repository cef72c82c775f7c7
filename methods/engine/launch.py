"""Processes: start as many as asked for on this machine, or join those that torchrun, Accelerate or Slurm started."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from attnbias.data.cores import available_cores
from attnbias.errors import AttnbiasError
from attnbias.methods.engine.describe import describe
from attnbias.methods.engine.devices import (
    MPS,
    asked_device,
    check_cards,
    check_own,
    check_present,
    gpus_of,
    pick,
    present,
)
from attnbias.methods.engine.errors import Interrupted, RunError, UsageError
from attnbias.methods.engine.kernels import check_amp, compute_exactly, resolved_amp
from attnbias.methods.engine.recipe import override
from attnbias.methods.engine.requests import Machine, MixedPrecision, Processes, TrainRequest
from attnbias.methods.engine.screen import prepare_output, say
from attnbias.methods.engine.variables import check_told, check_variables

MOST_WORKERS = 16
"""Loader processes for each process of training: more of them wait for the disk."""
PEER_GRACE = 10.0
"""Seconds that a process which lost another one waits before it speaks."""


def world(gpus: int | None, processes: int | None, seen: int) -> tuple[bool, int]:
    """(on the CPU?, number of processes) for what a person asked for, or an outer launcher started, where `seen` GPUs
    are.

    Raises:
        UsageError: more GPUs than there are, or numbers that contradict each other or an outer launcher.
    """
    _join_slurm(seen)
    outer = int(os.environ.get("WORLD_SIZE", "1"))
    if gpus is None:
        gpus = 0 if seen == 0 or processes is not None else max(1, min(outer, seen))
    if outer == 1:
        check_present(gpus, seen)
    if outer > 1:
        check_own(gpus, seen)
        if processes not in (None, outer):
            raise UsageError(f"--processes {processes} asked for under a launcher that started {outer}; leave it out")
        return gpus == 0, outer
    if gpus and processes not in (None, gpus):
        raise UsageError(f"--processes {processes} contradicts --gpus {gpus}: one process a GPU; leave --processes out")
    return gpus == 0, gpus or processes or 1


def _check_alone() -> None:
    """Refuse the processes of an outer launcher, where a command has but one: each would write the same files."""
    launched = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1")
    if launched > 1 and not is_main():
        sys.exit(UsageError.exit_code)  # the first process says why
    if launched > 1:
        raise UsageError(f"this command runs in one process, and a launcher started {launched}; start it by itself")


M = TypeVar("M", bound=Machine)


def place(request: M) -> M:
    """Fill in what the machine decides where the person did not: GPUs, device, processes and loader workers. A placed
    request stays as it is.

    Raises:
        UsageError: there is no such device or precision, or the numbers contradict each other or an outer launcher, or
            one of the environment is none.
    """
    check_variables()
    filled: dict[str, object] = {"cards": ()}
    if request.cards:
        pick(request.cards)
    gpus, device = request.gpus, asked_device(request)
    if device is not None:
        gpus = gpus_of(device, gpus)
    seen = present(device)
    if isinstance(request, Processes):
        cpu, count = world(gpus, request.processes, seen)
        filled["processes"] = count
    else:
        _check_alone()
        check_present(gpus or 0, seen)
        cpu, count = not (torch.cuda.is_available() if gpus is None else gpus), 1
    shared = count > 1 or (cpu and isinstance(request, Processes))
    if shared and device not in (None, "cpu", "cuda", MPS):
        raise UsageError(f"--device {device} is for one process on a GPU; use --gpus, or cpu or cuda")
    filled["gpus"] = 0 if cpu else min(count, seen)
    filled["device"] = device or ("cpu" if cpu else "cuda")
    if request.workers is None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", count))  # an outer launcher may have started others elsewhere
        # On a CPU the model needs its cores.
        filled["workers"] = 0 if cpu else min(MOST_WORKERS, available_cores() // here)
    there = torch.device(str(filled["device"]))
    if isinstance(request, MixedPrecision):
        check_amp(request.amp, there)
        filled["amp"] = resolved_amp(request.amp, there)
    if isinstance(request, TrainRequest):
        filled["recipe"] = override(request.recipe, {"amp": resolved_amp(request.recipe.amp, there)})
    return request.model_copy(update=filled)


def check_machine(request: Machine) -> None:
    """Refuse a request that this machine cannot place; this process sees all of its GPUs as before.

    Raises:
        UsageError: as `place`.
    """
    check_cards(request.cards)
    place(request.model_copy(update={"cards": ()}))


def gpus_of_runs(request: Processes) -> tuple[list[str], int]:
    """The GPUs that runs side by side may see, by what CUDA calls them, and how many each takes.

    Raises:
        UsageError: cards are named, which runs side by side cannot all have.
    """
    if request.cards:
        typed = ",".join(map(str, request.cards))
        raise UsageError(f"--gpus {typed} names cards; with --jobs set CUDA_VISIBLE_DEVICES={typed}, and --gpus 1")
    each = place(request).gpus or 0
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (seen.split(",") if seen else [str(n) for n in range(torch.cuda.device_count())]), each


def start(request: Machine) -> torch.device:
    """Set this process up as a placed request says: its threads and its device, which is returned."""
    if request.threads:
        torch.set_num_threads(request.threads)
    device = torch.device(request.device or "cpu")
    if device.type == "cuda":
        compute_exactly()
    if device.type == MPS and is_main():
        say("warning: nothing was ever tried on Apple's GPUs; --device cpu is what was tried", error=True)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def accelerate(request: Machine, **how: Any) -> Accelerator:
    """Start Accelerate for this process of a placed request; `how` is of Accelerator."""
    start(request)
    if not torch.distributed.is_initialized():
        # An earlier command of this process, as in a notebook, may have had another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        for by in ("WORLD_SIZE", "LOCAL_RANK"):  # by each of them Accelerate joins others
            if by in os.environ and (by == "LOCAL_RANK" or int(os.environ[by]) > 1):
                check_told(by, "RANK", "MASTER_ADDR", "MASTER_PORT")
    return Accelerator(cpu=request.gpus == 0, **how)


def _join_slurm(gpus: int) -> None:
    """Say of the tasks that `srun` started what torchrun would say: their number, this one's, and where they meet."""
    environment = os.environ
    if "WORLD_SIZE" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    told = ("SLURM_STEP_NODELIST", "SLURM_LOCALID", "SLURM_PROCID", "SLURM_JOB_ID")
    check_told("SLURM_STEP_NUM_TASKS", *told)
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])  # node[03-05,9],other -> node03
    assert first is not None
    local = int(environment["SLURM_LOCALID"])
    environment.update(
        WORLD_SIZE=environment["SLURM_STEP_NUM_TASKS"],
        RANK=environment["SLURM_PROCID"],
        LOCAL_RANK=str(local % gpus if gpus else local),  # a task may have been given its GPU alone
        MASTER_ADDR=first[1] + (first[2] or ""),
        MASTER_PORT=str(20_000 + int(environment["SLURM_JOB_ID"]) % 10_000),
    )


class Ended(NamedTuple):
    """How a job ended."""

    code: int = 0
    """The exit code."""
    words: str = ""
    """What is said of a failure."""
    kind: str = ""
    """Which kind of AttnbiasError it was (errors.py); empty of any other error."""


def launch(worker: Callable[[str], None], request: Processes) -> int:
    """Run `worker` on the JSON of a placed request, in its processes, and return an exit code; say what went wrong."""
    ended = _call(worker, request.to_json()) if runs_here(request) else in_processes(worker, request)
    if ended.words:
        say(*ended.words.rstrip("\n").split("\n"), error=True)
    return ended.code


def runs_here(request: Processes) -> bool:
    """Whether a placed request is for this process: it is the only one, or an outer launcher's (WORLD_SIZE is set)."""
    return (request.processes or 1) == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1


def in_processes(worker: Callable[[str], None], request: Processes) -> Ended:
    """Run `worker` on the JSON of a placed request, in processes of its own.

    torch's elastic launcher spawns them with a free port; the words are those of the first process that failed, and no
    process is left behind. `shutdown_timeout` is known to PyTorch from 2.12 on (its pull request 172596); older ones
    wait for 30 seconds.
    """
    job, processes = request.to_json(), request.processes or 1
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they warn of is said once, in our words
    threads = max(1, available_cores() // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(request.shutdown_timeout)
    with tempfile.TemporaryDirectory(prefix="attnbias-") as reports:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            run_id=f"attnbias-{os.getpid()}",
            start_method="spawn",
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(reports),  # or torch leaves a folder in the system's place for such files
        )
        try:
            elastic_launch(config, _spawned)(worker, job, reports, processes)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            silent = _ended(failure.exitcode)
            if failure.exitcode == -signal.SIGKILL:  # what the others say only follows from it
                return silent
            return _reported(Path(reports)) or silent
        except SignalException as stop:
            return _reported(Path(reports)) or Ended(*describe(Interrupted(int(stop.sigval))))
    return Ended()


def _reported(reports: Path) -> Ended | None:
    """What the first process that failed said; None where none spoke."""
    written = sorted(reports.glob("*.txt"), key=lambda path: path.stat().st_mtime_ns)
    if not written:
        return None
    code, kind, words = written[0].read_text(encoding="utf-8").split("\n", 2)
    return Ended(int(code), words, kind)


def _ended(exit_code: int) -> Ended:
    """What is said of a process that ended without a word."""
    how = f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return Ended(1, f"error: a process {how}; the others were stopped")


def _spawned(worker: Callable[[str], None], job: str, reports: str, processes: int) -> None:
    prepare_output()
    if int(os.environ["WORLD_SIZE"]) != processes:
        raise RunError(f"{os.environ['WORLD_SIZE']} processes were started, {processes} were asked for")
    report = Path(reports) / f"{os.environ['RANK']}.txt"
    code, words, kind = _call(worker, job, waits=True)
    if code:
        report.write_text(f"{code}\n{kind}\n{words.rstrip()}\n", encoding="utf-8")
        # Not sys.exit: a process that failed must not wait for the others in an exit handler of torch.distributed.
        sys.stdout.flush()
        os._exit(code)


def _call(worker: Callable[[str], None], job: str, *, waits: bool = False) -> Ended:
    """Do a job in this process; `waits` where others may be the cause of a failure, and shall speak first."""
    try:
        worker(job)
    except BaseException as error:
        if waits and re.search(r"by peer|remote process|broken pipe|connection reset", str(error), re.IGNORECASE):
            # Another process ended and this one only noticed: the launcher finds the cause first and ends this one.
            time.sleep(PEER_GRACE)
        kind = next((each.__name__ for each in type(error).__mro__ if each.__base__ is AttnbiasError), "")
        return Ended(*describe(error), kind)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return Ended()


def is_main() -> bool:
    """Tell whether this process is the first, or the only one, of its command."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
