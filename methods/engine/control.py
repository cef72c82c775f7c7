"""Stopping well: signals, and decisions that all processes of a run must take together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import distributed

from attnbias.methods.engine.errors import Stopped

T = TypeVar("T")


class Control:
    """What this process was asked to do, and what all processes agree on.

    Agreement goes over a gloo group on the CPU, so that it never waits for a GPU.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._first_signal = 0.0
        distributed_run = (
            distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        )
        self._group: Any = distributed.new_group(backend="gloo") if distributed_run else None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM within the block: the first one is noted, a second one ends the process at once."""
        kept = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # The launcher forwards a terminal's Ctrl-C to processes that got it already: within a second it is the same.
        if self.signal_number and now - self._first_signal > 1.0:
            os._exit(128 + number)
        if not self.signal_number:
            self.signal_number, self._first_signal = number, now

    def agree(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over all processes; the signal noted so far is the first of the result."""
        mine = [self.signal_number, *values]
        if self._group is None:
            return tuple(mine)
        shared = torch.tensor(mine)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX, group=self._group)
        return tuple(shared.tolist())

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; anything that can be pickled."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * distributed.get_world_size(self._group)
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def raise_if_stopped(self) -> None:
        """Raise Stopped, in every process alike, when any process was asked to stop."""
        (number,) = self.agree()
        if number:
            raise Stopped(number)
