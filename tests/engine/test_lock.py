"""A folder that a process writes into is held by it alone, and free again however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnbias.data.errors import DataError
from attnbias.data.lock import only_writer

KILLED_WITH_A_FORK_LEFT = """
import os, sys, time
from pathlib import Path
from attnbias.data.lock import only_writer

with only_writer(Path(sys.argv[1])):
    if (child := os.fork()) == 0:
        os.close(1)
        time.sleep(600)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_forked_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WITH_A_FORK_LEFT, str(tmp_path)]
    child = int(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    try:
        os.kill(child, 0)  # it lives
        with only_writer(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_folder_is_held_once_and_free_after_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def fail() -> None:
        with only_writer(folder):
            with pytest.raises(DataError, match="another process is at work in"), only_writer(folder):
                pass
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()


def test_a_lock_file_that_is_removed_while_held_lets_the_next_one_in(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        (tmp_path / ".lock").unlink()
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").is_file()
