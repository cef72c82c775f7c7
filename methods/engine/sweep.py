"""Several runs by one command: `train --seeds 0,1,2 --grid lam=0,0.5`, a folder for each, named by what differs.

Each run is a command line of its own, in a process of its own: it is killed, resumed and reproduced like any other. No
torch.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from attnbias.data.cores import available_cores
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.screen import say

POLL = 0.2
"""Seconds between looks at runs that go on side by side."""

LOGS = "logs"
"""Folder beside the runs for what they print, where several go on at once."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    words: tuple[str, ...]
    """Its command line behind `attnbias`."""
    out: Path

    @property
    def log(self) -> Path:
        """Where it prints to while others go on beside it."""
        return self.out.parent / LOGS / f"{self.out.name}.log"


def points(grid: Sequence[str], seeds: str | None) -> list[dict[str, str]]:
    """Every combination of what was typed, field -> value: those of `grid`, such as "lam=0,0.5", then of the seeds.

    Raises:
        UsageError: a field without values, or a field or a value that stands twice.
    """
    asked = [each.partition("=")[::2] for each in grid] + ([] if seeds is None else [("seed", seeds)])
    axes: dict[str, list[str]] = {}
    for name, text in asked:
        field = name.strip().lstrip("-").replace("-", "_")
        values = [value.strip() for value in text.split(",") if value.strip()]
        option = "--seeds" if (name, text) == ("seed", seeds) else f"--grid {name}"
        if not field or not values:
            form = "values" if name == "seed" else "FIELD=VALUE,VALUE, such as lam=0,0.5"
            raise UsageError(f"{option}: expected {form}")
        if field in axes or len({*values}) < len(values):
            raise UsageError(f"{option}: {'the field' if field in axes else 'a value'} stands twice")
        axes[field] = values
    return [dict(zip(axes, each, strict=True)) for each in product(*axes.values())]


def flags(point: Mapping[str, str]) -> list[str]:
    """The options that set the fields of a point."""
    words: list[str] = []
    for field, value in point.items():
        flag = field.replace("_", "-")
        if value in ("true", "false"):
            words.append(f"--{'' if value == 'true' else 'no-'}{flag}")
        else:
            words.append(f"--{flag}={value}")
    return words


def check_apart(requests: Sequence[TrainRequest]) -> None:
    """Refuse runs of which two are the same, such as those of lam=0,0.0, or go into one folder.

    Raises:
        UsageError: there are two such runs.
    """
    seen: dict[str, Path] = {}
    for request in requests:
        run = request.model_copy(update={"out": Path()}).to_json()
        if run in seen:
            raise UsageError(f"two of these runs are the same, of {request.out}; give each value once")
        if request.out in seen.values():
            raise UsageError(f"two of these runs would go into {request.out}; give each its folder: --out DIR")
        seen[run] = request.out


def without(words: Sequence[str], *options: str) -> list[str]:
    """A command line without these options, which take a value each; that of a short one may be glued to it (-oDIR)."""
    short = tuple(option for option in options if not option.startswith("--"))
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in options:
            list(islice(rest, 1))  # its value
        elif word.split("=")[0] not in options and not word.startswith(short):
            kept.append(word)
    return kept


@dataclass(frozen=True)
class Place:
    """Where a run of a sweep goes on."""

    jobs: int
    """Runs that go on at once."""
    devices: tuple[str, ...] = ()
    """GPUs that it sees; all where none are named."""


def places(jobs: int, gpus: Sequence[str], each: int) -> list[Place]:
    """A place for every run that goes on at once: with as many GPUs of its own as each takes, or one that is shared.

    Raises:
        UsageError: there are too few GPUs.
    """
    if jobs == 1 or not each:
        return [Place(jobs)] * jobs
    if each > 1 and jobs * each > len(gpus):
        raise UsageError(f"--jobs {jobs} with --gpus {each} needs {jobs * each} GPUs, and there are {len(gpus)}")
    return [
        Place(jobs, tuple(gpus[n % len(gpus)] for n in range(slot * each, (slot + 1) * each))) for slot in range(jobs)
    ]


def run_all(runs: Sequence[PlannedRun], where: Sequence[Place]) -> int:
    """Do the runs, one at each place at a time; return the first exit code that is not 0.

    A run that fails does not stop the others. A signal stops all, in good order, and none is left behind.

    Raises:
        Interrupted: a signal asked to stop. The runs have saved, and --resume auto goes on with them.
    """
    side_by_side = f"{len(where)} at once, printing to {LOGS}/ beside their folders"
    how = "one after the other" if len(where) == 1 else side_by_side
    say(f"{len(runs)} runs, {how}:", *(f"  {run.out}" for run in runs))
    waiting, codes = list(enumerate(runs, start=1)), dict[int, int]()
    going: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
    with ExitStack() as files:
        try:
            while waiting or going:
                for slot in [slot for slot in range(len(where)) if slot not in going][: len(waiting)]:
                    number, run = waiting.pop(0)
                    say(f"run {number} of {len(runs)}: {shlex.join(['attnbias', *run.words])}")
                    going[slot] = number, _begin(run, where[slot], files)
                time.sleep(POLL)
                for slot in [slot for slot, (_, process) in going.items() if process.poll() is not None]:
                    number, process = going.pop(slot)
                    codes[number] = process.returncode
                    _report(number, runs, process.returncode, logged=len(where) > 1)
        finally:
            _stop([process for _, process in going.values()])
    failed = [runs[number - 1].out for number in sorted(codes) if codes[number]]
    if failed:
        say(f"{len(failed)} of {len(runs)} runs failed: {', '.join(map(str, failed))}", error=True)
    elif len(runs) > 1 and all(run.out.is_dir() for run in runs):  # of a dry run there are none
        say(f"compare them: attnbias compare {shlex.join(str(run.out) for run in runs)}")
    return next((codes[number] for number in sorted(codes) if codes[number]), 0)


def _begin(run: PlannedRun, place: Place, files: ExitStack) -> subprocess.Popen[bytes]:
    """Start a run. Beside others it prints into a file and has its share of the cores, and of the GPUs."""
    command, environment = [sys.executable, "-m", "attnbias", *run.words], dict(os.environ)
    sys.stdout.flush()
    if place.jobs == 1:
        return subprocess.Popen(command)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // place.jobs)))
    if place.devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.devices)
    run.log.parent.mkdir(parents=True, exist_ok=True)
    log = files.enter_context(run.log.open("ab"))
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _report(number: int, runs: Sequence[PlannedRun], code: int, *, logged: bool) -> None:
    run = runs[number - 1]
    if code == 0:
        say(f"run {number} of {len(runs)} is done: {run.out}")
        return
    lines = run.log.read_text("utf-8", "replace").splitlines() if logged else []
    say(f"run {number} of {len(runs)} ended with exit code {code}{': ' + lines[-1] if lines else ''}", error=True)


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask runs to save and end, and wait until they have."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
