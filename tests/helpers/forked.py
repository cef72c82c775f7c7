"""The command line in processes forked from one that has imported everything: a start costs 0.1 s instead of five.

A run of several processes is told so by the environment, as torchrun would tell it. Where a command starts processes
of its own (`--processes 2`), torch's launcher forks them as well instead of spawning them; all else is as it is.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.distributed.launcher.api import LaunchConfig

from attnbias.methods import METHODS

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("attnbias.cli.app", "attnbias.methods.engine.training.train", "attnbias.methods.engine.validate"),
        *(f"{package}.method" for package in METHODS.values()),
        "tests.helpers.frozen",
    ]
)


class ForkedRun:
    """`attnbias ARGUMENTS` in some processes, each leading a group of its own; their words go to `log`."""

    def __init__(self, arguments: Sequence[Any], log: Path, processes: int = 1) -> None:
        self.log = log
        port = free_port()
        self.processes = [
            FORKS.Process(target=enter, args=([*map(str, arguments)], log, rank, processes, port))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()
        atexit.register(self.kill)  # whatever a failed test left behind would be waited for

    @property
    def pid(self) -> int:
        """Of the first process, which is the launcher where the command starts its processes itself."""
        return self.processes[0].pid or 0

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def wait(self, limit: float = 120) -> list[int | None]:
        """Exit codes, once all have ended."""
        deadline = time.monotonic() + limit
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def wait_until(self, condition: Callable[[], bool], pause: float = 0.0005) -> bool:
        """Wait for a condition; false where the run ended before."""
        while self.alive:
            if condition():
                return True
            time.sleep(pause)
        return False

    def kill(self) -> None:
        """End all of it at once, loader processes too, as a power cut would."""
        for process in self.processes:
            try:
                os.killpg(process.pid or 0, signal.SIGKILL)  # its loaders too, where it has ended before them
            except ProcessLookupError:
                process.kill()  # before it led a group, or nobody is left of it
        self.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def forking(**settings: Any) -> LaunchConfig:
    """The settings of torch's launcher, which then forks its processes instead of spawning them."""
    return LaunchConfig(**settings | {"start_method": "fork"})


def enter(arguments: list[str], log: Path, rank: int, processes: int, port: int) -> None:
    """Be one process of a command, as a launcher would start it."""
    from attnbias.cli.app import main
    from attnbias.methods.engine import launch

    os.setsid()
    launch.LaunchConfig = forking
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as in a run that was not forked
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if processes > 1:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({name: str(value) for name, value in told.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sys.argv = ["attnbias", *arguments]
    main()
