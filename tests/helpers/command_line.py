"""The command line in this process: what a person would see and the exit code, without the cost of a new process."""

from __future__ import annotations

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from attnbias.cli.app import main

OUTER = ("ATTNBIAS_DEBUG", "ATTNBIAS_DATA", "WORLD_SIZE", "RANK")
"""What the tests' own environment must not decide."""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error that a failed command may print."""
        assert self.code != 0, self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def attnbias(*arguments: Any, expect: int | None = None, cwd: Path | str = ".") -> Result:
    """Run `attnbias ARGUMENTS` in a folder; `expect` is the exit code that it must end with."""
    out, err = io.StringIO(), io.StringIO()
    environment = {name: value for name, value in os.environ.items() if name not in OUTER} | {"COLUMNS": "500"}
    with (
        chdir(cwd),
        mock.patch.object(sys, "argv", ["attnbias", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment, clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    result = Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())
    assert expect is None or result.code == expect, f"exit code {result.code}\n{result.out}\n{result.err}"
    return result


def typed(name: str, value: Any) -> str:
    """What a person types for a field of a recipe."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    if isinstance(value, tuple):
        value = ",".join(map(str, value)) or "none"
    return f"--{flag}={'none' if value is None else value}"
