"""Stopping well: signals, and decisions that all processes of a run must take together."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import distributed

from attnbias.methods.engine.errors import Stopped

T = TypeVar("T")

SAME = 1.0
"""Seconds in which a second signal is the first one again: the launcher forwards a terminal's Ctrl-C to processes that
got it already."""
END = 0
"""No signal's number: what ends the thread that reads them."""


class Control:
    """What this process was asked to do, and what all processes agree on.

    Agreement goes over a gloo group on the CPU, so that it never waits for a GPU.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._watching = False
        distributed_run = (
            distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        )
        self._group: Any = _group_over_cpus() if distributed_run else None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM within the block: the first one is noted, a second one ends the process at once.

        Python runs a handler only between two steps of the main thread, which may wait in a collective for ever; so a
        thread of its own reads which signals arrive (`signal.set_wakeup_fd`) and acts on the second. Outside of the
        main thread, where Python hands out no signals, the block is left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        arrived, arrives = os.pipe()
        os.set_blocking(arrives, False)
        before = signal.set_wakeup_fd(arrives, warn_on_full_buffer=False)
        self._watching = True
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=_exit_at_second, args=(arrived,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            self._watching = False
            signal.set_wakeup_fd(before)
            os.write(arrives, bytes([END]))
            os.close(arrives)
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = self.signal_number or number

    def _forget(self) -> None:
        """In a forked process, such as a loader's: what it is sent is not a signal to this one."""
        if self._watching:
            with contextlib.suppress(ValueError):  # forked by another thread than the main one
                signal.set_wakeup_fd(-1)

    def agree(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over all processes; the signal noted so far is the first of the result."""
        mine = [self.signal_number, *values]
        if self._group is None:
            return tuple(mine)
        shared = torch.tensor(mine)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX, group=self._group)
        return tuple(shared.tolist())

    def gather(self, value: T, *, everywhere: bool = True) -> list[T]:
        """The values of all processes, in the order of their ranks; anything that can be pickled. Where not
        `everywhere`, only the main process gets them, and the others none."""
        if self._group is None:
            return [value]
        values = [value] * distributed.get_world_size(self._group)
        if everywhere:
            distributed.all_gather_object(values, value, group=self._group)
            return values
        main = distributed.get_rank() == 0
        distributed.gather_object(value, values if main else None, dst=0, group=self._group)
        return values if main else []

    def join(self, values: list[T], *, everywhere: bool = True) -> list[T]:
        """The lists of all processes, one behind the other; `everywhere` as in `gather`."""
        return [value for each in self.gather(values, everywhere=everywhere) for value in each]

    def raise_if_stopped(self) -> None:
        """Raise Stopped, in every process alike, when any process was asked to stop."""
        (number,) = self.agree()
        if number:
            raise Stopped(number)


@cache
def _group_over_cpus() -> Any:
    """One for all of a process's work: making one waits for every process, whatever becomes of it meanwhile."""
    return distributed.new_group(backend="gloo")


def _exit_at_second(arrived: int) -> None:
    """Read the numbers of signals as they arrive; end the process at the second one."""
    first: float | None = None
    while (number := (os.read(arrived, 1) or bytes([END]))[0]) != END:
        now = time.monotonic()
        if number not in (signal.SIGINT, signal.SIGTERM):
            continue
        if first is None:
            first = now
        elif now - first > SAME:
            os._exit(128 + number)
    os.close(arrived)
